package alone

import (
	"context"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/worker"
)

// Port returns an address of this machine whose port is kept until the test's end,
// for a server that may come, go, and come again. Meanwhile the system gives it to no
// connection and to nobody who asks for any port. Where a port cannot be kept it is
// only one that was free.
func Port(t testing.TB) (address string) {
	t.Helper()
	address, release, err := NewPort()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(release)
	return address
}

// NewPort is Port, until release is called.
func NewPort() (address string, release func(), err error) { return keep("127.0.0.1:0") }

// KeepPort keeps the port of a server that listens at an address and is about to
// end, from that moment on, until release is called.
func KeepPort(address string) (release func()) {
	kept := func() {}
	w := worker.Start(context.Background(), func(ctx context.Context) {
		for ctx.Err() == nil {
			if _, release, err := keep(address); err == nil {
				kept = release
				return
			}
			worker.Sleep(ctx, time.Millisecond/5)
		}
	})
	return func() {
		w.Stop()
		kept()
	}
}
