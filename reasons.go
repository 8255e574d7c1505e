package etcdv3

import "errors"

// Why a key that was registered is not. The registration goes on, and mends it.
var (
	errLeaseLost   = errors.New("the lease was lost, by expiry or revocation")
	errUnconfirmed = errors.New("no heartbeat was answered for as long as the lease lives: etcd is out of reach, or refuses the user")
	errKeyDeleted  = errors.New("the key was deleted from outside, or with its lease; it is put back at the next heartbeat")
	errKeyChanged  = errors.New("the key holds an earlier value; it is put again at the next heartbeat")
	errKeyTaken    = errors.New("the key was taken by another owner; it is put back when it is free")
)

// isLoss reports whether a reason is one of these.
func isLoss(err error) bool {
	switch err {
	case errLeaseLost, errUnconfirmed, errKeyDeleted, errKeyChanged, errKeyTaken:
		return true
	}
	return false
}

// Why a key is not registered any more, or not by who asked.
var (
	errReleased  = errors.New("deregistered, or the client's context has ended")
	errReplaced  = errors.New("another Registrar of the same client has registered the key")
	errOvertaken = errors.New("deregistered meanwhile")
)

// errEnded says that a registration ended before it took a request, which then
// goes to another one.
var errEnded = errors.New("the registration has ended")
