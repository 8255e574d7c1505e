package etcd

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kitsd/etcdv3/internal/meter"
)

func TestQueue_LetsInAsManyAsItsLimit_InOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(meter.None, newReasons())
		var order []int
		var mu sync.Mutex
		leaves := make(chan func(), 100)
		for i := range 100 {
			go func() {
				leave, err := q.Enter(t.Context())
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				leaves <- leave
			}()
			synctest.Wait()
		}
		if len(order) != inFlightFirst {
			t.Fatalf("%d are inside, want %d", len(order), inFlightFirst)
		}
		for range 100 {
			(<-leaves)()
			synctest.Wait()
		}
		if len(order) != 100 || !slices.IsSorted(order) {
			t.Errorf("the order was %v", order)
		}
	})
}

func TestQueue_WhoGivesUpLosesNoTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(meter.None, newReasons())
		var leave func()
		for range inFlightFirst {
			leave, _ = q.Enter(t.Context())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := q.Enter(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		leave()
		if _, err := q.Enter(t.Context()); err != nil {
			t.Error(err)
		}
		if q.inside != inFlightFirst || q.waiting.Len() != 0 {
			t.Errorf("%d inside, %d waiting", q.inside, q.waiting.Len())
		}
	})
}

// served runs n turns of one answer each through a queue, and returns how many
// were inside at most, and how long all took. The answer takes what the etcd says.
func served(t *testing.T, n int, etcd func(inside int) time.Duration) (most int, took time.Duration) {
	q := newQueue(meter.None, newReasons())
	var mu sync.Mutex
	began := time.Now()
	done := make(chan struct{})
	for range n {
		go func() {
			leave, err := q.Enter(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			q.mu.Lock()
			inside := q.inside
			q.mu.Unlock()
			mu.Lock()
			most = max(most, inside)
			mu.Unlock()
			answer := etcd(inside)
			time.Sleep(answer)
			q.answered(answer)
			leave()
			done <- struct{}{}
		}()
	}
	for range n {
		<-done
	}
	return most, time.Since(began)
}

func TestQueue_EtcdThatIsFarAway_IsAskedForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most, took := served(t, 5000, func(int) time.Duration { return time.Second })
		if most != inFlightMost {
			t.Errorf("%d were inside at most, want %d", most, inFlightMost)
		}
		if took > 40*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestQueue_EtcdThatIsBusy_IsNotAskedForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		most, _ := served(t, 5000, func(inside int) time.Duration { return time.Duration(inside) * 10 * time.Millisecond })
		if most > 2*inFlightFirst {
			t.Errorf("%d were inside at most", most)
		}
	})
}

// The first answers come from a member that is near, all others from far away.
func TestQueue_EtcdThatWasNear_IsAskedForMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n atomic.Int64
		most, took := served(t, 5000, func(int) time.Duration {
			if n.Add(1) <= inFlightFirst {
				return time.Millisecond
			}
			return time.Second
		})
		if most != inFlightMost {
			t.Errorf("%d were inside at most, want %d", most, inFlightMost)
		}
		if took > 2*time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}
