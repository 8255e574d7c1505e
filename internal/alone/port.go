package alone

import (
	"context"
	"time"
)

// Port returns an address of this machine whose port is kept for a server that may
// come, go, and come again, until release is called. Meanwhile the system gives it to
// no connection and to nobody who asks for any port. Where a port cannot be kept it
// is only one that was free.
func Port() (address string, release func(), err error) {
	return keep("127.0.0.1:0")
}

// KeepPort keeps the port of a server that listens at an address and is about to
// end, from that moment on, until release is called.
func KeepPort(address string) (release func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	kept := func() {}
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if _, release, err := keep(address); err == nil {
				kept = release
				return
			}
			time.Sleep(time.Millisecond / 5)
		}
	}()
	return func() {
		cancel()
		<-done
		kept()
	}
}
