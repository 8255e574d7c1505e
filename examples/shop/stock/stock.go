// Package stock is the service that knows what is on the shelves. It is called
// by HTTP and by gRPC.
package stock

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Where instances of this package's service register themselves, one prefix
// for each transport. The values are host:port.
const (
	HTTPPrefix = "/shop/stock/http/"
	GRPCPrefix = "/shop/stock/grpc/"
)

// An Order takes goods off the shelf. Its ID makes it safe to send it again.
type Order struct {
	ID    string `json:"id"`
	Item  string `json:"item"`
	Count int    `json:"count"`
}

// A Receipt says what became of an order.
type Receipt struct {
	Left    int    `json:"left"`              // of the item, after the order
	Refused string `json:"refused,omitempty"` // why the order cannot be served, if it cannot
	By      string `json:"by"`                // the instance that served it
}

// Service is stock's interface. An order that is refused is no error: to send
// it again, or to another instance, would not help.
type Service interface {
	// Take serves an order once, however often it is called with its ID.
	Take(ctx context.Context, order Order) (Receipt, error)

	// List returns how many of each item there are.
	List(ctx context.Context) (map[string]int, error)
}

// Keys of the store. A real shop would have a database; etcd is here already.
const (
	itemPrefix  = "/shop-store/items/"
	orderPrefix = "/shop-store/orders/"
)

// Shelves are a Service on etcd. All instances share them.
type Shelves struct {
	kv   clientv3.KV
	name string
}

// NewShelves returns the shelves as the instance with the given name sees them.
func NewShelves(kv clientv3.KV, name string) *Shelves { return &Shelves{kv: kv, name: name} }

// Fill puts an item on the shelf, unless it is known there.
func (s *Shelves) Fill(ctx context.Context, item string, count int) error {
	key := itemPrefix + item
	_, err := s.kv.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
		Then(clientv3.OpPut(key, strconv.Itoa(count))).Commit()
	return err
}

// Take implements Service.
func (s *Shelves) Take(ctx context.Context, order Order) (Receipt, error) {
	if order.ID == "" || order.Item == "" || order.Count <= 0 {
		return Receipt{Refused: "an order has an id, an item, and a count above 0", By: s.name}, nil
	}
	for {
		receipt, done, err := s.try(ctx, order)
		if done || err != nil {
			return receipt, err
		}
	}
}

// try is one attempt. It is not done if another order was faster.
func (s *Shelves) try(ctx context.Context, order Order) (receipt Receipt, done bool, err error) {
	itemKey, orderKey := itemPrefix+order.Item, orderPrefix+order.ID
	found, err := s.kv.Txn(ctx).Then(clientv3.OpGet(itemKey), clientv3.OpGet(orderKey)).Commit()
	if err != nil {
		return Receipt{}, false, err
	}
	item := found.Responses[0].GetResponseRange().Kvs
	if before := found.Responses[1].GetResponseRange().Kvs; len(before) > 0 {
		return receipt, true, json.Unmarshal(before[0].Value, &receipt)
	}
	if len(item) == 0 {
		return Receipt{Refused: "there is no " + order.Item, By: s.name}, true, nil
	}
	count, err := strconv.Atoi(string(item[0].Value))
	if err != nil {
		return Receipt{}, false, fmt.Errorf("key %s: %w", itemKey, err)
	}
	if order.Count > count {
		return Receipt{Left: count, Refused: "there are not enough", By: s.name}, true, nil
	}
	receipt = Receipt{Left: count - order.Count, By: s.name}
	text, err := json.Marshal(receipt)
	if err != nil {
		return Receipt{}, false, err
	}
	written, err := s.kv.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(itemKey), "=", item[0].ModRevision),
			clientv3.Compare(clientv3.CreateRevision(orderKey), "=", 0)).
		Then(clientv3.OpPut(itemKey, strconv.Itoa(receipt.Left)), clientv3.OpPut(orderKey, string(text))).
		Commit()
	if err != nil {
		return Receipt{}, false, err
	}
	return receipt, written.Succeeded, nil
}

// List implements Service.
func (s *Shelves) List(ctx context.Context) (map[string]int, error) {
	found, err := s.kv.Get(ctx, itemPrefix, clientv3.WithPrefix())
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, kv := range found.Kvs {
		count, err := strconv.Atoi(string(kv.Value))
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", kv.Key, err)
		}
		counts[string(kv.Key[len(itemPrefix):])] = count
	}
	return counts, nil
}
