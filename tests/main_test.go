package tests

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/testutil"
	"go.etcd.io/etcd/client/pkg/v3/verify"
	"go.etcd.io/etcd/tests/v3/framework/integration"
	"go.uber.org/goleak"
)

// TestMain puts the whole suite into the test context of etcd's framework, so
// that tests may run in parallel, and fails it if a goroutine is left.
func TestMain(m *testing.M) {
	flag.Parse()
	if !explicit("test.parallel") {
		// Most tests wait for etcd's and the package's timeouts, not for a core.
		_ = flag.Set("test.parallel", strconv.Itoa(12/patienceFactor))
	}
	// What is tested is not how fast a disk syncs: members keep their stores in
	// memory, where there is such a place.
	memory, err := os.MkdirTemp("/dev/shm", "etcdv3-test-")
	if err == nil {
		_ = os.Setenv("TMPDIR", memory)
	}
	code := suite(m)
	if err == nil {
		_ = os.RemoveAll(memory)
	}
	os.Exit(code)
}

// suite runs the tests in etcd's test context.
func suite(m *testing.M) int {
	tb, closeTB := testutil.NewTestingTBProthesis("suite")
	integration.BeforeTestExternal(tb)
	// The framework has etcd compare its whole store at every write.
	defer verify.DisableVerifications()()
	go machine.watch()
	code := m.Run()
	machine.close()
	closeTB()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintf(os.Stderr, "goroutines are left: %v\n", err)
			code = 1
		}
	}
	return code
}

// explicit reports whether a flag was given.
func explicit(name string) (given bool) {
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

// holds says that the test proves a promise of the README's table.
func holds(t testing.TB, promise int) {
	t.Helper()
	t.Logf("promise %d holds", promise)
}

// within says that the test proves a promise which has a bound, and fails if
// it took longer, not counting when the machine stood still.
func within(t testing.TB, promise int, bound, took time.Duration) {
	t.Helper()
	t.Logf("promise %d bound %v measured %v", promise, bound, took.Round(time.Millisecond))
	inTime(t, bound, took)
}

// inTime fails if something took longer than its bound, not counting when the machine
// stood still.
func inTime(t testing.TB, bound, took time.Duration) {
	t.Helper()
	if took > patienceFactor*bound+machine.since(time.Now().Add(-took)) {
		t.Errorf("it took %v, the bound is %v", took, bound)
	}
}

// eventually waits until a condition holds, and returns how long that took.
func eventually(t testing.TB, bound time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !condition() {
		if time.Since(began) > patienceFactor*bound+machine.since(began) {
			t.Fatalf("not within %v: %s", bound, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

// sleep waits, and reports whether the context has not ended meanwhile.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// never fails if a condition holds at any moment of a time.
func never(t testing.TB, during time.Duration, what string, condition func() bool) {
	t.Helper()
	for began := time.Now(); time.Since(began) < during; time.Sleep(10 * time.Millisecond) {
		if condition() {
			t.Fatalf("after %v: %s", time.Since(began), what)
		}
	}
}
