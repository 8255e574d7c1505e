package etcdv3

import (
	"errors"
	"math"
	"time"
)

var (
	// ErrNoKey says that a method needs Service.Key and got an empty one.
	ErrNoKey = errors.New("no key provided")

	// ErrNoValue says that a method needs Service.Value and got an empty one.
	ErrNoValue = errors.New("no value provided")

	// ErrCompareFailed says that a guarded Deregister (see DeleteOptions)
	// found another value or another revision than the guard names. Nothing
	// was deleted.
	ErrCompareFailed = errors.New("compare failed")
)

// Service is one instance as it is published in etcd: a key, and the value
// that every subscriber of a prefix of that key receives.
type Service struct {
	// Key must be unique among all instances, as "/services/foo/10.0.0.1:8080"
	// is. Two instances with one key are one instance for everybody: the one that
	// registered last.
	Key string

	// Value is what subscribers receive as the instance, for example
	// "http://10.0.0.1:8080". It is opaque to this package, and must not be empty.
	Value string

	// TTL says how often the registration is renewed, and how long it
	// outlives its process. Nil means a heartbeat of 3 s and a TTL of 10 s.
	TTL *TTLOption

	// DeleteOptions guard and widen Deregister. Nil means: delete the key.
	DeleteOptions *DeleteOptions
}

const (
	minHeartBeatTime = 500 * time.Millisecond
	defaultHeartbeat = 3 * time.Second
	defaultTTL       = 10 * time.Second

	// maxLeaseSeconds is what etcd accepts at most
	// (server/lease/lessor.go, MaxLeaseTTL).
	maxLeaseSeconds = 9_000_000_000
)

// TTLOption is how a registration is kept alive. Its zero value means a
// heartbeat of 3 s and a TTL of 10 s. It is immutable, and so safe to share.
type TTLOption struct {
	heartbeat time.Duration
	ttl       time.Duration
}

// NewTTLOption returns a TTLOption. The heartbeat is how often the lease is
// renewed. The ttl is how long etcd keeps the key after the last heartbeat that
// reached it. The first heartbeat of a service may come up to half a heartbeat
// early, to share a write with others of its client.
//
// A heartbeat under 500 ms becomes 500 ms. A ttl that is not above the heartbeat
// becomes three heartbeats. etcd counts leases in whole seconds, so the ttl is
// rounded up. etcd itself raises a ttl that is below one and a half of its
// election timeouts (2 s with its defaults).
//
// A ttl of three heartbeats or more survives the loss of a member: 3 s and 10 s
// are good values.
func NewTTLOption(heartbeat, ttl time.Duration) *TTLOption {
	if heartbeat <= minHeartBeatTime {
		heartbeat = minHeartBeatTime
	}
	if ttl <= heartbeat {
		ttl = math.MaxInt64
		if heartbeat < math.MaxInt64/3 {
			ttl = 3 * heartbeat
		}
	}
	return &TTLOption{heartbeat: heartbeat, ttl: ttl}
}

// timing returns the heartbeat that applies, and the lease's TTL in the whole
// seconds that etcd counts in.
func (o *TTLOption) timing() (heartbeat time.Duration, ttlSeconds int64) {
	heartbeat, ttl := defaultHeartbeat, defaultTTL
	if o != nil && *o != (TTLOption{}) {
		heartbeat, ttl = o.heartbeat, o.ttl
	}
	seconds := int64(ttl / time.Second)
	if ttl%time.Second != 0 {
		seconds++
	}
	return heartbeat, min(seconds, maxLeaseSeconds)
}

// DeleteOptions change what Deregister deletes. The names are those of etcd v2's
// client, which sd/etcd used. Their meaning is etcd v3's. If a guard fails,
// Deregister returns ErrCompareFailed and deletes nothing.
type DeleteOptions struct {
	// PrevValue, when not empty, makes Deregister delete only if the key's
	// value is this one.
	PrevValue string

	// PrevIndex, when not 0, makes Deregister delete only if the key's mod
	// revision is this one.
	PrevIndex uint64

	// Recursive makes Deregister delete everything under Key + "/" too, whoever
	// has put it there.
	Recursive bool
}

// check returns what is wrong with a service that is to be registered.
func (s Service) check() error {
	switch {
	case s.Key == "":
		return ErrNoKey
	case s.Value == "":
		return ErrNoValue
	}
	return nil
}
