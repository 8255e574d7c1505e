package fleet

import (
	"context"
	"flag"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/alone"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
)

var (
	all     = flag.Bool("all", false, "run every fleet and every reader")
	table   = flag.Bool("table", false, "run every fleet, or those of -only, and write them into the table of docs/scaling.md")
	only    = flag.String("only", "", "the fleets whose names match this expression")
	stories = flag.Int("stories", 300, "how many stories of late requests to run")
	seed    = flag.Uint64("seed", 0, "run the story of this seed alone")
)

// TestMain keeps the machine for this binary: fleets in virtual time keep the
// processors busy, and other binaries judge bounds in real time. It fails if a
// goroutine is left.
func TestMain(m *testing.M) {
	flag.Parse()
	release := alone.Hold()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		release()
		os.Exit(code)
	}))
}

// world is a cluster in a bubble, and its clients.
type world struct {
	*testing.T
	etcd *etcdtest.Etcd
	ctx  context.Context // of all clients
	user string          // with which they authenticate, "" for none

	mu      sync.Mutex
	refused map[string]int // requests by method that were too many for etcd
}

// virtually runs a story in a bubble. At its end the clients end, and etcd takes
// no time for that.
func virtually(t *testing.T, config etcdtest.Config, story func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		w := &world{T: t, etcd: etcdtest.New(config), ctx: ctx, refused: map[string]int{}}
		defer func() {
			w.heal()
			cancel()
			synctest.Wait()
			time.Sleep(time.Minute)
			w.etcd.Close()
		}()
		story(w)
	})
}

// heal makes etcd well, and fast.
func (w *world) heal() {
	w.etcd.Set(func(s *etcdtest.Settings) { *s = etcdtest.Settings{} })
	w.etcd.SetLinks(etcdtest.Link{})
	for _, m := range w.etcd.Members() {
		m.Speak()
		m.Unstall()
	}
}

// client returns a client of the cluster, which ends with the world.
func (w *world) client(ctx context.Context) etcdv3.Client {
	w.Helper()
	client, err := etcdv3.NewClient(ctx, w.etcd.Endpoints(), etcdv3.ClientOptions{
		DialOptions: append(w.etcd.DialOptions(), grpc.WithChainUnaryInterceptor(w.count)),
		Username:    w.user, Password: w.user,
	})
	if err != nil {
		w.Fatal(err)
	}
	return client
}

// count notes what etcd has refused for load.
func (w *world) count(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err != nil && strings.Contains(err.Error(), "too many requests") {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.refused[path.Base(method)]++
	}
	return err
}

// served is how many requests of a method etcd did not refuse for load, and
// refused how many it did, since forget.
func (w *world) served(method string) (served, refused int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	refused = w.refused[method]
	return w.etcd.Count(method) - refused, refused
}

func (w *world) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.refused)
	w.etcd.Forget()
}

// protect makes a user whom all clients have from now on.
func (w *world) protect() {
	w.user = "u"
	w.etcd.SetUser("root", "root")
	w.etcd.SetUser("u", "u", etcdtest.ReadWrite("/"))
	w.etcd.EnableAuth()
}

// waitFor waits until a condition holds, and returns how long that took. It
// gives up, and says so, after a time.
func (w *world) waitFor(most time.Duration, holds func() bool) time.Duration {
	w.Helper()
	began := time.Now()
	for !holds() {
		if time.Since(began) > most {
			w.Errorf("waited in vain for %v", most)
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(began)
}
