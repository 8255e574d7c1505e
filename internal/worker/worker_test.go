package worker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestStop_ReturnsAfterTheGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := false
		w := Start(t.Context(), func(ctx context.Context) {
			<-ctx.Done()
			time.Sleep(time.Second)
			ended = true
		})
		w.Stop()
		w.Stop()
		if !ended {
			t.Error("Stop returned before the goroutine did")
		}
	})
}

func TestStopWithin_WaitsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := Start(t.Context(), func(context.Context) { time.Sleep(time.Minute) })
		began := time.Now()
		w.StopWithin(time.Second)
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("waited %v, want 1 s", waited)
		}
		<-w.Done()
	})
}

func TestEnds_OneThatHasReturnedHasAlsoWhenTheTimeIsOver(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	lives := Start(t.Context(), func(ctx context.Context) { <-ctx.Done() })
	defer lives.Stop()
	if lives.Ends(over) {
		t.Error("ends, while it lives")
	}
	w := Start(t.Context(), func(context.Context) {})
	<-w.Done()
	for range 100 {
		if !w.Ends(over) {
			t.Fatal("does not end, although it has")
		}
	}
}

func TestBackoff_DoublesBetweenItsBounds(t *testing.T) {
	for _, b := range []Backoff{{}, {First: time.Second, Max: time.Minute}} {
		first, most := b.First, b.Max
		if first == 0 {
			first, most = BackoffFirst, BackoffMax
		}
		for want := 2 * first; want < 4*most; want *= 2 {
			bound := min(want, most)
			if got := b.Next(); got < bound/2 || got > bound {
				t.Errorf("waits %v, want %v to %v", got, bound/2, bound)
			}
		}
		b.Reset()
		if got := b.Next(); got > 2*first {
			t.Errorf("waits %v after a success, want at most %v", got, 2*first)
		}
	}
}
