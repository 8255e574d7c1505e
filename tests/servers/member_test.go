//go:build servers

package servers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/alone"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// process is a program that runs, and is killed at the end of the test.
type process struct {
	t       testing.TB
	command *exec.Cmd
	output  *output
	exited  chan struct{}
}

// output keeps the end of what a program prints.
type output struct {
	mu   sync.Mutex
	text []byte
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	o.text = o.text[max(0, len(o.text)-4000):]
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}

func start(t testing.TB, program string, arguments ...string) *process {
	t.Helper()
	p := &process{t: t, command: exec.Command(program, arguments...), output: &output{}, exited: make(chan struct{})}
	p.command.Stdout, p.command.Stderr = p.output, p.output
	p.command.WaitDelay = 5 * time.Second // a child may hold them longer
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.command.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.signal(syscall.SIGKILL)
		<-p.exited
		if t.Failed() {
			t.Logf("the end of what %s printed:\n%s", filepath.Base(program), p.output)
		}
	})
	return p
}

func (p *process) signal(s os.Signal) { _ = p.command.Process.Signal(s) }

// end ends the program with a signal, and waits for it.
func (p *process) end(s os.Signal) {
	p.t.Helper()
	p.signal(s)
	select {
	case <-p.exited:
	case <-time.After(30 * time.Second):
		p.t.Fatalf("%s does not end", p.command.Path)
	}
}

// member is one etcd, with ports and a directory that it comes back with.
type member struct {
	*process
	t         testing.TB
	version   string
	name      string
	client    string // host:port
	peer      string
	directory string
	arguments []string
}

// newMember starts one member that is alone.
func newMember(t testing.TB, version string, arguments ...string) *member {
	t.Helper()
	return newCluster(t, version, 1, arguments...)[0]
}

// newCluster starts members, and waits until they serve.
func newCluster(t testing.TB, version string, size int, arguments ...string) (members []*member) {
	t.Helper()
	addresses := freeAddresses(t, 2*size)
	cluster := make([]string, size)
	for i := range size {
		m := &member{t: t, version: version, name: fmt.Sprint("m", i), client: addresses[2*i], peer: addresses[2*i+1]}
		var err error
		if m.directory, err = os.MkdirTemp(memory, "etcd"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(m.directory) })
		cluster[i] = m.name + "=http://" + m.peer
		members = append(members, m)
	}
	for _, m := range members {
		m.arguments = append([]string{
			"--name", m.name, "--data-dir", filepath.Join(m.directory, "data"),
			"--listen-client-urls", "http://" + m.client, "--advertise-client-urls", "http://" + m.client,
			"--listen-peer-urls", "http://" + m.peer, "--initial-advertise-peer-urls", "http://" + m.peer,
			"--initial-cluster", strings.Join(cluster, ","),
		}, arguments...)
		m.start()
	}
	for _, m := range members {
		m.waitUntilItServes()
	}
	return members
}

func (m *member) start() {
	m.t.Helper()
	m.process = start(m.t, filepath.Join(programs, "etcd-"+m.version), m.arguments...)
}

// startAndServe starts a member that was ended.
func (m *member) startAndServe() {
	m.t.Helper()
	m.start()
	m.waitUntilItServes()
}

func (m *member) waitUntilItServes() {
	m.t.Helper()
	eventually(m.t, 30*time.Second, m.name+" serves", func() bool {
		select {
		case <-m.exited:
			m.t.Fatalf("etcd %s has ended", m.version)
		default:
		}
		return strings.Contains(m.get("/health"), `"true"`)
	})
}

// get returns what the member answers to a request over HTTP, or nothing.
func (m *member) get(path string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.client+path, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return ""
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return string(body)
}

// calls returns how many calls of a method of etcd's API the member has begun.
func (m *member) calls(method string) int {
	m.t.Helper()
	pattern := regexp.MustCompile(`(?m)^grpc_server_started_total\{[^}]*grpc_method="` + method + `"[^}]*\} (\S+)$`)
	total := 0.0
	for _, match := range pattern.FindAllStringSubmatch(m.get("/metrics"), -1) {
		n, err := strconv.ParseFloat(match[1], 64)
		if err != nil {
			m.t.Fatal(err)
		}
		total += n
	}
	return int(total)
}

// freeze stops the process where it is; its connections stand. thaw lets it go on.
func (m *member) freeze() { m.signal(syscall.SIGSTOP) }
func (m *member) thaw()   { m.signal(syscall.SIGCONT) }

// kill ends the member as a power failure does.
func (m *member) kill() {
	m.t.Helper()
	m.end(syscall.SIGKILL)
}

// wipe removes the store of a member that has ended.
func (m *member) wipe() {
	m.t.Helper()
	if err := os.RemoveAll(filepath.Join(m.directory, "data")); err != nil {
		m.t.Fatal(err)
	}
}

func endpoints(members []*member) (all []string) {
	for _, m := range members {
		all = append(all, m.client)
	}
	return all
}

// admin returns a clientv3 client for the members, which ends with the test.
func admin(t testing.TB, config clientv3.Config) *clientv3.Client {
	t.Helper()
	config.Logger, config.DialTimeout = zap.NewNop(), 5*time.Second
	cli, err := clientv3.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	return cli
}

// freeAddresses returns addresses that nobody else is given before the test's end.
func freeAddresses(t testing.TB, n int) (addresses []string) {
	t.Helper()
	for range n {
		addresses = append(addresses, alone.Port(t))
	}
	return addresses
}

// bridge stands between clients and a member, and can be cut.
type bridge struct {
	listener net.Listener
	target   string

	mu    sync.Mutex // guards all below
	isCut bool
	conns map[net.Conn]struct{}
}

func newBridge(t testing.TB, target string) *bridge {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{listener: listener, target: target, conns: map[net.Conn]struct{}{}}
	go b.accept()
	t.Cleanup(func() {
		_ = listener.Close()
		b.cut()
	})
	return b
}

func (b *bridge) endpoint() string { return b.listener.Addr().String() }

func (b *bridge) accept() {
	for {
		in, err := b.listener.Accept()
		if err != nil {
			return
		}
		go b.serve(in)
	}
}

func (b *bridge) serve(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", b.target)
	if err != nil || !b.add(in) {
		return
	}
	defer out.Close()
	go func() {
		_, _ = io.Copy(out, in)
		_ = out.Close()
	}()
	_, _ = io.Copy(in, out)
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, in)
}

func (b *bridge) add(in net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.isCut {
		return false
	}
	b.conns[in] = struct{}{}
	return true
}

// cut breaks all connections, and takes no new ones until mend.
func (b *bridge) cut() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.isCut = true
	for conn := range b.conns {
		_ = conn.Close()
	}
}

func (b *bridge) mend() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.isCut = false
}

// lines is a logger that keeps all lines, to be shown when the test fails.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Log(keyvals ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintln(&l.text, append([]any{time.Now().Format("05.000")}, keyvals...)...)
	return nil
}

func newLines(t testing.TB) *lines {
	l := &lines{}
	t.Cleanup(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if t.Failed() {
			t.Log("the log:\n" + l.text.String())
		}
	})
	return l
}
