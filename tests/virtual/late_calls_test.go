package virtual_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// A call that is over before etcd carries its requests out, or answers them: an error
// leaves what there was before, and a Registrar goes on.
func TestCallThatIsOverBeforeItsRequests_LeavesWhatItSaid(t *testing.T) {
	for _, m := range []string{"LeaseGrant", "Txn", "Range", "LeaseRevoke", "all"} {
		for _, ans := range []bool{false, true} {
			for _, d := range []time.Duration{2900 * time.Millisecond, 3100 * time.Millisecond, 5 * time.Second, 9 * time.Second, 25 * time.Second, 70 * time.Second} {
				for _, again := range []bool{false, true} {
					for _, op := range []string{"client", "registrar", "deregister"} {
						t.Run(fmt.Sprint(m, ans, d, again, op), func(t *testing.T) {
							virtuallyOn(t, etcdtest.Config{Members: 1 + 2*rand.IntN(2)}, func(w *world) {
								s, with := spied()
								c, _ := w.client(with)
								if again {
									w.register(c, service("old"))
									after(4 * time.Second)
								}
								f := func(_ int, method string, _ any) time.Duration {
									if method == m || m == "all" && method != "Renew" && method != "Watch" && method != "LeaseKeepAlive" {
										return d
									}
									return 0
								}
								w.etcd.Set(func(s *etcdtest.Settings) {
									if ans {
										s.DelayAnswer = f
									} else {
										s.Delay = f
									}
								})
								var err error
								r, j := registrar(c, service("new"))
								w.within(3*time.Second, func() {
									switch op {
									case "client":
										err = c.Register(service("new"))
									case "deregister":
										err = c.Deregister(service("new"))
									case "registrar":
										r.Register()
										err = r.Err()
									}
								})
								after(time.Second)
								w.etcd.Set(func(s *etcdtest.Settings) { s.Delay, s.DelayAnswer = nil, nil })
								after(4 * time.Minute)
								got := w.etcd.Values("/s/")
								want := []string{}
								switch {
								case op == "registrar" || op == "client" && err == nil:
									want = []string{"new"}
								case op == "client" && again:
									want = []string{"old"}
								}
								if !slices.Equal(got, want) || len(w.etcd.Leases()) != len(want) {
									t.Errorf("%v: got %q want %q, %d leases\n%s", err, got, want, len(w.etcd.Leases()), j)
								}
								if s.get("registered") != float64(len(want)) || s.get("wanted") != float64(len(want)) {
									t.Error(s.all())
								}
								if op == "registrar" {
									w.isRegistered(r)
									for i, kv := range w.etcd.History("/s/1") {
										if kv.Version == 0 {
											t.Errorf("deleted %d %v", i, w.etcd.History("/s/1"))
										}
									}
								}
							})
						})
					}
				}
			}
		}
	}
}
