package etcdtest

import (
	"time"
)

// Settings are what a cluster costs and how it errs. All of them can be changed
// at any time with [Etcd.Set]. The zero value is an etcd that is well and takes
// no time.
//
// A hook gets the index of the member, the short name of the method, and the
// request. It must not change the request, which is nil for a stream that opens. Methods are named as in etcd's API: Range,
// Put, DeleteRange, Txn, Compact, LeaseGrant, LeaseRevoke, LeaseTimeToLive,
// LeaseLeases, Authenticate, Status, MemberList. Streams that open are named
// Watch and LeaseKeepAlive, and requests on them WatchCreate, WatchCancel,
// WatchProgress and Renew.
type Settings struct {
	// WriteTime is what each write takes of the one cluster, strictly one after
	// another. A write is carried out even if its caller has given up.
	WriteTime time.Duration

	// MaxPending is how many writes may wait until further ones are refused
	// with "too many requests". Zero means 5,000, as in etcd.
	MaxPending int

	// RequestTimeout is when etcd answers a waiting request with "request timed
	// out". A write is carried out all the same. Zero means never; etcd has 7 s.
	RequestTimeout time.Duration

	// ReadsDoNotWait makes linearizable reads ignore the writes that wait. By
	// default they wait for those that were there before them.
	ReadsDoNotWait bool

	// RenewTime is what each renewal takes of its stream.
	RenewTime time.Duration

	// CheckRenewals ends a keep-alive stream if the user may not write all keys
	// of the lease to renew, as etcd 3.7 does.
	CheckRenewals bool

	// MinTTL is the least TTL of a lease, in seconds. Zero means 2, as in etcd.
	MinTTL int64

	// RangeBytesPerSecond is how fast the cluster writes answers to Range, one
	// after another, whether or not somebody still waits. Zero is unlimited.
	RangeBytesPerSecond int

	// PasswordTime is what a password check takes of the one core that the
	// cluster has for it, one after another. It goes on when the caller gave up.
	PasswordTime time.Duration

	// TokenTTL is how long a token lives that is not used. Zero means 5 minutes.
	TokenTTL time.Duration

	// AsEtcd34 refuses a token that is not known also when it comes along with
	// a request to authenticate, as etcd 3.4 does.
	AsEtcd34 bool

	// Proxy makes the members answer as etcd's gRPC proxy. Watches are numbered
	// from 0 whatever id was asked for, and progress requests are not answered.
	// Headers of created and refused watches are empty but for the revision. A
	// lease is renewed once in a third of its TTL.
	Proxy bool

	// NoSpace refuses what would grow the store, as etcd does over its quota.
	NoSpace bool

	// Refuse answers a request with an error, without carrying it out.
	Refuse func(member int, method string, req any) error

	// Delay holds a request up before it is carried out. It is carried out also
	// if its caller gives up meanwhile.
	Delay func(member int, method string, req any) time.Duration

	// DelayAnswer holds an answer up after the request was carried out.
	DelayAnswer func(member int, method string, req any) time.Duration

	// Twice has a unary request carried out a second time, this long after the
	// first. Zero means once.
	Twice func(member int, method string, req any) time.Duration

	// Late has a unary request answered with the error at once, and carried out
	// after this time. Without an error its connection breaks instead. A time
	// of zero means neither.
	Late func(member int, method string, req any) (time.Duration, error)
}

func (s *Settings) maxPending() int {
	if s.MaxPending > 0 {
		return s.MaxPending
	}
	return 5000
}

func (s *Settings) minTTL() int64 {
	if s.MinTTL > 0 {
		return s.MinTTL
	}
	return 2
}

func (s *Settings) tokenTTL() time.Duration {
	if s.TokenTTL > 0 {
		return s.TokenTTL
	}
	return 5 * time.Minute
}

// Set changes the settings, for requests that come from now on and for those
// that wait.
func (e *Etcd) Set(change func(*Settings)) {
	e.setting.Lock()
	defer e.setting.Unlock()
	s := *e.settings.Load()
	change(&s)
	e.settings.Store(&s)
}

// now returns the settings of this moment.
func (e *Etcd) now() *Settings { return e.settings.Load() }
