package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/kit/sd"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// followed returns an Instancer for "/s/" on the double, with a subscriber that
// keeps all events. Both end with the test, and before the client.
func (e *virtualEtcd) followed(t *testing.T) (*client, *virtualEvents, *journal) {
	t.Helper()
	c, _ := e.client(t)
	j := &journal{}
	s, err := NewInstancer(c, "/s/", j.logger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return c, subscribed(s), j
}

// virtualEvents are the events of a subscriber with room for all.
type virtualEvents struct{ ch chan sd.Event }

func subscribed(s sd.Instancer) *virtualEvents {
	v := &virtualEvents{make(chan sd.Event, 10_000)}
	s.Register(v.ch)
	return v
}

// take returns the events since the last call, as text.
func (v *virtualEvents) take() (all []string) {
	for len(v.ch) > 0 {
		if event := <-v.ch; event.Err != nil {
			all = append(all, "error")
		} else {
			all = append(all, strings.Join(event.Instances, " "))
		}
	}
	return all
}

// are fails unless the events since the last call are those.
func (v *virtualEvents) are(t *testing.T, want ...string) {
	t.Helper()
	if got := v.take(); !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestVirtual_Watch_FollowsWhatChanges(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		etcd.set("/s/1", "a")
		_, events, _ := etcd.followed(t)
		events.are(t, "a")
		for i, step := range []struct {
			change func()
			want   []string
		}{
			{func() { etcd.set("/s/2", "b") }, []string{"a b"}},
			{func() { etcd.set("/s/3", "a") }, nil}, // no other set
			{func() { etcd.set("/other", "c") }, nil},
			{func() { etcd.remove("/s/1") }, nil},
			{func() { etcd.remove("/s/3") }, []string{"b"}},
			{func() { etcd.remove("/s/2") }, []string{""}},
		} {
			step.change()
			after(time.Minute)
			if got := events.take(); !slices.Equal(got, step.want) {
				t.Errorf("step %d: events %q, want %q", i, got, step.want)
			}
		}
		if lists := etcd.count("get"); lists != 1 || etcd.opened != 1 {
			t.Errorf("%d lists, %d watches in six quiet minutes", lists, etcd.opened)
		}
		if n := etcd.count("progress"); n < 30 || n > 40 {
			t.Errorf("%d signs of life were asked for in six minutes", n)
		}
	})
}

func TestVirtual_Outage_IsToldAfterTheGraceAndOver(t *testing.T) {
	for name, how := range map[string]virtualFault{"hangs": hangs, "refuses": refuses} {
		for _, at := range []time.Duration{0, 900 * time.Millisecond, 5 * time.Second, 10900 * time.Millisecond} {
			t.Run(fmt.Sprint(name, at), func(t *testing.T) {
				virtually(t, func(t *testing.T, etcd *virtualEtcd) {
					etcd.set("/s/1", "a")
					c, events, j := etcd.followed(t)
					after(at)
					events.are(t, "a")
					etcd.goAway(how)
					if name == "refuses" {
						c.link.announce() // as the connection breaks
					}
					after(4 * time.Second)
					events.are(t) // a short break is nobody's business
					after(11 * time.Second)
					events.are(t, "error")
					after(time.Hour)
					events.are(t)
					etcd.set("/s/2", "b")
					etcd.comeBack()
					after(5 * time.Second)
					events.are(t, "a b")
					if j.count("interrupted") != 1 || j.count("resumed") != 1 {
						t.Errorf("the log does not say so once:\n%s", j)
					}
				})
			})
		}
	}
}

func TestVirtual_ShortOutage_IsNotTold(t *testing.T) {
	for _, at := range []time.Duration{0, 900 * time.Millisecond, 5 * time.Second, 10900 * time.Millisecond} {
		virtually(t, func(t *testing.T, etcd *virtualEtcd) {
			etcd.set("/s/1", "a")
			_, events, _ := etcd.followed(t)
			after(at)
			etcd.goAway(hangs)
			after(4100 * time.Millisecond) // what hangs until then is not answered any more
			etcd.comeBack()
			after(time.Minute)
			events.are(t, "a")
		})
	}
}

func TestVirtual_Refusal_IsToldAtOnceAndOver(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		etcd.set("/s/1", "a")
		_, events, _ := etcd.followed(t)
		after(time.Minute)
		events.are(t, "a")
		etcd.breaks(denies)
		etcd.cancelWatches("etcdserver: permission denied")
		after(2 * backoffMax)
		events.are(t, "error")
		after(time.Minute)
		events.are(t)
		etcd.breaks(nil)
		after(backoffMax)
		events.are(t, "a")
	})
}

func TestVirtual_WatchCancelled_MissesNothing(t *testing.T) {
	for _, reason := range []string{"etcdserver: no leader", "etcdserver: permission denied", "etcdserver: invalid auth token", "whatever"} {
		virtually(t, func(t *testing.T, etcd *virtualEtcd) {
			etcd.set("/s/1", "a")
			_, events, j := etcd.followed(t)
			for range 100 {
				after(300 * time.Millisecond)
				etcd.cancelWatches(reason)
			}
			etcd.set("/s/1", "b")
			after(2 * backoffMax)
			events.are(t, "a", "b")
			after(time.Minute) // it stands: the next trouble begins anew
			etcd.cancelWatches(reason)
			etcd.set("/s/1", "c")
			after(3 * backoffFirst)
			events.are(t, "c")
			if j.count("interrupted") != j.count("resumed") {
				t.Errorf("%s", j)
			}
		})
	}
}

func TestVirtual_CompactedWhileAway_ListsAgain(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		etcd.set("/s/1", "a")
		_, events, _ := etcd.followed(t)
		after(2 * time.Second)
		etcd.goAway(hangs)
		for i := range 50 {
			etcd.set("/s/1", fmt.Sprint(i))
		}
		etcd.set("/s/2", "b")
		etcd.compact()
		etcd.comeBack()
		after(backoffMax)
		events.are(t, "a", "49 b")
	})
}

func TestVirtual_WatchThatCannotBeOpened_IsTriedAgain(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		etcd.set("/s/1", "a")
		etcd.breaks(only("watch", hangs))
		_, events, _ := etcd.followed(t)
		after(time.Hour)
		events.are(t, "a")
		if n := etcd.count("watch"); n < 300 || n > 3000 {
			t.Errorf("%d attempts in an hour", n)
		}
		etcd.breaks(nil)
		etcd.set("/s/1", "b")
		after(defaultTimeout + backoffMax)
		events.are(t, "b")
	})
}

func TestVirtual_ListThatFailsWhileEtcdAnswers_IsToldInTheEnd(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		etcd.set("/s/1", "a")
		c, events, _ := etcd.followed(t)
		after(0) // the watch stands
		events.are(t, "a")
		// Probes are answered, lists are too large for the link.
		c.cli.KV = &hangingLists{c.cli.KV}
		etcd.cancelWatches("etcdserver: no leader")
		after(time.Minute)
		events.are(t, "error")
	})
}

// hangingLists answers what reads one key, and no list.
type hangingLists struct{ clientv3.KV }

func (h *hangingLists) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	if op := clientv3.OpGet(key, opts...); op.RangeBytes() != nil {
		return nil, hangs(ctx, "list")
	}
	return h.KV.Get(ctx, key, opts...)
}

func TestVirtual_WatchPrefix_SignalsTroubleAndChange(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		c, cancel := etcd.client(t)
		ch, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			c.WatchPrefix("/s/", ch)
		}()
		signals := func() (n int) {
			for {
				select {
				case <-ch:
					n++
				case <-time.After(time.Second):
					return n
				}
			}
		}
		if n := signals(); n != 1 {
			t.Errorf("%d signals when the watch stands", n)
		}
		for i := range 10 {
			etcd.set("/s/1", fmt.Sprint(i))
		}
		after(time.Second)
		if n := signals(); n != 1 {
			t.Errorf("%d signals for changes while the receiver was busy", n)
		}
		etcd.goAway(hangs)
		after(15 * time.Second)
		if n := signals(); n != 1 {
			t.Errorf("%d signals for an outage", n)
		}
		if _, err := c.GetEntries("/s/"); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		etcd.comeBack()
		after(5 * time.Second)
		if n := signals(); n != 1 {
			t.Errorf("%d signals for the set after it", n)
		}
		etcd.set("/s/1", "last") // nobody receives it
		after(time.Second)
		cancel()
		<-done
	})
}
