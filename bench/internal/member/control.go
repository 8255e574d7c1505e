package member

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/kitsd/etcdv3/bench/internal/measure"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// newControl is what the measuring process has a member do by itself, so that
// it costs the measured process nothing: it writes, without gRPC.
func newControl(direct *clientv3.Client) http.Handler {
	mux := http.NewServeMux()
	handle := func(path string, do func(context.Context, form) error) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if err := do(r.Context(), form{r}); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	handle("/populate", func(ctx context.Context, f form) error {
		return populate(ctx, direct, f.FormValue("prefix"), f.number("from"), f.number("n"))
	})
	handle("/burst", func(ctx context.Context, f form) error {
		return burst(ctx, direct, f.FormValue("prefix"), f.FormValue("value"), f.number("n"), f.number("standing"), f.number("writers"))
	})
	handle("/clear", func(ctx context.Context, f form) error {
		_, err := direct.Delete(ctx, f.FormValue("prefix"), clientv3.WithPrefix())
		return err
	})
	mux.HandleFunc("/cpu", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, int64(measure.CPU()))
	})
	mux.HandleFunc("/memory", func(w http.ResponseWriter, _ *http.Request) {
		held := measure.Held()
		fmt.Fprint(w, held.Heap+held.Stack)
	})
	return mux
}

// form reads the parameters of a request.
type form struct{ *http.Request }

func (f form) number(name string) int {
	n, _ := strconv.Atoi(f.FormValue(name))
	return n
}

// Key is the key of the i-th instance under a prefix, and Value what it has
// at first.
func Key(prefix string, i int) string    { return fmt.Sprintf("%s%07d", prefix, i) }
func Value(i int, version string) string { return fmt.Sprintf("http://host-%07d:8080/%s", i, version) }

// First is the version that a population is written with.
const First = "000000"

// populate writes n instances.
func populate(ctx context.Context, direct *clientv3.Client, prefix string, from, n int) error {
	for i := from; i < from+n; {
		var puts []clientv3.Op
		for ; i < from+n && len(puts) < txnOps; i++ {
			puts = append(puts, clientv3.OpPut(Key(prefix, i), Value(i, First)))
		}
		if _, err := direct.Txn(ctx).Then(puts...).Commit(); err != nil {
			return err
		}
	}
	return nil
}

// burst makes n changes, one request each, spread over the instances that stand,
// with a number of writers at a time. After all others the instance n%standing
// changes.
func burst(ctx context.Context, direct *clientv3.Client, prefix, value string, n, standing, writers int) error {
	var wait sync.WaitGroup
	failed := make(chan error, writers)
	for w := range writers {
		wait.Go(func() {
			for i := w; i < n-1; i += writers {
				if _, err := direct.Put(ctx, Key(prefix, i%standing), Value(i, value)); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wait.Wait()
	select {
	case err := <-failed:
		return err
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := direct.Put(ctx, Key(prefix, n%standing), Value(n, value))
	return err
}
