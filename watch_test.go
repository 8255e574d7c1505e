package etcdv3

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestWatchFarBehind_IsListedAndNotResumed(t *testing.T) {
	for _, test := range []struct {
		name      string
		endpoints []string
		seen      int64
		want      bool
	}{
		{"one endpoint", []string{"127.0.0.1:1"}, 5000, false},
		{"up to date", []string{"127.0.0.1:1", "127.0.0.1:2"}, 5000, true},
		{"a little behind", []string{"127.0.0.1:1", "127.0.0.1:2"}, 5000 - resumeWithin, true},
		{"far behind", []string{"127.0.0.1:1", "127.0.0.1:2"}, 5000 - resumeWithin - 1, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, _ := connect(t, ClientOptions{}, test.endpoints...)
			w := &watch{cli: c.cli, header: &pb.ResponseHeader{Revision: 5000}, seen: test.seen}
			if w.resumable() != test.want {
				t.Errorf("resumable: %v", !test.want)
			}
		})
	}
}
