package feed

import (
	"slices"
	"strings"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// handle passes on one response. It returns why the stream is of no more use, if
// it is not.
func (s *stream) handle(resp *pb.WatchResponse) error {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if err := s.hear(resp.Header); err != nil {
		return err
	}
	err := refused(resp)
	switch {
	case resp.Created:
		return s.created(resp.WatchId, resp.Header, err)
	case err != nil:
		return s.cancelled(resp.WatchId, err)
	case len(resp.Events) == 0:
		s.progressed(resp.Header)
	default:
		s.changed(resp.WatchId, resp.Events)
	}
	return nil
}

// All below is called with Hub.mu held.

// created notes the answer to a create.
func (s *stream) created(id int64, header *pb.ResponseHeader, refusal error) error {
	if len(s.unanswered) == 0 {
		return s.unfit()
	}
	if refusal != nil {
		return s.refused(header, refusal)
	}
	i := 0
	if !s.oneByOne {
		i = slices.IndexFunc(s.unanswered, func(w *Watch) bool { return w.id == id })
	}
	if i < 0 || s.watches[id] != nil {
		return s.unfit()
	}
	w := s.answered(i)
	w.id = id
	if w.ended {
		s.over = append(s.over, id)
		worker.Poke(s.hub.wake)
		return nil
	}
	s.watches[id] = w
	w.stand()
	return nil
}

// answered takes a watch off those that have no answer.
func (s *stream) answered(i int) *Watch {
	w := s.unanswered[i]
	s.unanswered = slices.Delete(s.unanswered, i, i+1)
	s.bytes -= w.size()
	s.since = s.heard // the next answer is owed since this one came
	s.answeredAll()
	return w
}

// refused notes that a create was refused. That ends the watch alone, if it is
// certain which one it is, and if another token does not help.
func (s *stream) refused(header *pb.ResponseHeader, refusal error) error {
	s.refusals = true
	if etcd.TokenRefused(refusal) {
		return refusal
	}
	proxied := header.GetClusterId() == 0
	if proxied && len(s.unanswered) > 1 || strings.Contains(refusal.Error(), "duplicate watch ID") {
		return s.unfit()
	}
	s.oneByOne = s.oneByOne || proxied
	s.answered(0).finish(refusal, goesOn(refusal), time.Now())
	return nil
}

// unfit notes that an answer fits no question.
func (s *stream) unfit() error {
	s.misfit = true
	return errMisfit
}

// cancelled notes that the server has ended a watch, perhaps because it was told to.
// A watch that was compacted stays in etcd's table until etcd is told to cancel the
// watch, and keeps all of the stream from being answered for progress.
func (s *stream) cancelled(id int64, err error) error {
	w := s.watches[id]
	switch {
	case w == nil:
		return nil
	case etcd.TokenRefused(err):
		return err
	}
	delete(s.watches, id)
	s.over = append(s.over, id)
	w.finish(err, goesOn(err), time.Now())
	worker.Poke(s.hub.wake) // it may have been the last
	return nil
}

// changed passes events on.
func (s *stream) changed(id int64, events []*mvccpb.Event) {
	s.moved = s.heard
	if w := s.watches[id]; w != nil {
		w.bring(events)
	}
}

// progressed notes the answer to a progress request.
func (s *stream) progressed(header *pb.ResponseHeader) {
	if header.GetRevision() == 0 || !s.asked.CompareAndSwap(true, false) {
		return
	}
	s.answeredAll()
	select {
	case s.answers <- header:
	default:
	}
}
