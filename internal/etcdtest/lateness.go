package etcdtest

import (
	"math/rand/v2"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errLost is what a caller hears whose request is still on its way.
var errLost = status.Error(codes.Unavailable, "transport is closing")

// Lateness lets unary requests be late by up to a time, in any order. A request may
// be late before it is carried out, or after that. It may come a second time, or be
// carried out although its caller was told that it failed. Equal seeds make equal
// choices. Lateness is for [Etcd.Set].
func Lateness(seed uint64, most time.Duration) func(*Settings) {
	l := &lateness{random: rand.New(rand.NewPCG(seed, 0)), most: most}
	return func(s *Settings) {
		s.Delay = l.oneIn(3)
		s.DelayAnswer = l.oneIn(6)
		s.Twice = l.oneIn(6)
		late := l.oneIn(6)
		s.Late = func(member int, method string, req any) (time.Duration, error) {
			return late(member, method, req), l.failure()
		}
	}
}

type lateness struct {
	mu     sync.Mutex
	random *rand.Rand
	most   time.Duration
}

// oneIn makes one in so many requests late.
func (l *lateness) oneIn(n int) func(int, string, any) time.Duration {
	return func(_ int, method string, _ any) time.Duration {
		l.mu.Lock()
		defer l.mu.Unlock()
		if isStreamed(method) || l.random.IntN(n) != 0 {
			return 0
		}
		return time.Duration(1 + l.random.Int64N(int64(l.most)))
	}
}

// failure is how a request that is carried out all the same has failed: with an
// error of who stands between, or because etcd has given it up.
func (l *lateness) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.random.IntN(2) == 0 {
		return errLost
	}
	return rpctypes.ErrGRPCTimeout
}

// isStreamed reports whether a method is a stream or a request on one.
func isStreamed(method string) bool {
	switch method {
	case "Watch", "WatchCreate", "WatchCancel", "WatchProgress", "LeaseKeepAlive", "Renew":
		return true
	}
	return false
}
