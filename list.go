package etcdv3

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// pageSize is how many keys one range request lists at most, within the request
// timeout: some megabytes as a rule. etcd counts the whole range for each page.
const pageSize = 25_000

// list replaces what is known by what etcd holds at one revision.
func (w *watch) list(ctx context.Context) error {
	var all *entries
	header, err := listPages(w.link, w.prefix, func(key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
		return w.get(ctx, key, opts...)
	}, func(page *clientv3.GetResponse, first bool) {
		if first {
			all = newEntries(int(page.Count))
		}
		for _, kv := range page.Kvs {
			all.load(kv.Key, kv.Value)
		}
	})
	if err != nil {
		return err
	}
	all.sort()
	news := w.entries == nil || w.failed || !maps.Equal(w.entries.values, all.values)
	w.entries, w.header, w.seen, w.failed = all, header, header.GetRevision(), false
	if news {
		w.update(all.sorted)
	}
	return nil
}

// listAttempts is how often a list is begun again because its revision was
// compacted between two pages.
const listAttempts = 3

// listPages lists a prefix at one revision, and returns the header that holds
// it. Whenever it begins, at the first page, what was used before is void.
func listPages(link *link, prefix string, get getPage, use func(page *clientv3.GetResponse, first bool)) (header *pb.ResponseHeader, err error) {
	for range listAttempts {
		if header, err = listRevision(prefix, get, use); !errors.Is(err, rpctypes.ErrCompacted) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("list prefix %q: %w", prefix, link.explain(err))
	}
	return header, nil
}

// getPage is one range request.
type getPage func(key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error)

// listRevision does so once. While a page is used, the next is on its way.
func listRevision(prefix string, get getPage, use func(page *clientv3.GetResponse, first bool)) (*pb.ResponseHeader, error) {
	opts := []clientv3.OpOption{clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(pageSize)}
	page, err := get(firstKey(prefix), opts...)
	if err != nil {
		return nil, err
	}
	header := page.Header
	opts = append(opts, clientv3.WithRev(header.GetRevision()))
	first := true
	for page.More && len(page.Kvs) > 0 {
		var next *clientv3.GetResponse
		from := string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		ahead := start(context.Background(), func(context.Context) { next, err = get(from, opts...) })
		use(page, first)
		<-ahead.done // within the request timeout
		if err != nil {
			return nil, err
		}
		page, first = next, false
	}
	use(page, first)
	return header, nil
}

// get is one range request, within the request timeout. When the subscribers
// are to hear soon of an outage that was found late, it is in a hurry.
func (w *watch) get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	timeout := w.timeout
	if w.hurries() && w.attempts < hurriedAttempts {
		timeout = min(timeout, hurriedTimeout)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := w.cli.KV.Get(ctx, key, opts...)
	if err == nil {
		w.alive = time.Now()
	}
	return resp, err
}

// probe is the cheapest read that tells where in its history etcd is, and that
// it can be read from: one key, which is not there as a rule.
func (w *watch) probe(ctx context.Context, timeout time.Duration) (*pb.ResponseHeader, error) {
	ctx, cancel := context.WithTimeout(ctx, min(timeout, w.timeout))
	defer cancel()
	resp, err := w.cli.KV.Get(ctx, firstKey(w.prefix), clientv3.WithCountOnly())
	if err != nil {
		return nil, fmt.Errorf("check prefix %q: %w", w.prefix, w.link.explain(err))
	}
	return resp.Header, nil
}

// probeAll makes probes side by side, which go to one member after the other,
// again and again. It reports whether any was answered.
func (w *watch) probeAll(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var answered atomic.Bool
	var all []*worker
	for i := range probesAtOnce * int(probeTimeout/probeInterval) {
		all = append(all, start(ctx, func(ctx context.Context) {
			sleep(ctx, time.Duration(i/probesAtOnce)*probeInterval)
			if _, err := w.probe(ctx, probeTimeout); err == nil {
				answered.Store(true)
				cancel()
			}
		}))
	}
	for _, p := range all {
		<-p.done
	}
	return answered.Load()
}

// firstKey is the first key that a prefix can match: etcd has no empty one.
func firstKey(prefix string) string {
	if prefix == "" {
		return "\x00"
	}
	return prefix
}
