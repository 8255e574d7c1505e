package etcd

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
)

// A reason that comes while another one is told is told after it.
func TestReasons_NoneIsMissedWhileAnotherIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReasons()
		var heard []string
		ctx := WithReport(t.Context(), func(err error) {
			heard = append(heard, err.Error())
			switch err.Error() {
			case "first":
				r.tell(errors.New("second"))
			case "second":
				r.tell(errors.New("third"))
			}
		})
		r.tell(errors.New("first"))
		turn := make(chan struct{})
		ended := make(chan bool)
		go func() { ended <- r.follow(ctx, turn) }()
		synctest.Wait()
		close(turn)
		if !<-ended || !slices.Equal(heard, []string{"first", "second", "third"}) {
			t.Errorf("heard %q", heard)
		}
	})
}

func TestReasons_AnAnswerEndsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReasons()
		for range 2 {
			r.tell(context.DeadlineExceeded)
			if _, why := r.now(); why == nil {
				t.Error("no reason")
			}
			r.answered()
			if _, why := r.now(); why != nil {
				t.Error(why)
			}
		}
	})
}
