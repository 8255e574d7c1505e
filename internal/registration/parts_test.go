package registration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestReason_IsWhatHasToBeMendedFirst(t *testing.T) {
	for err, want := range map[error]string{
		errLeaseLost:                     "lease lost",
		errUnconfirmed:                   "no answer",
		errKeyDeleted:                    "key deleted",
		errKeyChanged:                    "key changed",
		ErrKeyTaken:                      "key taken",
		ErrInDoubt:                       "in doubt",
		ErrReleased:                      "ended",
		errReplaced:                      "ended",
		errElsewhere:                     "ended",
		unconfirmed(rpctypes.ErrNoSpace): "no space",
		unconfirmed(rpctypes.ErrPermissionDenied):               "permission",
		fmt.Errorf("%w: %w", errLeaseLost, rpctypes.ErrNoSpace): "no space",
		errors.New("whatever"):                                  "other",
	} {
		if got := Reason(err); got != want {
			t.Errorf("%v: %q, want %q", err, got, want)
		} else if is := slices.Contains(Losses, got); is == (Ended(err) || err == ErrInDoubt) {
			t.Errorf("%q counts as a loss: %v", got, is)
		}
	}
	if err := unconfirmed(rpctypes.ErrPermissionDenied); errors.Is(err, errUnconfirmed) {
		t.Errorf("a refusal is an answer: %v", err)
	}
	if err := unconfirmed(rpctypes.ErrNoLeader); !errors.Is(err, errUnconfirmed) || !errors.Is(err, rpctypes.ErrNoLeader) {
		t.Error(err)
	}
}

func TestRemoval_ComparesValueAndRevision(t *testing.T) {
	kv := &mvccpb.KeyValue{Value: []byte("v"), ModRevision: 7}
	for _, c := range []struct {
		m    Removal
		kv   *mvccpb.KeyValue
		want bool
	}{
		{Removal{}, kv, true},
		{Removal{PrevValue: "v"}, kv, true},
		{Removal{PrevRevision: 7}, kv, true},
		{Removal{PrevValue: "v", PrevRevision: 7}, kv, true},
		{Removal{PrevValue: "w"}, kv, false},
		{Removal{PrevRevision: 8}, kv, false},
		{Removal{PrevValue: "v", PrevRevision: 8}, kv, false},
		{Removal{PrevValue: "w", PrevRevision: 8}, nil, true}, // nothing to remove
	} {
		if err := c.m.compare(c.kv); (err == nil) != c.want {
			t.Errorf("%+v of %v: %v", c.m, c.kv, err)
		}
	}
}

func TestRequest_IsServedAsLongAsSomebodyWantsIt(t *testing.T) {
	for _, keep := range []bool{false, true} {
		q := &request{keep: keep}
		q.waits(errLeaseLost)
		if why, replies := q.leave(); why != errLeaseLost || replies {
			t.Errorf("keep %v: %v, %v before it is served", keep, why, replies)
		}
		if q.take(func() {}) != keep {
			t.Errorf("keep %v: served after its caller has left", keep)
		}
		q = &request{keep: keep}
		ctx, cancel := context.WithCancel(t.Context())
		if !q.take(cancel) {
			t.Errorf("keep %v: not served", keep)
		}
		if _, replies := q.leave(); replies == keep || (ctx.Err() == nil) != keep {
			t.Errorf("keep %v: the caller waits for a reply: %v, %v", keep, replies, ctx.Err())
		}
		cancel()
	}
}

func TestKey_OlderEventsTellNothing(t *testing.T) {
	k := key{name: "k", revision: 5, found: version{modified: 5}}
	judge := func(kv *mvccpb.KeyValue) error {
		switch {
		case kv == nil:
			return errKeyDeleted
		case kv.Lease == 1:
			return nil
		}
		return ErrKeyTaken
	}
	put := func(revision, lease int64) *mvccpb.Event {
		return &mvccpb.Event{Kv: &mvccpb.KeyValue{ModRevision: revision, Lease: lease}}
	}
	gone := func(revision int64) *mvccpb.Event {
		return &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{ModRevision: revision}}
	}
	for i, step := range []struct {
		events   []*mvccpb.Event
		trouble  error
		revision int64
		found    int64
	}{
		{[]*mvccpb.Event{gone(4), put(5, 2)}, nil, 5, 5},
		{[]*mvccpb.Event{gone(6)}, errKeyDeleted, 6, 0},
		{[]*mvccpb.Event{put(7, 2)}, ErrKeyTaken, 7, 7},
		{[]*mvccpb.Event{gone(8), put(9, 1)}, nil, 9, 9},
		{nil, nil, 9, 9},
	} {
		k.changed(step.events, judge)
		if k.trouble != step.trouble || k.revision != step.revision || k.found.modified != step.found {
			t.Errorf("step %d: %v, %d, %d", i, k.trouble, k.revision, k.found.modified)
		}
	}
}
