package fleet

import (
	"fmt"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// givesUp is an etcd that answers "request timed out" after 7 s, as etcd does, and
// carries a write out all the same.
func givesUp(write time.Duration, pending int) etcdtest.Config {
	return etcdtest.Config{Settings: etcdtest.Settings{
		RequestTimeout: 7 * time.Second, WriteTime: write, MaxPending: pending,
	}}
}

func TestFleetWhoseRequestsEtcdGivesUp_Converges(t *testing.T) {
	// A tenth of ten thousand clients, on an etcd of a tenth of the speed, which
	// lets a tenth wait: 10 s of writes.
	const services, write = 1000, 20 * time.Millisecond
	virtually(t, givesUp(write, 500), func(w *world) {
		began := time.Now()
		w.register(services, services, nil)
		took, ideal := time.Since(began), 2*services*write
		grants, puts := w.etcd.Count("LeaseGrant"), w.etcd.Count("Txn")
		w.Logf("%v of ideally %v, %d grants, %d transactions", took, ideal, grants, puts)
		if took > 2*ideal+5*time.Second {
			w.Errorf("registered after %v, ideally %v", took, ideal)
		}
		if grants > 5*services/2 || puts > 5*services/2 {
			w.Errorf("%d grants and %d transactions", grants, puts)
		}
	})
}

// A store that stands still holds what was asked, and carries it out later. How
// long it stood still makes no difference to when all are registered.
func TestOneMemberThatStandsStill_HasAllRegisteredOnceItMoves(t *testing.T) {
	for _, clients := range []int{1, 50} {
		for _, still := range []time.Duration{20 * time.Second, time.Minute, 3 * time.Minute, 10 * time.Minute} {
			t.Run(fmt.Sprintf("%d clients, %v", clients, still), func(t *testing.T) {
				virtually(t, givesUp(writeTime, 0), func(w *world) {
					const services = 50
					on := make([]etcdv3.Client, clients)
					for i := range on {
						on[i] = w.client(w.ctx)
					}
					w.etcd.Member(0).Stall()
					var all []*etcdv3.Registrar
					for i := range services {
						all = append(all, etcdv3.NewRegistrar(on[i%clients], etcdv3.Service{Key: fmt.Sprintf("/s/%d", i), Value: "v"}, nil))
					}
					for _, r := range all {
						go r.Register()
					}
					time.Sleep(still)
					w.etcd.Member(0).Unstall()
					took := w.waitFor(time.Minute, func() bool { return w.missing(all) == 0 })
					if took > 5*time.Second {
						w.Errorf("registered after %v", took)
					}
					if n := w.etcd.Count("LeaseGrant"); n > 2*services {
						w.Errorf("%d grants", n)
					}
					// One read at a time, of each client, that etcd gives up after 7 s.
					if n, most := w.etcd.Count("Range"), clients*(2+int(still/(7*time.Second))); n > most {
						w.Errorf("%d reads, want at most %d", n, most)
					}
				})
			})
		}
	}
}
