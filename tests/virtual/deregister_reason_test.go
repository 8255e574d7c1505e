package virtual_test

import (
	"testing"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Whichever way a key is deregistered, and whoever has asked etcd.
func TestDeregisterInVain_TellsTheReason(t *testing.T) {
	for words, begin := range map[string]func(w *world){
		"connection refused": func(w *world) { w.all((*etcdtest.Member).Down) },
		"no leader":          func(w *world) { w.all((*etcdtest.Member).LoseLeader) },
		"too many requests": func(w *world) {
			w.refuses(rpctypes.ErrGRPCRequestTooManyRequests, "LeaseRevoke", "Range", "Txn", "DeleteRange")
		},
	} {
		t.Run(words, func(t *testing.T) {
			virtually(t, func(w *world) {
				_, r, j := w.registered()
				other, _ := w.client()
				begin(w)
				w.within(requestTimeout, r.Deregister)
				w.logs(j, 1, "not deregistered", words)
				for _, options := range []*etcdv3.DeleteOptions{nil, {PrevValue: "v"}, {Recursive: true}} {
					var err error
					w.within(requestTimeout, func() { err = other.Deregister(etcdv3.Service{Key: "/s/1", DeleteOptions: options}) })
					w.says(err, words)
				}
			})
		})
	}
}
