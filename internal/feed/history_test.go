package feed

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What a read of the present store contradicts was another store.
func TestHistory_AReadTellsOfAnotherStore(t *testing.T) {
	known := History{number: 1, cluster: 7, term: 3, revision: 100}
	for name, test := range map[string]struct {
		before, since History
		read          *pb.ResponseHeader
		another       bool
	}{
		"the same":             {known, known, &pb.ResponseHeader{ClusterId: 7, RaftTerm: 3, Revision: 100}, false},
		"goes on":              {known, known, &pb.ResponseHeader{ClusterId: 7, RaftTerm: 4, Revision: 101}, false},
		"a proxy's":            {known, known, &pb.ResponseHeader{}, false},
		"another cluster":      {known, known, &pb.ResponseHeader{ClusterId: 8, RaftTerm: 3, Revision: 100}, true},
		"an earlier revision":  {known, known, &pb.ResponseHeader{ClusterId: 7, RaftTerm: 3, Revision: 99}, true},
		"overtaken":            {known, known, &pb.ResponseHeader{ClusterId: 7, RaftTerm: 2, Revision: 500}, true},
		"sent before an event": {known, History{number: 1, cluster: 7, term: 3, revision: 120}, &pb.ResponseHeader{ClusterId: 7, RaftTerm: 3, Revision: 110}, false},
		"noticed meanwhile":    {known, History{number: 2, cluster: 7, term: 2, revision: 5}, &pb.ResponseHeader{ClusterId: 7, RaftTerm: 2, Revision: 6}, false},
	} {
		now := test.since
		if got := now.noteRead(test.before, test.read); got != test.another {
			t.Errorf("%s: another store: %v", name, got)
		}
		if moved := now.number > test.since.number; moved != test.another {
			t.Errorf("%s: %+v", name, now)
		}
	}
}
