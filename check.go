package etcdv3

import (
	"context"
	"time"
)

const (
	// checkInterval is how long a watch may be silent before it is asked for a
	// sign of life, and checkTimeout how long that may take. With them, and the
	// attempts to list in a hurry, subscribers hear of an outage within 15 s
	// even if no connection breaks.
	checkInterval = 10 * time.Second
	checkTimeout  = time.Second

	// firstCheck comes early, to learn whether the watch answers at all.
	firstCheck = time.Second
)

// check asks a watch that is silent whether it still stands: by a progress
// request on the watch's own stream, which costs etcd next to nothing. A link
// that went dead does not answer it, nor does a store that was wiped or
// restored and has not reached the watch's revision; then one bounded read
// tells. etcd's gRPC proxy knows no progress requests: there the read alone
// stands for them.
type check struct {
	watch *watch
	feed  *feed
	ask   *time.Timer
	due   *time.Timer
	asked bool // at least once
	heard bool // a progress request was answered
}

// deafAfter is how many watches in a row have to leave progress requests
// unanswered, although etcd is well, until it is no longer held to be their
// link that is dead.
const deafAfter = 2

func newCheck(w *watch, f *feed) *check {
	c := &check{watch: w, feed: f, ask: time.NewTimer(firstCheck), due: time.NewTimer(checkTimeout)}
	c.due.Stop()
	return c
}

func (c *check) stop() {
	c.ask.Stop()
	c.due.Stop()
}

// answered notes a response of the watch, whatever it brings.
func (c *check) answered(by change) {
	if by.progress {
		c.heard = true
		c.watch.unheard = 0
	}
	if c.asked {
		c.due.Stop()
		c.ask.Reset(checkInterval)
	}
}

// request asks for a sign of life.
func (c *check) request(ctx context.Context) {
	again := c.asked
	c.asked = true
	if again && c.watch.unheard >= deafAfter { // each new one is asked once
		c.due.Reset(0)
		return
	}
	c.due.Reset(checkTimeout)
	if ctx.Err() != nil {
		return // a wrapped Watcher would open a stream that nothing ends
	}
	// That one blocks while it reconnects the stream. No answer is one, too.
	ctx, cancel := context.WithTimeout(ctx, checkTimeout/4)
	defer cancel()
	_ = c.feed.ask(ctx)
}

// unanswered finds out why there was no sign of life. It returns nil if the
// watch is one that never gives any, and etcd is well.
func (c *check) unanswered(ctx context.Context) error {
	if c.heard {
		return errSilent
	}
	header, err := c.watch.probe(ctx, checkTimeout)
	if err != nil {
		return err
	}
	c.watch.alive = time.Now()
	if older(header, c.watch.header) {
		return errAnotherHistory
	}
	if c.watch.unheard < deafAfter {
		c.watch.unheard++
		return errSilent
	}
	c.ask.Reset(checkInterval)
	return nil
}
