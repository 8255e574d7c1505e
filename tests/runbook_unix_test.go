//go:build unix

package tests

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
)

func init() {
	troubles = append(troubles, trouble{
		"process stands still", []string{`msg="registration lost" err=...`, `action=register msg="registered again"`, "lease lost"}, standsStill,
	})
}

// runbookEtcd is the variable with the endpoint for a process that registers.
const runbookEtcd = "ETCDV3_RUNBOOK_ETCD"

// TestRunbook_Process is no test but the process of one: it registers a service,
// follows the prefix, and prints what is recorded until it is killed.
func TestRunbook_Process(t *testing.T) {
	endpoint := os.Getenv(runbookEtcd)
	if endpoint == "" {
		t.Skip("it is the process that TestRunbook stops")
	}
	s := &scene{T: t}
	c, err := etcdv3.NewClient(context.Background(), []string{endpoint}, etcdv3.ClientOptions{Metrics: s.metrics()})
	if err != nil {
		t.Fatal(err)
	}
	s.register(c, "/s/1", "v")
	if _, err := etcdv3.NewInstancer(c, "/s/", &s.recorded); err != nil {
		t.Fatal(err)
	}
	told := 0
	for range time.Tick(20 * time.Millisecond) {
		lines := s.all()
		if len(lines) == told {
			continue
		}
		time.Sleep(20 * time.Millisecond) // what was counted with these lines
		s.mu.Lock()
		values := maps.Clone(s.values)
		s.mu.Unlock()
		var news []map[string]string
		for _, l := range lines[told:] {
			news = append(news, l.keys)
		}
		told = len(lines)
		text, _ := json.Marshal(said{news, values})
		fmt.Printf("%s\n", text)
	}
}

// said is what the process prints.
type said struct {
	Lines   []map[string]string
	Metrics map[string]float64
}

// standsStill stops a process for longer than its TTL, and for longer than
// subscribers wait for a sign of life, as a laptop's lid does, or a limit of
// processor time.
func standsStill(s *scene) {
	n := newNode(s.T)
	program := exec.Command(os.Args[0], "-test.run=^TestRunbook_Process$")
	program.Env = append(os.Environ(), runbookEtcd+"="+n.endpoint())
	output, err := program.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	s.does(nil, program.Start())
	read := make(chan struct{})
	go func() {
		defer close(read)
		for scanner := bufio.NewScanner(output); scanner.Scan(); {
			var news said
			if json.Unmarshal(scanner.Bytes(), &news) != nil {
				s.Logf("the process says: %s", scanner.Bytes())
				continue
			}
			s.take(news)
		}
	}()
	defer func() {
		_ = program.Process.Kill()
		<-read
		_ = program.Wait()
	}()
	s.logs(20*time.Second, "action=register")
	s.does(nil, program.Process.Signal(syscall.SIGSTOP))
	time.Sleep(outageTold + time.Second)
	if left := values(s.T, n.admin(), "/s/"); len(left) > 0 {
		s.Error("the lease has not expired:", left)
	}
	s.does(nil, program.Process.Signal(syscall.SIGCONT))
	s.logs(lostLease, `action=register msg="registered again"`)
	s.counts("Losses{lease lost}", 1)
	s.counts("Returns{lease lost}", 1)
	s.neverSays("no heartbeat was answered") // etcd was well
	s.neverSays("etcd does not answer")
	s.neverSays("failed to retrieve entries")
	s.neverSays("key was deleted")
}

// take takes what another process has recorded.
func (s *scene) take(news said) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, keys := range news.Lines {
		s.lines = append(s.lines, logLine{time.Now(), keys})
	}
	s.values = news.Metrics
}
