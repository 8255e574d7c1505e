package discovery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/feed"
	"github.com/kitsd/etcdv3/internal/instances"
	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// pageMost is how many keys one range request lists at most: some megabytes
	// as a rule. etcd counts the whole range for each page.
	pageMost = 25_000

	// A page whose connection broke is followed by one of half the size, down
	// to pageLeast, after which pages grow again, each by a part. So a list
	// makes headway over a link that breaks again and again, if a hundred keys
	// get through.
	pageLeast = 100
	growBy    = 8

	// If the connection ends after a page was under way for brokeAfter, the
	// page's size is held to be the cause.
	brokeAfter = time.Second

	// valuesAttempts is how often Values begins, if its revision is gone between
	// two pages. A watched prefix begins for ever. After as many attempts its pages
	// double, up to pageEver: an etcd that compacts faster than pages come lets a
	// list through that has one page.
	valuesAttempts = 3
	pageEver       = 1 << 24
)

// lister lists a prefix in pages. It remembers what size they may have. Its
// methods are called by one goroutine at a time.
type lister struct {
	conn   *etcd.Conn
	prefix string
	limit  int                // keys in the next page
	most   int                // that the client's limit on messages lets in
	header *pb.ResponseHeader // of the last list
}

func newLister(conn *etcd.Conn, prefix string) *lister {
	return &lister{conn: conn, prefix: prefix, limit: pageMost, most: pageMost}
}

// Values returns the values of all keys under a prefix, in the order of the
// keys, within ctx.
func Values(ctx context.Context, conn *etcd.Conn, prefix string) ([]string, error) {
	var values []string
	_, err := newLister(conn, prefix).list(ctx, valuesAttempts, func(page *clientv3.GetResponse, first bool) {
		if first {
			values = make([]string, 0, len(page.Kvs))
		}
		for _, kv := range page.Kvs {
			values = append(values, string(kv.Value))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list prefix %q: %w", prefix, etcd.Explain(err))
	}
	return values, nil
}

// entries returns what etcd holds under the prefix, and at which revision.
func (l *lister) entries(ctx context.Context) (all *instances.Entries, at int64, err error) {
	at, err = l.list(ctx, 0, func(page *clientv3.GetResponse, first bool) {
		if first {
			all = instances.NewEntries(int(page.Count))
		}
		for _, kv := range page.Kvs {
			all.Load(kv.Key, kv.Value)
		}
	})
	if err != nil {
		return nil, 0, err
	}
	all.Sort()
	return all, at, nil
}

// list lists the prefix at one revision, in a turn of all lists of the client,
// and returns that revision. Whenever it begins, with a first page, what was used
// before is void. It begins as often as a number says, 0 being for ever.
func (l *lister) list(ctx context.Context, attempts int, use func(page *clientv3.GetResponse, first bool)) (at int64, err error) {
	leave, err := l.conn.Lists.Enter(ctx)
	if err != nil {
		return 0, l.conn.Late(nil)
	}
	defer leave()
	var retry worker.Backoff
	for begun := 1; ; begun++ {
		at, err = l.listRevision(ctx, use)
		if !isGone(err) || begun == attempts || !retry.Wait(ctx) {
			return at, err
		}
		if begun >= valuesAttempts {
			l.limit = min(2*l.limit, pageEver)
			l.most = max(l.most, l.limit)
		}
	}
}

// isGone reports whether the revision of a list was gone before its last page: it
// was compacted, or etcd's store is another one.
func isGone(err error) bool {
	return errors.Is(err, rpctypes.ErrCompacted) || errors.Is(err, rpctypes.ErrFutureRev) || errors.Is(err, feed.ErrAnotherHistory)
}

// listRevision does so once. While a page is used, the next is on its way.
func (l *lister) listRevision(ctx context.Context, use func(page *clientv3.GetResponse, first bool)) (at int64, err error) {
	page, err := l.page(ctx, first(l.prefix), 0)
	if err != nil {
		return 0, err
	}
	l.header, at = page.Header, page.Header.GetRevision()
	isFirst := true
	for page.More && len(page.Kvs) > 0 {
		var next *clientv3.GetResponse
		from := string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
		ahead := worker.Start(ctx, func(ctx context.Context) { next, err = l.page(ctx, from, at) })
		use(page, isFirst)
		<-ahead.Done()
		if err != nil {
			return 0, err
		}
		if feed.IsAnother(l.header, next.Header) {
			return 0, feed.ErrAnotherHistory
		}
		page, isFirst = next, false
	}
	use(page, isFirst)
	return at, nil
}

// page returns the keys from one on, at a revision, 0 being the newest. It waits
// as long as that takes, and asks for less when a page was too much.
func (l *lister) page(ctx context.Context, from string, at int64) (page *clientv3.GetResponse, err error) {
	for {
		page, err = etcd.Ask(ctx, l.conn, etcd.Listing, func(ctx context.Context) (*clientv3.GetResponse, error) {
			return l.get(ctx, from, at)
		})
		if !etcd.TooLarge(err) || l.limit <= 1 {
			break
		}
		l.limit = max(l.limit/2, 1)
		l.most = l.limit
	}
	if err == nil {
		l.limit = min(l.limit+l.limit/growBy+1, l.most)
	}
	return page, err
}

// get is one range request.
func (l *lister) get(ctx context.Context, from string, at int64) (*clientv3.GetResponse, error) {
	began := time.Now()
	page, err := l.conn.KV.Get(ctx, from, clientv3.WithRange(end(l.prefix)), clientv3.WithLimit(int64(l.limit)), clientv3.WithRev(at))
	if err != nil && time.Since(began) > brokeAfter && etcd.KindOf(err) == etcd.Away {
		l.limit = min(max(l.limit/2, pageLeast), l.most)
	}
	return page, err
}
