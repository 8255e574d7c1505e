// Package first prefers instances that are near to those that are far.
package first

import (
	"errors"

	"github.com/go-kit/kit/endpoint"
	"github.com/go-kit/kit/sd/lb"
)

// Balancer asks its balancers in turn, until one has an endpoint.
type Balancer []lb.Balancer

// Endpoint implements lb.Balancer.
func (b Balancer) Endpoint() (endpoint.Endpoint, error) {
	for _, balancer := range b {
		next, err := balancer.Endpoint()
		if !errors.Is(err, lb.ErrNoEndpoints) {
			return next, err
		}
	}
	return nil, lb.ErrNoEndpoints
}
