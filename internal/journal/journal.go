// Package journal hands lines to a logger without waiting for it: a logger that
// blocks keeps nothing from healing.
package journal

import (
	"context"
	"sync"
	"time"

	"github.com/go-kit/log"
	"github.com/go-kit/log/level"
	"github.com/kitsd/etcdv3/internal/worker"
)

const (
	// linesMost is how many lines wait for the logger at most. Beyond that the
	// oldest is dropped, and counted.
	linesMost = 256

	// FlushWithin is how long a caller's method waits for its own lines: a logger
	// that works takes microseconds.
	FlushWithin = 100 * time.Millisecond
)

// Logger hands lines to another logger in their order, by a worker that lives
// while there are any. It is safe for concurrent use, whether or not the other
// logger is: one line is written at a time.
type Logger struct {
	next log.Logger

	mu      sync.Mutex // guards all below
	lines   [][]any
	dropped int
	writer  *worker.Worker // nil when nothing waits
}

// New returns a Logger for another one, which may be nil for none.
func New(next log.Logger) *Logger {
	if next == nil {
		next = log.NewNopLogger()
	}
	return &Logger{next: next}
}

// Log implements log.Logger. It never waits, and its error is always nil.
func (l *Logger) Log(keyvals ...any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == linesMost {
		l.lines = l.lines[1:]
		l.dropped++
	}
	l.lines = append(l.lines, keyvals)
	if l.writer == nil {
		l.writer = worker.Start(context.Background(), func(context.Context) { l.write() })
	}
	return nil
}

func (l *Logger) write() {
	for {
		line, dropped, ok := l.take()
		if !ok {
			return
		}
		if dropped > 0 {
			_ = level.Warn(l.next).Log("msg", "log lines dropped", "lines", dropped)
		}
		_ = l.next.Log(line...)
	}
}

func (l *Logger) take() (line []any, dropped int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) == 0 {
		l.writer = nil
		return nil, 0, false
	}
	line, dropped = l.lines[0], l.dropped
	l.lines, l.dropped = l.lines[1:], 0
	return line, dropped, true
}

// Flush waits until all lines so far are written, for no longer than FlushWithin.
func (l *Logger) Flush() {
	l.mu.Lock()
	writer := l.writer
	l.mu.Unlock()
	if writer == nil {
		return
	}
	select {
	case <-writer.Done():
	case <-time.After(FlushWithin):
	}
}
