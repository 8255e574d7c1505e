package feed

import (
	"errors"

	"github.com/kitsd/etcdv3/internal/etcd"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Why watches end that did not end by themselves.
var (
	// ErrAnotherHistory says that etcd's store is not the one that it was: it was
	// wiped, or restored. What was known of it is void.
	ErrAnotherHistory = errors.New("etcd's revisions start over: its store is another one")

	errStandsStill = errors.New("the member's store stands still, while etcd goes on")
	errNoSign      = errors.New("the watch gives no sign of life, while etcd answers")
	errNotOpened   = errors.New("etcd does not answer to the watch, while it answers reads")
	errMisfit      = errors.New("etcd gave an answer to a watch that fits no question")
	errCancelled   = errors.New("the watch was cancelled by the server")
	errClosed      = errors.New("the watch was closed")
)

// History is how far etcd's history is known to go. It has a number, since a
// store that is wiped, or restored, begins another one.
type History struct {
	number        int // from 1
	cluster, term uint64
	revision      int64
}

// reach notes that there was a revision.
func (h *History) reach(revision int64) { h.revision = max(h.revision, revision) }

// note notes the header of an answer, and reports whether it comes from another
// cluster, whose history is then the one that is known. A proxy leaves the fields
// of its own headers empty.
func (h *History) note(header *pb.ResponseHeader) (another bool) {
	if header.GetClusterId() == 0 {
		return false
	}
	if another = h.cluster != 0 && h.cluster != header.ClusterId; another {
		*h = History{number: h.number + 1}
	}
	h.cluster, h.term = header.ClusterId, max(h.term, header.RaftTerm)
	h.reach(header.Revision)
	return another
}

// noteRead does the same with the header of a linearizable read. If it
// contradicts what was known when the read was sent, the store of the same
// cluster was replaced.
func (h *History) noteRead(before History, header *pb.ResponseHeader) (another bool) {
	if before.isBefore(header) && (before.number == h.number || h.isBefore(header)) {
		*h = History{number: h.number + 1}
		h.note(header)
		return true
	}
	return h.note(header)
}

// isBefore reports whether the header of a linearizable read contradicts what
// was known when the read was sent. A watch does not: its member may be behind.
func (h History) isBefore(header *pb.ResponseHeader) bool {
	if header.GetClusterId() == 0 {
		return false
	}
	return h.cluster != 0 && h.cluster != header.ClusterId ||
		header.Revision < h.revision || header.RaftTerm < h.term
}

// IsAnother reports whether the header of a linearizable read contradicts that of a
// read before it.
func IsAnother(before, header *pb.ResponseHeader) bool {
	var h History
	h.note(before)
	return h.isBefore(header)
}

// isLeaving reports whether a stream has ended because of its member, while etcd
// is well.
func isLeaving(err error) bool {
	return errors.Is(err, errStandsStill) || errors.Is(err, errNoSign) || errors.Is(err, errNotOpened)
}

// goesOn reports whether history goes on after an error of a stream.
func goesOn(err error) bool {
	switch {
	case errors.Is(err, ErrAnotherHistory), errors.Is(err, etcd.ErrConnectionLost):
		return false
	case etcd.TokenRefused(err):
		return true
	}
	return !etcd.Refused(err)
}
