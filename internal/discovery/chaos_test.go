package discovery

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// TestAnyOrderOfFaults has members fail in any way, by a seed, while keys change.
// What was published was the truth at some time, in order; and once all is well
// each prefix knows the truth, and nobody is told of anything any more.
func TestAnyOrderOfFaults(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		config := etcdtest.Config{Members: 1 + 2*int(seed%2)}
		config.Proxy = seed%5 == 4
		virtually(t, config, func(t *testing.T, e *etcdtest.Etcd) {
			random := rand.New(rand.NewPCG(seed, seed))
			c, other := connect(t, e), connect(t, e)
			if seed%3 == 0 {
				other = foreignClient(t, e)
			}
			var all []*followed
			for range 3 {
				all = append(all, c.follow(t, "/s/"), other.follow(t, "/s/"))
			}
			truths := []string{""}
			write := func() {
				key := fmt.Sprintf("/s/%d", random.IntN(5))
				if random.IntN(3) == 0 {
					e.Delete(key)
				} else {
					e.Put(key, fmt.Sprintf("%06d", e.Revision()))
				}
				values := e.Values("/s/")
				slices.Sort(values)
				truths = append(truths, strings.Join(values, " "))
			}
			for range 60 {
				for range random.IntN(4) {
					write()
					after(time.Duration(random.IntN(50)) * time.Millisecond)
				}
				breakSomething(random, e)
				after(time.Duration(random.IntN(12_000)) * time.Millisecond)
			}
			for _, m := range e.Members() {
				m.Up()
				m.Speak()
				m.Thaw()
				m.Unstall()
				m.FindLeader()
			}
			e.SetLinks(etcdtest.Link{})
			after(30 * time.Second)
			write()
			after(time.Second)
			values := e.Values("/s/")
			slices.Sort(values)
			want := strings.Join(values, " ")
			for i, f := range all {
				at := 0
				for _, got := range f.take() {
					if got == "error" {
						continue
					}
					later := slices.Index(truths[at:], got)
					if later < 0 {
						t.Fatalf("seed %d: %d hears %q, which never was, or not then\n%s", seed, i, got, f.logged())
					}
					at += later
				}
				if got := strings.Join(f.set.Strings(), " "); got != want {
					t.Fatalf("seed %d: %d knows %q, want %q\n%s", seed, i, got, want, f.logged())
				}
			}
			after(2 * time.Minute)
			for i, f := range all {
				if got := f.take(); len(got) > 0 {
					t.Errorf("seed %d: %d hears %q of an etcd that is well\n%s", seed, i, got, f.logged())
				}
			}
		})
	}
}

// breakSomething breaks or mends a member.
func breakSomething(random *rand.Rand, e *etcdtest.Etcd) {
	m := e.Member(random.IntN(len(e.Members())))
	switch random.IntN(14) {
	case 0:
		m.Down()
	case 1, 2:
		m.Up()
	case 3:
		m.Silence()
	case 4, 5:
		m.Speak()
	case 6:
		m.Freeze()
	case 7:
		m.Thaw()
	case 8:
		m.Stall()
	case 9, 10:
		m.Unstall()
	case 11:
		m.Break()
	case 12:
		_ = e.Compact(e.Revision())
	case 13:
		m.SetLink(etcdtest.Link{RTT: time.Duration(random.IntN(300)) * time.Millisecond})
	}
}
