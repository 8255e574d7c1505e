package feed

import (
	"context"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// read is a read and its answer.
type read struct {
	key    string
	header *pb.ResponseHeader // nil if it was refused
	before History            // what was known when it was sent
	err    error
}

// startRead sends a read, if none is under way: an answer that comes late is as
// good. It is of a key that is watched, which the user may read as a rule.
func (c *check) startRead(ctx context.Context, now time.Time) {
	most := 1
	if !c.hub.conn.Compares() && now.Sub(c.readAt) >= readAgain {
		most = min(c.hub.conn.Members(), readsMost)
	}
	if len(c.reading) >= most {
		return
	}
	c.hub.mu.Lock()
	key, _ := c.stream.readable()
	before := c.hub.known
	c.stream.reading = true
	c.hub.mu.Unlock()
	c.readAt = now
	conn, done := c.hub.conn, c.done
	c.reading = append(c.reading, worker.Start(ctx, func(ctx context.Context) {
		resp, err := etcd.Ask(ctx, conn, etcd.Reading, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return conn.KV.Get(ctx, key, clientv3.WithCountOnly())
		})
		r := read{key: key, before: before, err: err}
		if err == nil {
			r.header = resp.Header
		}
		done <- r
	}))
}

// readDone notes the answer to a read.
func (c *check) readDone(ctx context.Context, r read) error {
	if ctx.Err() != nil {
		return cause(ctx, ctx.Err())
	}
	c.endReads() // one answer is enough
	for len(c.done) > 0 {
		<-c.done
	}
	now := time.Now()
	if c.isRefused(r) {
		c.startRead(ctx, now)
		return nil
	}
	c.read, c.ripe, c.stuck, c.same = true, false, now, 0
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	if c.hub.known.noteRead(r.before, r.header) {
		return ErrAnotherHistory
	}
	c.goal = max(c.goal, r.header.GetRevision())
	return nil
}

// isRefused notes an answer, and whether the user may read that key. It reports
// whether another key is to be read instead.
func (c *check) isRefused(r read) bool {
	c.hub.mu.Lock()
	defer c.hub.mu.Unlock()
	c.stream.reading, c.stream.life = false, time.Now()
	for _, w := range c.stream.watches {
		if w.in.Key == r.key {
			w.unreadable = etcd.Refused(r.err)
		}
	}
	if !etcd.Refused(r.err) || c.refused == refusedMost {
		return false
	}
	c.refused++
	_, readable := c.stream.readable()
	return readable
}
