package lease_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// One member after the other has a fault for a while. No lease is lost, whatever
// the fault, and whenever it comes.
func TestOneFaultAfterAnother_LosesNoLease(t *testing.T) {
	faults := []struct {
		name    string
		on, off func(*etcdtest.Member)
	}{
		{"silent", (*etcdtest.Member).Silence, (*etcdtest.Member).Speak},
		{"frozen", (*etcdtest.Member).Freeze, (*etcdtest.Member).Thaw},
		{"down", (*etcdtest.Member).Down, (*etcdtest.Member).Up},
		{"without a leader", (*etcdtest.Member).LoseLeader, (*etcdtest.Member).FindLeader},
		{"stalled", (*etcdtest.Member).Stall, (*etcdtest.Member).Unstall},
		{"broken", (*etcdtest.Member).Break, (*etcdtest.Member).Break},
		{"slow", func(m *etcdtest.Member) { m.SetLink(etcdtest.Link{RTT: time.Second}) }, func(m *etcdtest.Member) { m.SetLink(etcdtest.Link{}) }},
	}
	for seed := range uint64(6) {
		for _, foreign := range []bool{false, true} {
			t.Run(fmt.Sprint(seed, foreign), func(t *testing.T) {
				virtually(t, setting{Config: etcdtest.Config{Members: 3}, foreign: foreign}, func(w *world) {
					random := rand.New(rand.NewPCG(seed, 1))
					all := w.grants(50, 10, 3*time.Second)
					for range 40 {
						fault := faults[random.IntN(len(faults))]
						m := w.etcd.Member(random.IntN(3))
						time.Sleep(time.Duration(random.IntN(5000)) * time.Millisecond)
						fault.on(m)
						time.Sleep(time.Duration(random.IntN(20_000)) * time.Millisecond)
						fault.off(m)
						after(15 * time.Second)
						if w.untroubled(all); w.Failed() {
							w.Fatalf("a member was %s", fault.name)
						}
					}
				})
			})
		}
	}
}
