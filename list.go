package etcdv3

import (
	"context"
	"fmt"
	"maps"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
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
	}, func(page *clientv3.GetResponse) {
		if all == nil {
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

// listPages lists a prefix at one revision, and returns the header that holds
// it. While a page is used, the next is on its way.
func listPages(link *link, prefix string, get func(key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error), use func(*clientv3.GetResponse)) (*pb.ResponseHeader, error) {
	opts := []clientv3.OpOption{clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithLimit(pageSize)}
	page, err := get(firstKey(prefix), opts...)
	if err != nil {
		return nil, fmt.Errorf("list prefix %q: %w", prefix, link.explain(err))
	}
	header := page.Header
	opts = append(opts, clientv3.WithRev(header.GetRevision()))
	for page.More && len(page.Kvs) > 0 {
		var next *clientv3.GetResponse
		from := string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		ahead := start(context.Background(), func(context.Context) { next, err = get(from, opts...) })
		use(page)
		<-ahead.done // within the request timeout
		if err != nil {
			return nil, fmt.Errorf("list prefix %q: %w", prefix, link.explain(err))
		}
		page = next
	}
	use(page)
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
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := w.get(ctx, firstKey(w.prefix), clientv3.WithCountOnly())
	if err != nil {
		return nil, fmt.Errorf("check prefix %q: %w", w.prefix, w.link.explain(err))
	}
	return resp.Header, nil
}

// firstKey is the first key that a prefix can match: etcd has no empty one.
func firstKey(prefix string) string {
	if prefix == "" {
		return "\x00"
	}
	return prefix
}
