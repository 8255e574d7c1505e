package fanout

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/kit/sd"

	"github.com/kitsd/etcdv3/internal/instances"
)

// asText is an event as the tests below write it.
func asText(event sd.Event) string {
	if event.Err != nil {
		return "error " + event.Err.Error()
	}
	return fmt.Sprint(event.Instances)
}

// next is the next event, and what a subscriber that waits in vain gets.
func next(ch <-chan sd.Event) string {
	select {
	case event := <-ch:
		return asText(event)
	case <-time.After(time.Second):
		return "nothing"
	}
}

// reads fails unless a subscriber gets exactly those events.
func reads(t *testing.T, ch <-chan sd.Event, want ...string) {
	t.Helper()
	for _, text := range append(want, "nothing") {
		if got := next(ch); got != text {
			t.Errorf("%s, want %s", got, text)
		}
	}
}

func TestCache_LateSubscriberGetsTheSetAndThenTheError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Observer{})
		c.UpdateStrings([]string{"b", "a", "b"})
		c.Fail(errors.New("away"))
		ch := make(chan sd.Event)
		go c.Register(ch)
		reads(t, ch, "[a b]", "error away")
		c.Fail(errors.New("away")) // again
		reads(t, ch)
		c.Fail(errors.New("still away"))
		reads(t, ch, "error still away")
		c.UpdateStrings([]string{"a", "b"})
		reads(t, ch, "[a b]")
		c.UpdateStrings([]string{"a", "b"})
		reads(t, ch)
		c.Stop()
		c.Stop()
	})
}

func TestCache_ErrorWithoutASet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Observer{})
		c.Fail(errors.New("away"))
		ch := make(chan sd.Event)
		go c.Register(ch)
		reads(t, ch, "error away")
		if got := asText(c.State()); got != "error away" {
			t.Error(got)
		}
		c.UpdateStrings(nil)
		reads(t, ch, "[]")
		c.Fail(errors.New("away"))
		reads(t, ch, "error away")
		c.Stop()
	})
}

func TestCache_ChangesWhileNobodyReadsBecomeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Observer{})
		c.UpdateStrings([]string{"first"})
		ch := make(chan sd.Event)
		go c.Register(ch)
		reads(t, ch, "[first]")
		for i := range 100 {
			c.UpdateStrings([]string{fmt.Sprint(i)})
			synctest.Wait()
		}
		reads(t, ch, "[99]")
		c.UpdateStrings([]string{"there and back"})
		synctest.Wait()
		c.UpdateStrings([]string{"99"})
		synctest.Wait()
		reads(t, ch)
		c.Fail(errors.New("away"))
		synctest.Wait()
		c.UpdateStrings([]string{"99"})
		synctest.Wait()
		reads(t, ch)
		// An error does not hide a set that was not seen yet.
		c.UpdateStrings([]string{"100"})
		c.Fail(errors.New("away"))
		reads(t, ch, "[100]", "error away")
		c.Stop()
	})
}

func TestCache_RegisteredTwice_StartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Observer{})
		c.UpdateStrings([]string{"a"})
		ch := make(chan sd.Event, 10)
		c.Register(ch)
		c.Register(ch)
		reads(t, ch, "[a]", "[a]")
		c.UpdateStrings([]string{"b"})
		reads(t, ch, "[b]")
		c.Deregister(ch)
		c.Deregister(ch)
		c.UpdateStrings([]string{"c"})
		reads(t, ch)
		c.Register(nil)
		c.Deregister(nil)
	})
}

func TestCache_ConcurrentDeregister_AllReturnWhenNothingIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Observer{})
		c.UpdateStrings([]string{"a"})
		for range 100 {
			ch := make(chan sd.Event) // nobody reads
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() { c.Register(ch) })
			}
			synctest.Wait()
			for range 5 {
				all.Go(func() { c.Deregister(ch) })
			}
			all.Go(func() { c.UpdateStrings([]string{fmt.Sprintf("%p", ch)}) })
			synctest.Wait()
			for range 3 { // a register that came late has subscribed again
				c.Deregister(ch)
				synctest.Wait()
			}
			all.Wait()
			close(ch)
		}
		if len(c.subscribers) != 0 {
			t.Errorf("%d subscribers are left", len(c.subscribers))
		}
	})
}

func TestCache_Stopped_GivesTheLastStateOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Observer{})
		c.UpdateStrings([]string{"a"})
		c.Stop()
		c.UpdateStrings([]string{"b"})
		c.Fail(errors.New("away"))
		ch := make(chan sd.Event, 10)
		c.Register(ch)
		reads(t, ch, "[a]")
		c.Deregister(ch)
		if got := asText(c.State()); got != "[a]" {
			t.Error(got)
		}
	})
}

// large returns a set that is worth a copy ahead, and a function that puts n more
// instances into it.
func large() (set instances.Set, more func(n int) instances.Set) {
	all := instances.NewEntries(worthAhead)
	put := func() {
		key := fmt.Appendf(nil, "%06d", all.Set().Len())
		all.Put(key, key)
	}
	for range worthAhead {
		put()
	}
	return all.Set(), func(n int) instances.Set {
		for range n {
			put()
		}
		return all.Set()
	}
}

func TestCache_LargeSets_EachEventIsTheSubscribersOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Observer{})
		set, more := large()
		c.Update(set)
		var all []chan sd.Event
		for range 3 {
			ch := make(chan sd.Event, 1)
			c.Register(ch)
			<-ch
			all = append(all, ch)
		}
		for i := range 200 {
			if i%10 == 0 {
				c.Fail(errors.New("away"))
				for _, ch := range all {
					if got := asText(<-ch); got != "error away" {
						t.Fatal(got)
					}
				}
			}
			set = more(1 + i%4)
			c.Update(set)
			for _, ch := range all {
				event := <-ch
				if !slices.Equal(event.Instances, set.Strings()) {
					t.Fatalf("event %d is not the set", i)
				}
				for j := range event.Instances {
					event.Instances[j] = "mine"
				}
			}
			if i%20 == 0 {
				time.Sleep(2 * keptAhead) // longer than a copy is kept
			}
		}
		c.Stop()
	})
}

func TestCache_LargeSetsThatNobodyTakes_ChangeWhatIsOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Observer{})
		set, more := large()
		c.Update(set)
		ch := make(chan sd.Event)
		go c.Register(ch)
		<-ch
		for i := range 100 {
			for range i % 5 {
				c.Update(more(1))
				time.Sleep(time.Duration(i%3) * time.Second)
			}
			set = more(1)
			c.Update(set)
			time.Sleep(time.Duration(i%7) * keptAhead / 3)
			synctest.Wait() // else what was offered before may be taken
			if event := <-ch; !slices.Equal(event.Instances, set.Strings()) {
				t.Fatalf("event %d is not the set", i)
			}
		}
		c.Stop()
	})
}

func TestCache_CopyIsKeptAheadWhileChangesCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Observer{})
		set, more := large()
		c.Update(set)
		var all []chan sd.Event
		for range 3 {
			ch := make(chan sd.Event, 1)
			c.Register(ch)
			all = append(all, ch)
		}
		kept := func(want bool, when string) {
			synctest.Wait()
			if c.ahead.Load() != want {
				t.Errorf("a copy is kept %s: %v", when, !want)
			}
		}
		take := func() {
			for _, ch := range all {
				<-ch
			}
		}
		take()
		kept(false, "before any change")
		c.Update(more(1))
		take()
		kept(true, "after a change")
		time.Sleep(keptAhead)
		kept(false, "long after the last change")
		c.Update(more(1))
		take()
		kept(true, "after another change")
		c.Stop()
		kept(false, "after the end")
	})
}

func TestCache_LastTellsTheSetBesideTheError(t *testing.T) {
	c := New(Observer{})
	if set, known, err := c.Last(); set.Len() != 0 || known || err != nil {
		t.Error(set, known, err)
	}
	c.UpdateStrings(nil)
	if _, known, err := c.Last(); !known || err != nil {
		t.Error(known, err)
	}
	c.UpdateStrings([]string{"a"})
	away := errors.New("away")
	c.Fail(away)
	if set, known, err := c.Last(); !slices.Equal(set.Strings(), []string{"a"}) || !known || err != away {
		t.Error(set.Strings(), known, err)
	}
}

func TestCache_UpdateStrings_LeavesTheSliceAlone(t *testing.T) {
	c := New(Observer{})
	all := []string{"b", "a", "b"}
	c.UpdateStrings(all)
	if !slices.Equal(all, []string{"b", "a", "b"}) {
		t.Error(all)
	}
	all[0] = "changed"
	if got := asText(c.State()); got != "[a b]" {
		t.Error(got)
	}
}

func TestCache_ObserverCountsEachStateOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c *Cache
		sent, coalesced := 0, 0
		c = New(Observer{
			Sent: func(n int) {
				sent += n
				_ = c.State() // no lock is held
			},
			Coalesced: func(n int) {
				coalesced += n
				_ = c.State()
			},
		})
		counts := func(when string, wantSent, wantCoalesced int) {
			t.Helper()
			synctest.Wait()
			if sent != wantSent || coalesced != wantCoalesced {
				t.Errorf("%s: %d sent and %d coalesced, want %d and %d", when, sent, coalesced, wantSent, wantCoalesced)
			}
			sent, coalesced = 0, 0
		}
		set := func(name string) {
			c.UpdateStrings([]string{name})
			time.Sleep(time.Second)
		}
		fail := func(why string) {
			c.Fail(errors.New(why))
			time.Sleep(time.Second)
		}
		set("before")
		set("first")
		ch := make(chan sd.Event)
		go c.Register(ch)
		synctest.Wait()
		counts("before anybody reads", 0, 0)
		reads(t, ch, "[first]")
		counts("the state at the start", 1, 0)
		set("a")
		reads(t, ch, "[a]")
		counts("one change", 1, 0)
		for range 10 {
			set("b")
		}
		counts("the same ten times, on offer", 0, 9)
		reads(t, ch, "[b]")
		counts("the same ten times", 1, 0)
		for range 10 {
			set("b")
		}
		counts("what was seen already", 0, 0)
		set("there")
		set("b")
		counts("there and back", 0, 1)
		set("c")
		fail("away")
		fail("still away")
		reads(t, ch, "[c]", "error still away")
		counts("a set and two errors", 2, 1)
		fail("still away")
		set("d")
		reads(t, ch, "[d]")
		counts("the same error and a set", 1, 0)
		c.UpdateStrings([]string{"e"})
		c.UpdateStrings([]string{"f"})
		c.UpdateStrings([]string{"g"})
		reads(t, ch, "[g]")
		counts("three at once", 1, 2)
		c.Stop()
	})
}

func TestCache_LateSubscriber_MissedNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Observer{Coalesced: func(n int) { t.Errorf("%d states are coalesced", n) }})
		c.UpdateStrings([]string{"a"})
		c.Fail(errors.New("away"))
		ch := make(chan sd.Event)
		go c.Register(ch)
		reads(t, ch, "[a]", "error away")
		c.Stop()
	})
}

func TestCache_FullChannel_GetsTheNewestOnceThereIsRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Observer{})
		c.UpdateStrings([]string{"a"})
		ch := make(chan sd.Event, 1)
		c.Register(ch)
		c.UpdateStrings([]string{"b"})
		synctest.Wait()
		c.UpdateStrings([]string{"c"})
		synctest.Wait()
		reads(t, ch, "[a]", "[c]")
		c.Stop()
		c.UpdateStrings([]string{"d"})
		reads(t, ch)
	})
}
