package bench

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/bench/internal/measure"
	"github.com/kitsd/etcdv3/bench/internal/member"
	"github.com/kitsd/etcdv3/internal/alone"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
)

var (
	fsync   = flag.Bool("fsync", false, "let etcd wait for the disk")
	attach  = flag.String("etcd", "", "the address of a member to use, that member.Start of another process began")
	profile = flag.String("profile", "", "the file for a processor profile of the loop of one sub-benchmark")
	window  = flag.Duration("window", 10*time.Second, "for how long heartbeats and idle connections are measured")
)

func TestMain(m *testing.M) {
	member.ServeIfAsked()
	flag.Parse()
	if *attach == "" { // else the process that began the member sees to it
		alone.Hold()
	}
	code := m.Run()
	if shared.members != nil {
		member.Stop(shared.members)
	}
	os.Exit(code)
}

// server is the member that all benchmarks share, and the client that writes
// to it what the measured clients are to see.
type server struct {
	once    sync.Once
	members []*member.Member
	*member.Member
	writer  *clientv3.Client
	answers receivedBytes // by the writer
}

var shared server

// etcd returns the shared server, which it starts when it is first asked for.
func etcd(tb testing.TB) *server {
	tb.Helper()
	shared.once.Do(func() {
		var err error
		if shared.Member, err = begin(); err != nil {
			tb.Fatal(err)
		}
		shared.writer, err = clientv3.New(clientv3.Config{
			Endpoints: []string{shared.Endpoint}, DialOptions: []grpc.DialOption{grpc.WithStatsHandler(&shared.answers)},
		})
		if err != nil {
			tb.Fatal(err)
		}
	})
	if shared.writer == nil {
		tb.Fatal("the server did not start")
	}
	return &shared
}

// begin returns the member to use, that of another process if there is one.
func begin() (*member.Member, error) {
	if *attach != "" {
		return member.Attach(*attach)
	}
	members, err := member.Start(1, member.Options{NoFsync: !*fsync})
	if err != nil {
		return nil, err
	}
	shared.members = members
	return members[0], nil
}

// put writes one key, and fails the benchmark if that fails.
func (s *server) put(tb testing.TB, key, value string) {
	if _, err := s.writer.Put(context.Background(), key, value); err != nil {
		tb.Error(err)
	}
}

// counts reads the metrics of a member.
func counts(tb testing.TB, m *member.Member) member.Counts {
	tb.Helper()
	c, err := m.Counts()
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// populated returns a prefix of an owner's with n instances under it. It is
// written once, and changed by whoever measures with it.
func populated(tb testing.TB, owner string, n int) (prefix string) {
	tb.Helper()
	prefix = fmt.Sprintf("/bench/%s/%d/", owner, n)
	if remaining(tb, prefix) == int64(n) {
		return prefix
	}
	if err := etcd(tb).Populate(prefix, 0, n); err != nil {
		tb.Fatal(err)
	}
	return prefix
}

// versions makes every value that is written a new one.
var versions atomic.Int64

func nextVersion() string { return fmt.Sprintf("%08x-%06d", process, versions.Add(1)) }

// process tells the versions of this process from those of others that wrote
// to the same server.
var process = uint32(time.Now().UnixNano() >> 20)

// each runs a sub-benchmark for each variant that can do the work.
func each[V interface{ name() string }](b *testing.B, variants []V, run func(*testing.B, V)) {
	for _, v := range variants {
		b.Run(v.name(), func(b *testing.B) {
			etcd(b)
			runtime.GC()
			run(b, v)
		})
	}
}

// paired runs the sub-benchmark "paired": an operation by hand and the same by
// this package, in turns, in one heap. What else the machine does meets both, so
// that the ratios are better than those of sub-benchmarks that run one after
// the other. Before each turn garbage is collected, so that nobody pays for the
// other's. A turn returns samples by metric; what is reported is the ratio of
// their medians, as "ratio-" and the metric.
func paired(b *testing.B, start func(b *testing.B, variant int) (turn func() samples)) {
	b.Run("paired", func(b *testing.B) {
		turns := []func() samples{start(b, 0), start(b, 1)}
		all := []samples{{}, {}}
		for b.Loop() {
			for i, turn := range turns {
				runtime.GC()
				for metric, values := range turn() {
					all[i][metric] = append(all[i][metric], values...)
				}
			}
		}
		for metric := range all[0] {
			b.ReportMetric(measure.Quantile(all[1][metric], 0.5)/measure.Quantile(all[0][metric], 0.5), "ratio-"+metric)
		}
	})
}

// samples are what was measured, by metric.
type samples map[string][]float64

// profiled begins a processor profile of what is measured, and of nothing
// around it, if -profile says so. What it returns ends it.
func profiled(b *testing.B) (end func()) {
	if *profile == "" {
		return func() {}
	}
	file, err := os.Create(*profile)
	if err != nil {
		b.Fatal(err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		b.Fatal(err)
	}
	return func() {
		pprof.StopCPUProfile()
		_ = file.Close()
	}
}

// receivedBytes counts the bytes of the messages that a client receives, as
// the server counts those that it sends.
type receivedBytes struct{ n atomic.Int64 }

func (r *receivedBytes) HandleRPC(_ context.Context, s stats.RPCStats) {
	if in, ok := s.(*stats.InPayload); ok {
		r.n.Add(int64(in.Length))
	}
}

func (*receivedBytes) HandleConn(context.Context, stats.ConnStats)                       {}
func (*receivedBytes) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (*receivedBytes) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// remaining is how many keys stand under a prefix.
func remaining(tb testing.TB, prefix string) int64 {
	tb.Helper()
	all, err := etcd(tb).writer.Get(context.Background(), prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		tb.Fatal(err)
	}
	return all.Count
}
