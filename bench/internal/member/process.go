// Package member runs etcd members in processes of their own, and reads what they
// count. So what a client costs can be told from what the server costs.
package member

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/kitsd/etcdv3/internal/alone"
)

// Member is one etcd server in a process of its own.
type Member struct {
	Endpoint string // host:port
	control  string
	command  *exec.Cmd
	dir      string
}

// Options say how members are run.
type Options struct {
	NoFsync bool // do not wait for the disk, which is no part of what is measured
}

// Start runs one member, or several of one cluster. The program must call
// ServeIfAsked first.
func Start(n int, o Options) ([]*Member, error) {
	ports, err := freePorts(3 * n)
	if err != nil {
		return nil, err
	}
	var configs []config
	var initial []string
	for i := range n {
		c := config{
			Name: fmt.Sprintf("m%d", i), NoFsync: o.NoFsync,
			Client: "http://" + ports[3*i], Peer: "http://" + ports[3*i+1], Control: ports[3*i+2],
		}
		configs = append(configs, c)
		initial = append(initial, c.Name+"="+c.Peer)
	}
	var members []*Member
	for _, c := range configs {
		c.Initial = strings.Join(initial, ",")
		m, err := begin(c)
		if err != nil {
			Stop(members)
			return nil, err
		}
		members = append(members, m)
	}
	for _, m := range members {
		if err := m.wait(); err != nil {
			Stop(members)
			return nil, err
		}
	}
	return members, nil
}

// Stop ends members, and deletes what they stored.
func Stop(members []*Member) {
	for _, m := range members {
		_ = m.command.Process.Kill() // to end in order would wait for every client
		_ = m.command.Wait()
		_ = os.RemoveAll(m.dir)
	}
}

// Address names a member to another process, which can Attach to it.
func (m *Member) Address() string { return m.Endpoint + "," + m.control }

// Attach returns a member that another process has begun, and will stop.
func Attach(address string) (*Member, error) {
	endpoint, control, ok := strings.Cut(address, ",")
	if !ok {
		return nil, fmt.Errorf("%q is no address of a member", address)
	}
	return &Member{Endpoint: endpoint, control: control}, nil
}

// Endpoints are those of all members.
func Endpoints(members []*Member) (all []string) {
	for _, m := range members {
		all = append(all, m.Endpoint)
	}
	return all
}

func begin(c config) (*Member, error) {
	dir, err := os.MkdirTemp("", "etcdv3-bench")
	if err != nil {
		return nil, err
	}
	c.Dir = dir
	said, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	m := &Member{
		Endpoint: strings.TrimPrefix(c.Client, "http://"), control: c.Control, dir: dir,
		command: exec.Command(self),
	}
	m.command.Env = append(os.Environ(), environment+"="+string(said))
	m.command.Stderr = os.Stderr
	if _, err = m.command.StdinPipe(); err != nil { // which ends when this process does
		return nil, err
	}
	return m, m.command.Start()
}

// wait returns when the member serves.
func (m *Member) wait() error {
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) {
		if _, err := m.do("/cpu", nil); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return errors.New("the member did not come up within a minute")
}

// freePorts are addresses that nobody else is given while this process lives.
func freePorts(n int) (all []string, err error) {
	for range n {
		address, _, err := alone.NewPort()
		if err != nil {
			return nil, err
		}
		all = append(all, address)
	}
	return all, nil
}

// Populate has the member write n instances under a prefix, from the one with
// the number from.
func (m *Member) Populate(prefix string, from, n int) error {
	_, err := m.do("/populate", url.Values{"prefix": {prefix}, "from": {strconv.Itoa(from)}, "n": {strconv.Itoa(n)}})
	return err
}

// Burst has it make n changes, as many at a time as there are writers, to
// instances of the standing ones. The last is to the instance n%standing.
func (m *Member) Burst(prefix, version string, n, standing, writers int) error {
	_, err := m.do("/burst", url.Values{
		"prefix": {prefix}, "value": {version}, "n": {strconv.Itoa(n)},
		"standing": {strconv.Itoa(standing)}, "writers": {strconv.Itoa(writers)},
	})
	return err
}

// Clear has it delete everything under a prefix.
func (m *Member) Clear(prefix string) error {
	_, err := m.do("/clear", url.Values{"prefix": {prefix}})
	return err
}

// CPU is the processor time that the member has used.
func (m *Member) CPU() (time.Duration, error) {
	said, err := m.do("/cpu", nil)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(said, 10, 64)
	return time.Duration(n), err
}

// Memory is the bytes of its heap and stacks that are in use, without garbage.
func (m *Member) Memory() (float64, error) {
	said, err := m.do("/memory", nil)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(said, 64)
}

func (m *Member) do(path string, values url.Values) (string, error) {
	return get("http://" + m.control + path + "?" + values.Encode())
}

// get is one HTTP request, on a connection of its own so that none stays.
func get(url string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}
