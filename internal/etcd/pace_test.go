package etcd

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kitsd/etcdv3/internal/worker"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// tries counts who may send at this moment.
type tries struct {
	mu   sync.Mutex
	sent int
}

func (c *tries) pass(t *testing.T, p *pace, again bool) {
	alone, err := p.pass(t.Context(), again, func(error) {})
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sent++
	_ = alone
}

func (c *tries) count() int {
	synctest.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

func TestPace_WhileEtcdIsNotWell_OneGoesAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPace(), tries{}
		p.failed(false, rpctypes.ErrNoLeader)
		for range 50 {
			go c.pass(t, p, false)
		}
		time.Sleep(worker.BackoffMax)
		if n := c.count(); n != 1 {
			t.Fatalf("%d were sent, want 1", n)
		}
		p.failed(true, rpctypes.ErrNoLeader)
		time.Sleep(worker.BackoffMax)
		if n := c.count(); n != 2 {
			t.Fatalf("%d were sent after a second failure, want 2", n)
		}
		p.answered(true)
		if n := c.count(); n != 50 {
			t.Errorf("%d were sent after an answer, want all 50", n)
		}
	})
}

func TestPace_RefusedForLoad_WaitsForTheBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPace(), tries{}
		if !p.failed(false, rpctypes.ErrTooManyRequests) {
			t.Fatal("a first refusal is no news")
		}
		if p.failed(false, rpctypes.ErrTooManyRequests) {
			t.Fatal("one that was sent before is news")
		}
		go c.pass(t, p, true)
		time.Sleep(time.Hour)
		if n := c.count(); n != 0 {
			t.Fatalf("%d were sent while the backlog is measured", n)
		}
		p.measured(time.Minute)
		time.Sleep(2 * time.Minute)
		if n := c.count(); n != 1 {
			t.Errorf("%d were sent, want 1", n)
		}
	})
}

func TestPace_RepeatsArePaidForByAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, c := newPace(), tries{}
		for range 200 {
			go c.pass(t, p, true)
		}
		if n := c.count(); n != repeatsAtFirst+1 { // and one alone
			t.Fatalf("%d repeats were sent, want %d", n, repeatsAtFirst+1)
		}
		p.answered(true)
		if n := c.count(); n != repeatsAtFirst+2 {
			t.Errorf("%d repeats were sent after an answer, want %d", n, repeatsAtFirst+2)
		}
		for range 100 {
			p.answered(false)
		}
		p.answered(true)
		if n := c.count(); n < repeatsAtFirst+11 || n > repeatsAtFirst+14 {
			t.Errorf("%d repeats were sent after a hundred answers, want about %d", n, repeatsAtFirst+12)
		}
	})
}

func TestPace_WhoGivesUpLeavesTheWayFree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		p.failed(false, rpctypes.ErrNoLeader)
		time.Sleep(worker.BackoffMax)
		alone, err := p.pass(t.Context(), false, func(error) {})
		if !alone || err != nil {
			t.Fatal(alone, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var heard error
		if _, err := p.pass(ctx, false, func(err error) { heard = err }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if !errors.Is(heard, rpctypes.ErrNoLeader) {
			t.Errorf("who waits heard %v", heard)
		}
		p.over(true)
		if alone, err := p.pass(t.Context(), false, func(error) {}); !alone || err != nil {
			t.Error(alone, err)
		}
	})
}

// The wait after a refusal for load is short again once etcd has answered.
func TestPace_RefusedNowAndThen_WaitsNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace()
		for i := range 10 {
			p.failed(false, rpctypes.ErrTooManyRequests)
			p.measured(0)
			began := time.Now()
			if alone, err := p.pass(t.Context(), false, func(error) {}); err != nil || !alone {
				t.Fatal(alone, err)
			}
			if took := time.Since(began); took > 2*busyFirst {
				t.Errorf("refusal %d: waited %v", i, took)
			}
			p.answered(true)
		}
	})
}
