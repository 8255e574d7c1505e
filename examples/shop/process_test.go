//go:build unix

package shop_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// build compiles the programs of the shop, and returns where they are.
func build(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "./cmd/...").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return dir
}

// process is a program that runs. It is killed at the end of the test.
type process struct {
	command *exec.Cmd
	output  *output
	exited  chan struct{}
}

func startProcess(t *testing.T, program string, args ...string) *process {
	t.Helper()
	p := &process{command: exec.Command(program, args...), output: &output{}, exited: make(chan struct{})}
	p.command.Env = append(os.Environ(), "TMPDIR="+t.TempDir()) // what is killed cannot tidy up
	p.command.Stdout, p.command.Stderr = p.output, p.output
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.command.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.signal(t, syscall.SIGKILL)
		<-p.exited
		if t.Failed() {
			t.Logf("%s %v:\n%s", filepath.Base(program), args, p.output)
		}
	})
	return p
}

func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.command.Process.Signal(s); err != nil && err != os.ErrProcessDone {
		t.Error(err)
	}
}

// kill ends the process without a word.
func (p *process) kill(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	<-p.exited
}

// waitForExit checks that the process ends, and does so well.
func (p *process) waitForExit(t *testing.T) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		t.Fatalf("%v does not end", p.command.Args)
	}
	if code := p.command.ProcessState.ExitCode(); code != 0 {
		t.Errorf("%v ended with status %d", p.command.Args, code)
	}
}

// output is what a process printed.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// eventually waits until a condition holds, and returns how long that took.
func eventually(t *testing.T, within time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !condition() {
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}
