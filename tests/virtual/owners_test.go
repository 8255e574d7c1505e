package virtual_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// Registrars and callers of two clients share five keys, and every request is late
// or doubled. In the end what is told, counted and held by etcd is the same. Run it
// with the race detector, too.
func TestManyOwnersOfFewKeys_EndInOneState(t *testing.T) {
	for seed := range uint64(8) {
		virtuallyOn(t, etcdtest.Config{Members: 3}, func(w *world) {
			w.etcd.Set(etcdtest.Lateness(seed, time.Second))
			s, with := spied()
			c, cancel := w.client(with)
			c2, _ := w.client(with)
			var wg sync.WaitGroup
			for g := range 300 {
				wg.Go(func() {
					cl := c
					if g%3 == 0 {
						cl = c2
					}
					r, _ := registrar(cl, etcdv3.Service{Key: key(g % 5), Value: fmt.Sprint("v", g)})
					for range 3 {
						switch rand.N(4) {
						case 0:
							r.Register()
						case 1:
							r.Deregister()
						case 2:
							_ = cl.Register(etcdv3.Service{Key: key(g % 5), Value: fmt.Sprint("w", g)})
						case 3:
							_ = cl.Deregister(etcdv3.Service{Key: key(g % 5)})
						}
						time.Sleep(rand.N(3 * time.Second))
					}
				})
			}
			wg.Wait()
			w.heals()
			after(time.Minute)
			if n := w.etcd.CountKeys("/s/"); s.get("registered") != float64(n) || s.get("wanted") != float64(n) || len(w.etcd.Leases()) != n {
				w.Errorf("%d keys, %d leases: %v", n, len(w.etcd.Leases()), s.all())
			}
			for g := range 5 {
				_ = c.Deregister(etcdv3.Service{Key: key(g)})
				_ = c2.Deregister(etcdv3.Service{Key: key(g)})
			}
			w.holds(0)
			after(time.Minute)
			w.holds(0)
			if s.get("registered") != 0 || s.get("wanted") != 0 {
				w.Errorf("%v", s.all())
			}
			cancel()
		})
	}
}
