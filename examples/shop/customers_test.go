//go:build unix

package shop_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3/examples/shop/orders"
	"github.com/kitsd/etcdv3/examples/shop/stock"
)

// customers place one order after the other.
type customers struct {
	service *orders.Client
	cancel  context.CancelFunc
	done    sync.WaitGroup

	mu     sync.Mutex // guards all below
	placed int
	failed []string
	by     map[string]int // orders since the last mark, by the instances that served them
}

func newCustomers(t *testing.T, town *town) *customers {
	t.Helper()
	service, err := orders.NewClient(town.client, log.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(service.Close)
	if printed := town.shop(t, "order", "apple", "1"); !strings.Contains(printed, fmt.Sprintf("%d left", apples-1)) {
		t.Errorf("the first order printed %q", printed)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &customers{service: service, cancel: cancel, placed: 1, by: map[string]int{}}
	for range 3 {
		c.done.Go(func() { c.buy(ctx) })
	}
	t.Cleanup(func() {
		cancel()
		c.done.Wait()
	})
	return c
}

// buy places an order every 20 ms.
func (c *customers) buy(ctx context.Context) {
	for ticker := time.NewTicker(20 * time.Millisecond); ; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			ticker.Stop()
			return
		}
		c.place()
	}
}

func (c *customers) place() {
	confirmation, err := c.service.Place(context.Background(), stock.Order{ID: rand.Text(), Item: "apple", Count: 1})
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		c.failed = append(c.failed, err.Error())
	case confirmation.Refused != "":
		c.failed = append(c.failed, confirmation.Refused)
	default:
		c.placed++
		c.by[confirmation.By]++
		c.by[confirmation.PlacedWith]++
	}
}

// mark begins to count by instance anew.
func (c *customers) mark() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by = map[string]int{}
}

// areServedByAll waits until every instance that runs has served an order.
func (c *customers) areServedByAll(t *testing.T, town *town) {
	t.Helper()
	served := func(address string) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.by[address] > 0
	}
	for _, i := range town.stock {
		if i.runs() {
			eventually(t, 10*time.Second, "an order is served by stock "+i.grpc, func() bool { return served(i.grpc) })
		}
	}
	for _, i := range town.orders {
		if i.runs() {
			eventually(t, 10*time.Second, "an order is placed with orders "+i.http, func() bool { return served(i.http) })
		}
	}
}

// goHome ends the orders, checks that none failed, and returns how many there were.
func (c *customers) goHome(t *testing.T) int {
	t.Helper()
	c.cancel()
	c.done.Wait()
	for _, failure := range c.failed {
		t.Errorf("an order failed: %s", failure)
	}
	return c.placed
}
