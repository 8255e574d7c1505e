package stock

import (
	"context"

	"github.com/go-kit/kit/endpoint"
)

// takeEndpoint turns an Order into a Receipt.
func takeEndpoint(s Service) endpoint.Endpoint {
	return func(ctx context.Context, request any) (any, error) {
		return s.Take(ctx, request.(Order))
	}
}

// listEndpoint takes no request, and returns a map[string]int.
func listEndpoint(s Service) endpoint.Endpoint {
	return func(ctx context.Context, _ any) (any, error) {
		return s.List(ctx)
	}
}
