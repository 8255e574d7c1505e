// Package health registers a service while it is healthy.
package health

import (
	"context"
	"time"

	"github.com/go-kit/kit/sd"
)

// Check tells whether the service can work: its database answers, its cache is
// warm.
type Check func(ctx context.Context) error

// Follow checks every so often, and deregisters the service after so many
// failures in a row. One success registers it. Follow returns when ctx has ended,
// and the service is deregistered then.
func Follow(ctx context.Context, registrar sd.Registrar, check Check, every time.Duration, failures int) {
	registered, failed := false, 0
	defer func() {
		if registered {
			registrar.Deregister()
		}
	}()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for ctx.Err() == nil {
		attempt, cancel := context.WithTimeout(ctx, every)
		err := check(attempt)
		cancel()
		switch {
		case ctx.Err() != nil: // which may be why it failed
		case err == nil:
			if failed = 0; !registered {
				registrar.Register()
				registered = true
			}
		default:
			if failed++; registered && failed >= failures {
				registrar.Deregister()
				registered = false
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}
