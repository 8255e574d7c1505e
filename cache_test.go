package etcdv3

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/kit/sd"
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

func TestVirtual_Cache_LateSubscriberGetsTheSetAndThenTheError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		c.updateStrings([]string{"b", "a", "b"})
		c.fail(errors.New("away"))
		ch := make(chan sd.Event)
		go c.register(ch)
		reads(t, ch, "[a b]", "error away")
		c.fail(errors.New("away")) // again
		reads(t, ch)
		c.fail(errors.New("still away"))
		reads(t, ch, "error still away")
		c.updateStrings([]string{"a", "b"})
		reads(t, ch, "[a b]")
		c.updateStrings([]string{"a", "b"})
		reads(t, ch)
		c.stop()
		c.stop()
	})
}

func TestVirtual_Cache_ErrorWithoutASet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		c.fail(errors.New("away"))
		ch := make(chan sd.Event)
		go c.register(ch)
		reads(t, ch, "error away")
		if got := asText(c.State()); got != "error away" {
			t.Error(got)
		}
		c.updateStrings(nil)
		reads(t, ch, "[]")
		c.fail(errors.New("away"))
		reads(t, ch, "error away")
		c.stop()
	})
}

func TestVirtual_Cache_ChangesWhileNobodyReadsBecomeOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		c.updateStrings([]string{"first"})
		ch := make(chan sd.Event)
		go c.register(ch)
		reads(t, ch, "[first]")
		for i := range 100 {
			c.updateStrings([]string{fmt.Sprint(i)})
			synctest.Wait()
		}
		reads(t, ch, "[99]")
		c.updateStrings([]string{"there and back"})
		synctest.Wait()
		c.updateStrings([]string{"99"})
		synctest.Wait()
		reads(t, ch)
		c.fail(errors.New("away"))
		synctest.Wait()
		c.updateStrings([]string{"99"})
		synctest.Wait()
		reads(t, ch)
		// An error does not hide a set that was not seen yet.
		c.updateStrings([]string{"100"})
		c.fail(errors.New("away"))
		reads(t, ch, "[100]", "error away")
		c.stop()
	})
}

func TestVirtual_Cache_RegisteredTwice_StartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		c.updateStrings([]string{"a"})
		ch := make(chan sd.Event, 10)
		c.register(ch)
		c.register(ch)
		reads(t, ch, "[a]", "[a]")
		c.updateStrings([]string{"b"})
		reads(t, ch, "[b]")
		c.deregister(ch)
		c.deregister(ch)
		c.updateStrings([]string{"c"})
		reads(t, ch)
		c.register(nil)
		c.deregister(nil)
	})
}

func TestVirtual_Cache_ConcurrentDeregister_AllReturnWhenNothingIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		c.updateStrings([]string{"a"})
		for range 100 {
			ch := make(chan sd.Event) // nobody reads
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() { c.register(ch) })
			}
			synctest.Wait()
			for range 5 {
				all.Go(func() { c.deregister(ch) })
			}
			all.Go(func() { c.updateStrings([]string{fmt.Sprintf("%p", ch)}) })
			synctest.Wait()
			for range 3 { // a register that came late has subscribed again
				c.deregister(ch)
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

func TestVirtual_Cache_Stopped_GivesTheLastStateOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		c.updateStrings([]string{"a"})
		c.stop()
		c.updateStrings([]string{"b"})
		c.fail(errors.New("away"))
		ch := make(chan sd.Event, 10)
		c.register(ch)
		reads(t, ch, "[a]")
		c.deregister(ch)
		if got := asText(c.State()); got != "[a]" {
			t.Error(got)
		}
	})
}

// large returns a set that is worth a copy ahead, and what puts n more into it.
func large() (set instances, more func(n int) instances) {
	for i := range worthAhead {
		set, _ = set.with(fmt.Sprintf("%06d", i))
	}
	last := set
	return set, func(n int) instances {
		for range n {
			last, _ = last.with(fmt.Sprintf("%06d", last.len))
		}
		return last
	}
}

func TestVirtual_Cache_LargeSets_EachEventIsTheSubscribersOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		set, more := large()
		c.update(set)
		var all []chan sd.Event
		for range 3 {
			ch := make(chan sd.Event, 1)
			c.register(ch)
			<-ch
			all = append(all, ch)
		}
		for i := range 200 {
			if i%10 == 0 {
				c.fail(errors.New("away"))
				for _, ch := range all {
					if got := asText(<-ch); got != "error away" {
						t.Fatal(got)
					}
				}
			}
			set = more(1 + i%4)
			c.update(set)
			for _, ch := range all {
				event := <-ch
				if !slices.Equal(event.Instances, set.strings()) {
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
		c.stop()
	})
}

func TestVirtual_Cache_LargeSetsThatNobodyTakes_ChangeWhatIsOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		set, more := large()
		c.update(set)
		ch := make(chan sd.Event)
		go c.register(ch)
		<-ch
		for i := range 100 {
			for range i % 5 {
				c.update(more(1))
				time.Sleep(time.Duration(i%3) * time.Second)
			}
			set = more(1)
			c.update(set)
			time.Sleep(time.Duration(i%7) * keptAhead / 3)
			synctest.Wait() // else what was offered before may be taken
			if event := <-ch; !slices.Equal(event.Instances, set.strings()) {
				t.Fatalf("event %d is not the set", i)
			}
		}
		c.stop()
	})
}

func TestVirtual_Cache_CopyIsKeptAheadWhileChangesCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache()
		set, more := large()
		c.update(set)
		var all []chan sd.Event
		for range 3 {
			ch := make(chan sd.Event, 1)
			c.register(ch)
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
		c.update(more(1))
		take()
		kept(true, "after a change")
		time.Sleep(keptAhead)
		kept(false, "long after the last change")
		c.update(more(1))
		take()
		kept(true, "after another change")
		c.stop()
		kept(false, "after the end")
	})
}
