//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package alone

import (
	"errors"
	"os"
	"syscall"
)

// tryLock reports whether there is nothing to wait for: the lock is ours, or
// there are no locks in that place.
func tryLock(file *os.File) bool {
	return !errors.Is(syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}
