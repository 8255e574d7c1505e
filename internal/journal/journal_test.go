package journal

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-kit/log"
)

func TestLog_KeepsTheOrder(t *testing.T) {
	var got []any
	l := New(log.LoggerFunc(func(keyvals ...any) error {
		got = append(got, keyvals[0])
		return nil
	}))
	var want []any
	for i := range 100 {
		want = append(want, i)
		_ = l.Log(i)
	}
	l.Flush()
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestLoggerThatBlocks_HoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocked := make(chan struct{})
		var got []string
		l := New(log.LoggerFunc(func(keyvals ...any) error {
			<-blocked
			got = append(got, fmt.Sprint(keyvals...))
			return nil
		}))
		began := time.Now()
		for i := range linesMost + 10 {
			_ = l.Log("line", i)
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("Log took %v", took)
		}
		l.Flush()
		if took := time.Since(began); took != FlushWithin {
			t.Errorf("Flush took %v, want %v", took, FlushWithin)
		}
		close(blocked)
		synctest.Wait()
		if len(got) < linesMost || !slices.ContainsFunc(got, func(s string) bool {
			return s == "levelwarnmsglog lines droppedlines9" || s == "levelwarnmsglog lines droppedlines10"
		}) {
			t.Errorf("%d lines: %q", len(got), got[:2])
		}
	})
}

func TestNoLogger_WritesNothing(t *testing.T) {
	l := New(nil)
	_ = l.Log("msg", "nothing")
	l.Flush()
}
