package virtual_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Whichever request of an operation etcd could not serve, once: its caller has time
// for another attempt.
func TestRequestThatIsNotServedOnce_IsMadeAgainInTime(t *testing.T) {
	for name, e := range map[string]error{"toomany": rpctypes.ErrGRPCRequestTooManyRequests, "noleader": rpctypes.ErrGRPCNoLeader, "leaderchanged": rpctypes.ErrGRPCLeaderChanged, "timeout": rpctypes.ErrGRPCTimeout, "unavailable": errUnavailable} {
		for _, op := range []string{"register", "deregister", "registrar", "getentries", "foreignderegister", "reregister", "recursive"} {
			for nth := range 4 {
				for _, user := range []bool{false, true} {
					t.Run(fmt.Sprint(name, op, nth, user), func(t *testing.T) {
						virtually(t, func(w *world) {
							change := []func(*etcdv3.ClientOptions){}
							if user {
								w.withUsers()
								change = append(change, asUser("u", "p"))
							}
							c, _ := w.client(change...)
							if op == "deregister" || op == "reregister" || op == "recursive" {
								w.register(c, service("v"))
								w.etcd.Put("/s/1/sub", "x")
								after(2 * time.Second)
							}
							if op == "getentries" || op == "foreignderegister" {
								w.etcd.Put("/s/1", "v")
							}
							var mu sync.Mutex
							n := 0
							w.etcd.Set(func(s *etcdtest.Settings) {
								s.Refuse = func(_ int, m string, _ any) error {
									mu.Lock()
									defer mu.Unlock()
									n++
									if n-1 == nth {
										return e
									}
									return nil
								}
							})
							w.within(3*time.Second, func() {
								switch op {
								case "register", "reregister":
									if err := c.Register(service("w")); err != nil {
										w.Error(err)
									}
									w.holds(1, append([]string{"w"}, map[bool][]string{true: {"x"}}[op == "reregister"]...)...)
								case "deregister", "foreignderegister":
									if err := c.Deregister(service("v")); err != nil {
										w.Error(err)
									}
									if len(w.etcd.Leases()) != 0 || len(w.etcd.Keys("/s/1")) > 1 {
										w.Error("left", w.etcd.Keys(""), w.etcd.Leases())
									}
								case "recursive":
									if err := c.Deregister(etcdv3.Service{Key: "/s/1", DeleteOptions: &etcdv3.DeleteOptions{Recursive: true}}); err != nil {
										w.Error(err)
									}
									w.holds(0)
								case "registrar":
									r, j := registrar(c, service("w"))
									r.Register()
									w.isRegistered(r)
									w.logs(j, 1, "")
								case "getentries":
									got, err := c.GetEntries("/s/")
									if err != nil || !slices.Equal(got, []string{"v"}) {
										w.Error(got, err)
									}
								}
							})
						})
					})
				}
			}
		}
	}
}
