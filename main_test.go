package etcdv3

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/testutil"
	"go.etcd.io/etcd/tests/v3/framework/integration"
	"go.uber.org/goleak"
)

// TestMain puts the whole suite into the test context of etcd's framework, so
// that tests may run in parallel, and fails it if a goroutine is left.
func TestMain(m *testing.M) {
	tb, closeTB := testutil.NewTestingTBProthesis("suite")
	integration.BeforeTestExternal(tb)
	code := m.Run()
	closeTB()
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start")); err != nil {
			fmt.Fprintf(os.Stderr, "goroutines are left: %v\n", err)
			code = 1
		}
	}
	os.Exit(code)
}

// eventually waits until a condition holds, and returns how long that took.
func eventually(t testing.TB, within time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		if condition() {
			return time.Since(began)
		}
		if time.Since(began) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
