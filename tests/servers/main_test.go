//go:build servers

package servers

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/alone"
)

// programs is the directory with the servers: etcd-3.4, etcd-3.5 and so on, and
// nginx. scripts/servers makes it.
var programs = os.Getenv("ETCDV3_SERVERS")

// memory is where the stores are: what is tested is not how fast a disk syncs.
var memory string

func TestMain(m *testing.M) {
	flag.Parse()
	if programs == "" {
		fmt.Fprintln(os.Stderr, "ETCDV3_SERVERS names no servers: run scripts/servers")
		os.Exit(1)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	release := alone.Hold()
	defer release()
	parent := ""
	if _, err := os.Stat("/dev/shm"); err == nil {
		parent = "/dev/shm"
	}
	var err error
	if memory, err = os.MkdirTemp(parent, "etcdv3-servers-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(memory) }()
	return m.Run()
}

// versions returns the versions that there are servers of, as 3.7.
func versions(t *testing.T) (all []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(programs, "etcd-*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no servers in %s: %v", programs, err)
	}
	for _, file := range files {
		all = append(all, strings.TrimPrefix(filepath.Base(file), "etcd-"))
	}
	slices.Sort(all)
	return all
}

// everyVersion runs a test against each version at the same time: most of what
// it does is to wait.
func everyVersion(t *testing.T, test func(t *testing.T, version string)) {
	t.Helper()
	t.Parallel()
	for _, version := range versions(t) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			test(t, version)
		})
	}
}

// has fails the test if a version is not there that it is about.
func has(t *testing.T, wanted ...string) {
	t.Helper()
	for _, version := range wanted {
		if !slices.Contains(versions(t), version) {
			t.Fatalf("no etcd %s in %s", version, programs)
		}
	}
}

// eventually waits until a condition holds, and returns how long that took.
func eventually(t testing.TB, bound time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !condition() {
		if time.Since(began) > bound {
			t.Fatalf("not within %v: %s", bound, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return time.Since(began)
}

// never fails if a condition holds at any moment of a time.
func never(t testing.TB, during time.Duration, what string, condition func() bool) {
	t.Helper()
	for began := time.Now(); time.Since(began) < during; time.Sleep(50 * time.Millisecond) {
		if condition() {
			t.Fatalf("after %v: %s", time.Since(began).Round(time.Millisecond), what)
		}
	}
}
