package fleet

import (
	"context"
	"fmt"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/bench/internal/measure"
	"github.com/kitsd/etcdv3/bench/internal/member"
	"github.com/kitsd/etcdv3/bench/internal/proxy"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// FanOut is what watchers of one service cost the member that serves them.
type FanOut struct {
	Watchers int
	Watches  float64 // that stand on the member
	Events   float64 // messages on watch streams for one change
	Sent     float64 // bytes for one change
	Late     Latency // until all know
}

// FanOuts are those of a member to watchers, and to the same number of them
// behind one gRPC proxy.
type FanOuts struct{ Direct, Proxied FanOut }

// fanChanges is how many changes are made, one after another.
const fanChanges = 100

// Fan measures n watchers of one service on one member, and the same number
// behind one gRPC proxy.
func Fan(n int) (f FanOuts, err error) {
	members, err := member.Start(1, member.Options{NoFsync: true})
	if err != nil {
		return f, err
	}
	defer member.Stop(members)
	cli, err := clientv3.New(clientv3.Config{Endpoints: member.Endpoints(members), DialTimeout: 10 * time.Second})
	if err != nil {
		return f, err
	}
	defer cli.Close()
	endpoint, stop, err := proxy.Serve(cli)
	if err != nil {
		return f, err
	}
	defer stop()
	if f.Direct, err = fan(n, members[0], cli, members[0].Endpoint); err == nil {
		f.Proxied, err = fan(n, members[0], cli, endpoint)
	}
	return f, err
}

func fan(n int, m *member.Member, cli *clientv3.Client, endpoint string) (f FanOut, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	before, err := settled(m)
	if err != nil {
		return f, err
	}
	all := make([]chan sd.Event, n)
	if err := atATime(n, func(i int) error {
		c, err := etcdv3.NewClient(ctx, []string{endpoint}, etcdv3.ClientOptions{})
		if err != nil {
			return err
		}
		s, err := etcdv3.NewInstancer(c, "/fan/", log.NewNopLogger())
		if err != nil {
			return err
		}
		all[i] = make(chan sd.Event, 1)
		s.Register(all[i])
		return nil
	}); err != nil {
		return f, err
	}
	time.Sleep(2 * time.Second)
	start, err := m.Counts()
	if err != nil {
		return f, err
	}
	var late []time.Duration
	for i := range fanChanges {
		took, err := fanOne(cli, all, fmt.Sprintf("http://host:8080/%d-%d", time.Now().UnixNano(), i))
		if err != nil {
			return f, err
		}
		late = append(late, took)
	}
	end, err := m.Counts()
	if err != nil {
		return f, err
	}
	done := end.Since(start)
	return FanOut{
		Watchers: n, Watches: end.Since(before).Watchers(),
		Events: done.Answers("Watch") / fanChanges, Sent: done.Sent() / fanChanges,
		Late: Latency{P50: measure.Millis(measure.Quantile(late, 0.5)), P99: measure.Millis(measure.Quantile(late, 0.99))},
	}, nil
}

// settled returns the counts of a member once its watches stay as many as
// they are: those of earlier clients take a moment to end.
func settled(m *member.Member) (now member.Counts, err error) {
	for last := -1.0; ; time.Sleep(500 * time.Millisecond) {
		if now, err = m.Counts(); err != nil || now.Watchers() == last {
			return now, err
		}
		last = now.Watchers()
	}
}

// fanOne makes one change, and returns after how long all know.
func fanOne(cli *clientv3.Client, all []chan sd.Event, value string) (time.Duration, error) {
	began := time.Now()
	if _, err := cli.Put(context.Background(), "/fan/1", value); err != nil {
		return 0, err
	}
	deadline := time.After(20 * time.Second)
	for i, events := range all {
		for known := false; !known; {
			select {
			case e := <-events:
				known = len(e.Instances) == 1 && e.Instances[0] == value
			case <-deadline:
				return 0, fmt.Errorf("watcher %d was never told of %q", i, value)
			}
		}
	}
	return time.Since(began), nil
}
