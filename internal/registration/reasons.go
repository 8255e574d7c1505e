package registration

import (
	"errors"
	"fmt"

	"github.com/kitsd/etcdv3/internal/etcd"
)

// Why a key that was registered is not. The registration goes on, and mends it.
var (
	errLeaseLost   = errors.New("the lease was lost, by expiry or revocation")
	errUnconfirmed = errors.New("no heartbeat was answered for as long as the lease lives")
	errKeyDeleted  = errors.New("the key was deleted from outside; it is put back at this heartbeat")
	errKeyChanged  = errors.New("the key holds an earlier value; it is put again at this heartbeat")

	// ErrKeyTaken says that another owner has the key.
	ErrKeyTaken = errors.New("the key was taken by another owner; it is put back when it is free")
)

// ErrInDoubt says that the key is not as it should be. Why is known at the next
// heartbeat: it may have gone with its lease.
var ErrInDoubt = errors.New("the key was deleted or written by somebody else; the next heartbeat tells why")

// Why a key is not registered any more, or not by who asked.
var (
	// ErrReleased says that the registration was ended.
	ErrReleased  = errors.New("deregistered, or the client's context has ended")
	errReplaced  = errors.New("another Registrar of the same client has registered the key")
	errElsewhere = errors.New("another client of this process has registered or deregistered the key")
	errOvertaken = errors.New("deregistered meanwhile")

	// ErrClosed says that the Book was closed.
	ErrClosed = errors.New("the client is closed")
)

// errEnded says that a registration ended before it took a request, which then
// goes to another one.
var errEnded = errors.New("the registration has ended")

// Ended reports whether a reason says that the registration is over, and will
// not come back by itself.
func Ended(err error) bool {
	return errors.Is(err, ErrReleased) || errors.Is(err, errReplaced) || errors.Is(err, errElsewhere)
}

// Losses are the words that Reason returns for what a registration may be lost by.
var Losses = append([]string{"lease lost", "key deleted", "key changed", "key taken"}, etcd.Reasons...)

// Reason returns one of a few words for why a key is not registered, as a label
// of metrics. What has to be mended first counts.
func Reason(err error) string {
	if reason := etcd.Reason(err); reason != "other" {
		return reason
	}
	switch {
	case errors.Is(err, errLeaseLost):
		return "lease lost"
	case errors.Is(err, errUnconfirmed):
		return "no answer"
	case errors.Is(err, errKeyDeleted):
		return "key deleted"
	case errors.Is(err, errKeyChanged):
		return "key changed"
	case errors.Is(err, ErrKeyTaken):
		return "key taken"
	case Ended(err):
		return "ended"
	case errors.Is(err, ErrInDoubt):
		return "in doubt"
	}
	return "other"
}

// unconfirmed returns why heartbeats are not answered, with the reason if it is known.
func unconfirmed(why error) error {
	if why == nil {
		return errUnconfirmed
	}
	if etcd.Refused(why) {
		return etcd.Explain(why)
	}
	return fmt.Errorf("%w: %w", errUnconfirmed, etcd.Explain(why))
}
