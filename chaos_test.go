package etcdv3

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

var (
	chaosSeed = flag.Uint64("chaos.seed", 0, "the seed of the soak's schedule; 0 takes a random one")
	chaosFor  = flag.Duration("chaos.for", 20*time.Second, "for how long the soak breaks things")
)

const (
	chaosRoot = "/chaos"

	// chaosSettles is how long after the last fault all has to be well.
	chaosSettles = 30 * time.Second

	// chaosSlack is what a call may take beyond its bound, on a busy machine.
	chaosSlack = time.Second
)

// chaosPrefixes are what is watched; each service is under one of the last two.
var chaosPrefixes = []string{chaosRoot + "/", chaosRoot + "/a/", chaosRoot + "/b/"}

// TestChaos breaks at random, for a while, everything that the other tests
// break one at a time, and then mends it. What etcd held at every revision is
// known from a watch that no fault is between, so that everything that
// subscribers were shown can be judged.
func TestChaos(t *testing.T) {
	t.Parallel()
	seed := *chaosSeed
	for seed == 0 {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("repeat it with: go test -run 'TestChaos$' -chaos.seed %d -chaos.for %v .", seed, *chaosFor)
		}
	})
	c := newChaos(t)
	c.run(c.plan(rand.New(rand.NewPCG(seed, 0)), *chaosFor))
	c.settle()
	c.end()
	c.judge()
}

// chaos is one run of the soak.
type chaos struct {
	t       *testing.T
	began   time.Time
	etcd    *cluster
	admin   *clientv3.Client   // none of these clients passes a bridge
	direct  []*clientv3.Client // one for each member
	ids     []uint64           // of the members
	history *history

	services  []*service
	intruders []*intruder   // by service: the last one
	calm      chan struct{} // closed when the faults are over
	running   sync.WaitGroup

	mu         sync.Mutex // guards all below
	parties    []*party   // the present client of each slot
	everybody  []*party   // and all that there ever were
	spectators []*spectator
	readers    []*reader
	underWay   map[*chaosCall]struct{}
	failures   []string
	over       bool
}

func newChaos(t *testing.T) *chaos {
	c := &chaos{t: t, began: time.Now(), calm: make(chan struct{}), underWay: map[*chaosCall]struct{}{}}
	c.etcd = newCluster(quiet{t}, 3)
	var urls []string
	for _, m := range c.etcd.Members {
		urls = append(urls, m.GRPCURL)
		c.direct = append(c.direct, plain(t, m.GRPCURL))
		c.ids = append(c.ids, uint64(m.Server.MemberID()))
	}
	c.admin = plain(t, urls...)
	c.history = observe(t, plain(t, urls...))
	t.Cleanup(c.end)
	return c
}

// quiet keeps what etcd's members log out of the test's log, which then is the
// schedule.
type quiet struct{ testing.TB }

func (quiet) Log(...any)          {}
func (quiet) Logf(string, ...any) {}

// log notes a step of the schedule, or what came of it.
func (c *chaos) log(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.t.Logf("%7.3f %s", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
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
	c.began = time.Now()
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
	now := &chaosCall{what, time.Now()}
	c.mu.Lock()
	c.underWay[now] = struct{}{}
	c.mu.Unlock()
	call()
	c.mu.Lock()
	delete(c.underWay, now)
	c.mu.Unlock()
	if took := time.Since(now.began); took > bound+chaosSlack {
		c.fail("%s took %v, its bound is %v", what, took, bound)
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

// settle waits until all is as it should be: first with the last intruders on
// their keys, then without them.
func (c *chaos) settle() {
	mended := time.Now()
	c.log("all is mended")
	c.wait(chaosSettles, "every call has returned", c.drain)
	c.await(mended, "with intruders")
	left := time.Now()
	c.log("the last intruders leave")
	c.removeIntruders()
	c.await(left, "without intruders")
	c.staysSo()
}

// await waits until nothing is wrong.
func (c *chaos) await(since time.Time, what string) {
	for {
		wrong := c.wrong()
		if len(wrong) == 0 {
			c.log("%s: all is well after %v", what, time.Since(since).Round(time.Millisecond))
			return
		}
		if time.Since(since) > chaosSettles {
			for _, w := range wrong {
				c.fail("%s, not well %v after the last fault: %s", what, chaosSettles, w)
			}
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// wrong returns what is not as it should be at this moment.
func (c *chaos) wrong() (all []string) {
	held, err := c.read()
	if err != nil {
		return []string{fmt.Sprintf("etcd cannot be read: %v", err)}
	}
	for i, s := range c.services {
		if w := s.wrong(held[s.key], c.intruders[i]); w != "" {
			all = append(all, fmt.Sprintf("%s: %s", s.key, w))
		}
	}
	for _, s := range c.watching() {
		want := setOf(held, s.prefix)
		if last := s.last(); last.Err != nil || !slices.Equal(last.Instances, want) {
			all = append(all, fmt.Sprintf("%s: the last event is %v, etcd holds %v", s.name, last, want))
		}
	}
	return all
}

// staysSo looks for the dead coming back, for longer than a heartbeat.
func (c *chaos) staysSo() {
	for began := time.Now(); time.Since(began) < 2*time.Second; time.Sleep(50 * time.Millisecond) {
		held, err := c.read()
		if err != nil {
			continue
		}
		for _, s := range c.services {
			if value, there := held[s.key]; there && !s.live() {
				c.fail("%s came back with %q", s.key, value)
				return
			}
		}
	}
}

// read returns what etcd holds now, by key.
func (c *chaos) read() (map[string]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	resp, err := c.admin.Get(ctx, chaosRoot+"/", clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	held := map[string]string{}
	for _, kv := range resp.Kvs {
		held[string(kv.Key)] = string(kv.Value)
	}
	return held, nil
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
