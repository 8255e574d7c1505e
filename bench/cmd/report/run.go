package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kitsd/etcdv3/bench/internal/member"
)

// runner runs the benchmarks, all against one server.
type runner struct {
	dir     string
	tests   string // the test binary
	members []*member.Member
	output  bytes.Buffer // of the benchmarks, but for those that are profiled
}

func newRunner(dir string) (*runner, error) {
	r := &runner{dir: dir, tests: filepath.Join(dir, "bench.test")}
	if _, err := output("go", "test", "-c", "-o", r.tests, "."); err != nil {
		return nil, err
	}
	var err error
	r.members, err = member.Start(1, member.Options{NoFsync: true})
	return r, err
}

func (r *runner) stop() { member.Stop(r.members) }

// benchmarks runs the short benchmarks in rounds, so that the variants take
// turns and each meets the same noise, and the long ones once.
func (r *runner) benchmarks(rounds int) error {
	for round := range rounds {
		for _, short := range []struct{ which, time string }{
			{"^BenchmarkChange$/^instances=/^(bare|this|upstream)$", "0.25s"},
			{"^(BenchmarkBurst|BenchmarkFirstSet|BenchmarkRegister)$/^(bare|this|upstream)$", "0.6s"},
			{"^BenchmarkChange$/^instances=/^paired$", "2s"},
			{"^(BenchmarkBurst|BenchmarkFirstSet)$/^paired$", "7s"}, // few of them fit into a second
			{"^BenchmarkRegister$/^paired$", "3s"},
		} {
			if err := r.bench(round, short.which, "-test.benchtime="+short.time); err != nil {
				return err
			}
		}
	}
	for round, long := range []string{
		"^(BenchmarkHeartbeats|BenchmarkSubscribers)$", "^(BenchmarkHeartbeats|BenchmarkSubscribers)$",
		"^(BenchmarkHeartbeatAccuracy|BenchmarkAuthentication|BenchmarkIdle)$",
	} {
		if err := r.bench(round, long, "-test.benchtime=0.5s", "-window=8s"); err != nil {
			return err
		}
	}
	return nil
}

// bench runs some benchmarks, and keeps what they report.
func (r *runner) bench(round int, which string, args ...string) error {
	fmt.Fprintf(os.Stderr, "round %d of %s\n", round+1, which)
	out, err := r.test(which, args...)
	fmt.Fprintf(&r.output, "%s%d\n%s", roundMark, round, out)
	return err
}

func (r *runner) test(which string, args ...string) (string, error) {
	args = append([]string{"-test.run=^$", "-test.bench=" + which, "-etcd=" + r.members[0].Address()}, args...)
	return output(r.tests, args...)
}

func simulate(program string, args ...string) (json.RawMessage, error) {
	fmt.Fprintln(os.Stderr, "simulate", strings.Join(args, " "))
	out, err := output(program, args...)
	return json.RawMessage(out), err
}

// output runs a program, and returns what it prints.
func output(name string, args ...string) (string, error) {
	var out, problems bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &problems
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w\n%s%s", name, strings.Join(args, " "), err, out.String(), problems.String())
	}
	return out.String(), nil
}
