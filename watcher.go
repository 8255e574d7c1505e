package etcdv3

import (
	"context"
	"reflect"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// watcher opens watches that leave nothing behind. In clientv3 a watch whose
// context ends before the server has answered leaves its stream, and three
// goroutines, to the next watch with the same metadata (watch.go, Watch: the
// case of wr.ctx.Done). Only closing the clientv3.Watcher ends them; so each
// owner of watches has one of its own.
type watcher struct {
	clientv3.Watcher
	own bool
}

// newWatcher returns a watcher on a client. One that wraps its Watcher, by
// clientv3/namespace for example, has to be taken as it is.
func newWatcher(cli *clientv3.Client) *watcher {
	if cli.ActiveConnection() != nil {
		if w := clientv3.NewWatcher(cli); reflect.TypeOf(w) == reflect.TypeOf(cli.Watcher) {
			return &watcher{w, true}
		}
	}
	return &watcher{cli.Watcher, false}
}

// close ends all watches.
func (w *watcher) close() {
	if w.own {
		_ = w.Watcher.Close()
	}
}

// open starts a watch that lives as long as ctx. It blocks until the server has
// answered, which is ok, or ctx has ended, or the timeout is over. A Watcher
// that cannot be closed is not disturbed while it waits for a server.
func (w *watcher) open(ctx context.Context, timeout time.Duration, key string, opts ...clientv3.OpOption) (changes clientv3.WatchChan, ok bool) {
	watching, cancel := context.WithCancel(context.WithoutCancel(ctx))
	tooLate := time.AfterFunc(timeout, cancel)
	defer tooLate.Stop()
	if w.own {
		context.AfterFunc(ctx, cancel)
		changes = w.Watch(watching, key, opts...)
	} else {
		changes = w.Watch(watching, key, opts...)
		context.AfterFunc(ctx, cancel)
	}
	return changes, tooLate.Stop() && watching.Err() == nil
}
