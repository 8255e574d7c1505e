package virtual_test

import (
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// While etcd is away a client asks for a token in vain. What does not leave it is
// no request.
func TestAuthentications_AreThoseThatEtcdGets(t *testing.T) {
	for _, way := range waysToBeAway {
		for _, members := range []int{1, 3} {
			t.Run(way.name, func(t *testing.T) {
				virtuallyOn(t, etcdtest.Config{Members: members}, func(w *world) {
					w.withUsers()
					s, with := spied()
					c, _ := w.client(with, asUser("u", "p"))
					w.all(way.away)
					r, _ := registrar(c, service("v"))
					r.Register()
					after(time.Minute)
					if n := s.get("authentications"); n != 0 {
						w.Errorf("%v authentications of an etcd that is away", n)
					}
					w.all(way.back)
					w.comesToHold(r, "v")
					w.etcd.ForgetTokens()
					w.all((*etcdtest.Member).Break)
					w.comesToHold(r, "v")
					if got, want := s.get("authentications"), w.etcd.Count("Authenticate"); got != float64(want) {
						w.Errorf("%v authentications, and etcd got %d", got, want)
					}
				})
			})
		}
	}
}
