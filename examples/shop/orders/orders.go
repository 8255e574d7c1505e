// Package orders is the service that takes orders, and has stock serve them.
package orders

import (
	"context"
	"time"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/examples/shop/internal/discover"
	"github.com/kitsd/etcdv3/examples/shop/stock"
)

// Prefix is where instances of this package's service register themselves. The
// values are host:port.
const Prefix = "/shop/orders/"

// How long an instance of stock may take, and one of orders, which may have to
// ask more than one of stock.
const (
	stockPatience = time.Second
	patience      = 3 * time.Second
)

// A Confirmation says what became of an order, and who served it.
type Confirmation struct {
	stock.Receipt
	PlacedWith string `json:"placedWith"`
}

// Service is orders' interface.
type Service interface {
	// Place serves an order once, however often it is called with its ID.
	Place(ctx context.Context, order stock.Order) (Confirmation, error)

	// Stock returns how many of each item there are.
	Stock(ctx context.Context) (map[string]int, error)
}

// Desk is a Service that finds stock by discovery.
type Desk struct {
	name string
	take endpoint.Endpoint
	list endpoint.Endpoint
	stop []func()
}

// NewDesk returns the desk with the given name. Call Close at its end.
func NewDesk(client etcdv3.Client, name string, logger log.Logger) (*Desk, error) {
	take, stopTake, err := discover.Endpoint(client, stock.GRPCPrefix, stock.TakeFactory(), stockPatience, logger)
	if err != nil {
		return nil, err
	}
	list, stopList, err := discover.Endpoint(client, stock.HTTPPrefix, stock.ListFactory(), stockPatience, logger)
	if err != nil {
		stopTake()
		return nil, err
	}
	return &Desk{name: name, take: take, list: list, stop: []func(){stopTake, stopList}}, nil
}

// Close ends discovery.
func (d *Desk) Close() {
	for _, stop := range d.stop {
		stop()
	}
}

// Place implements Service, by gRPC.
func (d *Desk) Place(ctx context.Context, order stock.Order) (Confirmation, error) {
	receipt, err := d.take(ctx, order)
	if err != nil {
		return Confirmation{}, err
	}
	return Confirmation{Receipt: receipt.(stock.Receipt), PlacedWith: d.name}, nil
}

// Stock implements Service, by HTTP.
func (d *Desk) Stock(ctx context.Context) (map[string]int, error) {
	counts, err := d.list(ctx, nil)
	if err != nil {
		return nil, err
	}
	return counts.(map[string]int), nil
}
