package orders

import (
	"context"
	"net/http"

	"github.com/go-kit/kit/endpoint"
	kithttp "github.com/go-kit/kit/transport/http"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/examples/shop/internal/discover"
	"github.com/kitsd/etcdv3/examples/shop/internal/jsonhttp"
	"github.com/kitsd/etcdv3/examples/shop/stock"
)

const (
	placePath = "/orders"
	stockPath = "/stock"
)

// Handler serves orders by HTTP: POST /orders and GET /stock.
func Handler(s Service) *http.ServeMux {
	place := func(ctx context.Context, request any) (any, error) { return s.Place(ctx, request.(stock.Order)) }
	list := func(ctx context.Context, _ any) (any, error) { return s.Stock(ctx) }
	mux := http.NewServeMux()
	mux.Handle("POST "+placePath, kithttp.NewServer(place, jsonhttp.DecodeRequest[stock.Order], kithttp.EncodeJSONResponse))
	mux.Handle("GET "+stockPath, kithttp.NewServer(list, kithttp.NopRequestDecoder, kithttp.EncodeJSONResponse))
	return mux
}

// Client is a Service that finds instances of orders by discovery.
type Client struct {
	place endpoint.Endpoint
	list  endpoint.Endpoint
	stop  []func()
}

// NewClient returns a client of orders. Call Close at its end.
func NewClient(client etcdv3.Client, logger log.Logger) (*Client, error) {
	place, stopPlace, err := discover.Endpoint(client, Prefix, jsonhttp.Factory[Confirmation](http.MethodPost, placePath), patience, logger)
	if err != nil {
		return nil, err
	}
	list, stopList, err := discover.Endpoint(client, Prefix, jsonhttp.Factory[map[string]int](http.MethodGet, stockPath), patience, logger)
	if err != nil {
		stopPlace()
		return nil, err
	}
	return &Client{place: place, list: list, stop: []func(){stopPlace, stopList}}, nil
}

// Close ends discovery.
func (c *Client) Close() {
	for _, stop := range c.stop {
		stop()
	}
}

// Place implements Service.
func (c *Client) Place(ctx context.Context, order stock.Order) (Confirmation, error) {
	confirmation, err := c.place(ctx, order)
	if err != nil {
		return Confirmation{}, err
	}
	return confirmation.(Confirmation), nil
}

// Stock implements Service.
func (c *Client) Stock(ctx context.Context) (map[string]int, error) {
	counts, err := c.list(ctx, nil)
	if err != nil {
		return nil, err
	}
	return counts.(map[string]int), nil
}
