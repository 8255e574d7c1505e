package tests

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/verify"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/tests/v3/framework/integration"
)

var (
	chaosSeed = flag.Uint64("chaos.seed", 0, "the seed of the soak's schedule; 0 takes a random one")
	chaosFor  = flag.Duration("chaos.for", 20*time.Second, "for how long the soak breaks things")
)

const (
	chaosRoot = "/chaos"

	// chaosSettles is how long after the last fault all has to be well.
	chaosSettles = patienceFactor * 30 * time.Second

	// chaosSlack is what a call may take beyond its bound, and beyond the time
	// for which the machine was too busy to run anything.
	chaosSlack = patienceFactor * time.Second
)

// chaosPrefixes are what is watched; each service is under one of the last two.
var chaosPrefixes = []string{chaosRoot + "/", chaosRoot + "/a/", chaosRoot + "/b/"}

// TestChaos breaks at random, for a while, everything that the other tests
// break one at a time, and then mends it. What etcd held at every revision is
// known from a watch that no fault is between, so that everything that
// subscribers were shown can be judged.
func TestChaos(t *testing.T) {
	t.Parallel()
	heavy(t)
	seed := *chaosSeed
	for seed == 0 {
		seed = rand.Uint64()
	}
	c := &chaos{t: t, calm: make(chan struct{}), underWay: map[*chaosCall]struct{}{}}
	t.Cleanup(func() { // what failed is in the log before it, also if that is cut off
		if t.Failed() {
			t.Logf("repeat it with: go test -C tests -run 'TestChaos$' -chaos.seed %d -chaos.for %v .", seed, *chaosFor)
			c.mu.Lock()
			defer c.mu.Unlock()
			t.Logf("the schedule, with what came of it:\n%s", strings.Join(c.schedule, "\n"))
		}
	})
	c.set()
	c.run(c.plan(rand.New(rand.NewPCG(seed, 0)), *chaosFor))
	c.settle()
	c.end()
	c.nothingIsLeft()
	c.judge()
}

// chaos is one run of the soak.
type chaos struct {
	t       *testing.T
	began   time.Time
	ended   time.Time // when all clients were told to end
	etcd    *cluster
	admin   *clientv3.Client   // none of these clients passes a bridge
	direct  []*clientv3.Client // one for each member
	ids     []uint64           // of the members
	history *history

	services  []*service
	intruders []intruders   // by service
	calm      chan struct{} // closed when the faults are over
	running   sync.WaitGroup

	mu         sync.Mutex // guards all below
	parties    []*party   // the present client of each slot
	everybody  []*party   // and all that there ever were
	spectators []*spectator
	readers    []*reader
	underWay   map[*chaosCall]struct{}
	schedule   []string // its steps, and what came of them
	failures   []string
	over       bool
}

// set starts a cluster, and those that look at it from outside.
func (c *chaos) set() {
	t := c.t
	// Members compare their whole store with itself at every write, in tests:
	// one with a thousand revisions then answers nobody any more.
	t.Cleanup(verify.DisableVerifications())
	// etcd 3.7.3 panics if a member that has come back is due for an election
	// while it replays more than a hundred entries from its log's beginning:
	// it has dropped the first of them by then (etcdserver/server.go,
	// compactRaftLog; raft.go, hasUnappliedConfChanges). Snapshots keep the
	// log that is replayed short.
	c.etcd = newCluster(quiet{t}, 3, func(cfg *integration.ClusterConfig) { cfg.SnapshotCount = 50 })
	var urls []string
	for _, m := range c.etcd.Members {
		urls = append(urls, m.GRPCURL)
		c.direct = append(c.direct, plain(t, m.GRPCURL))
		c.ids = append(c.ids, uint64(m.Server.MemberID()))
	}
	c.admin = plain(t, urls...)
	c.history = observe(t, plain(t, urls...))
	t.Cleanup(c.end)
	c.began = time.Now()
}

// quiet keeps what etcd's members log out of the test's log.
type quiet struct{ testing.TB }

func (quiet) Log(...any)          {}
func (quiet) Logf(string, ...any) {}

// log notes a step of the schedule, or what came of it.
func (c *chaos) log(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.schedule = append(c.schedule, fmt.Sprintf("%7.3f ", time.Since(c.began).Seconds())+fmt.Sprintf(format, args...))
	}
}

// fail notes a failure, from whatever goroutine.
func (c *chaos) fail(format string, args ...any) {
	c.log("FAILURE: "+format, args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failures = append(c.failures, fmt.Sprintf(format, args...))
}

// step is one entry of the schedule.
type step struct {
	at   time.Duration // after the beginning
	what string
	do   func()
}

// run executes the lanes of a schedule side by side.
func (c *chaos) run(lanes [][]step) {
	var all sync.WaitGroup
	for _, lane := range lanes {
		all.Go(func() {
			for _, s := range lane {
				sleep(c.t.Context(), s.at-time.Since(c.began))
				c.log("%s", s.what)
				s.do()
			}
		})
	}
	all.Wait()
	for _, b := range c.etcd.bridges { // they are; this makes it plain
		b.speak()
		b.mend()
		b.slow(0)
	}
	close(c.calm)
}

// chaosCall is a call of the package that has not returned yet.
type chaosCall struct {
	what  string
	began time.Time
}

// call makes a call that has to return within a bound.
func (c *chaos) call(bound time.Duration, what string, call func()) {
	now := &chaosCall{what: what, began: time.Now()}
	c.mu.Lock()
	c.underWay[now] = struct{}{}
	c.mu.Unlock()
	call()
	took := time.Since(now.began)
	c.mu.Lock()
	delete(c.underWay, now)
	c.mu.Unlock()
	if stalled := machine.since(now.began); took > bound+chaosSlack+stalled {
		c.fail("%s took %v, its bound is %v; for %v the machine stood still", what, took, bound, stalled)
	}
}

// wait waits for something that must come to its end, or ends the test with
// what does not.
func (c *chaos) wait(bound time.Duration, what string, wait func()) {
	c.t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		wait()
	}()
	select {
	case <-done:
		return
	case <-time.After(bound):
	}
	var hanging []string
	c.mu.Lock()
	for call := range c.underWay {
		hanging = append(hanging, fmt.Sprintf("%s for %v", call.what, time.Since(call.began)))
	}
	c.mu.Unlock()
	c.t.Fatalf("not within %v: %s; under way are: %s", bound, what, strings.Join(hanging, "; "))
}

// end ends all clients, and waits for all that runs. It may be called twice.
func (c *chaos) end() {
	c.mu.Lock()
	again := c.over
	everybody := slices.Clone(c.everybody)
	c.mu.Unlock()
	if again {
		return
	}
	for _, s := range c.services {
		s.stop()
	}
	c.ended = time.Now()
	for _, p := range everybody {
		c.leave(p)
	}
	c.wait(20*time.Second, "everything ends", c.running.Wait)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, f := range c.failures {
		c.t.Error(f)
	}
}
