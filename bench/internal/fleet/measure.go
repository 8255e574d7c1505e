package fleet

import (
	"fmt"
	"sync"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/kitsd/etcdv3/bench/internal/measure"
	"github.com/kitsd/etcdv3/bench/internal/member"
)

// workers is how many of a fleet start at the same time.
const workers = 16

// snapshot is all that is measured, at one moment.
type snapshot struct {
	at        time.Time
	server    float64 // bytes
	client    float64 // bytes
	serverCPU time.Duration
	clientCPU time.Duration
	counts    member.Counts
}

// look takes a snapshot; the memory is looked at only if it is asked for.
func (f *fleet) look(memory bool) (s snapshot, err error) {
	if s.counts, err = f.counts(); err != nil {
		return s, err
	}
	for _, m := range f.members {
		cpu, err := m.CPU()
		if err != nil {
			return s, err
		}
		s.serverCPU += cpu
		if memory {
			held, err := m.Memory()
			if err != nil {
				return s, err
			}
			s.server += held
		}
	}
	if memory {
		held := measure.Held()
		s.client = held.Heap + held.Stack
	}
	s.clientCPU, s.at = measure.CPU(), time.Now()
	return s, nil
}

// counts adds up the metrics of all members.
func (f *fleet) counts() (member.Counts, error) {
	sum := member.Counts{}
	for _, m := range f.members {
		c, err := m.Counts()
		if err != nil {
			return nil, err
		}
		for name, value := range c {
			sum[name] += value
		}
	}
	return sum, nil
}

// grow does something n times, some at a time, and returns what each added.
func (f *fleet) grow(n int, one func(i int) error) (g Growth, err error) {
	before, err := f.look(true)
	if err != nil {
		return g, err
	}
	began := time.Now()
	if err := atATime(n, one); err != nil {
		return g, err
	}
	g.Seconds = time.Since(began).Seconds()
	time.Sleep(2 * time.Second) // what follows on the start
	after, err := f.look(true)
	if err != nil {
		return g, err
	}
	delta, each := after.counts.Since(before.counts), float64(n)
	g.Server, g.Client = (after.server-before.server)/each, (after.client-before.client)/each
	g.CPU = (after.serverCPU - before.serverCPU).Seconds() / each
	g.Sent, g.Handled = delta.Sent()/each, unary(delta)/each
	return g, nil
}

func atATime(n int, one func(i int) error) error {
	var wait sync.WaitGroup
	failed := make(chan error, workers)
	for w := range workers {
		wait.Go(func() {
			for i := w; i < n; i += workers {
				if err := one(i); err != nil {
					failed <- fmt.Errorf("number %d: %w", i, err)
					return
				}
			}
		})
	}
	wait.Wait()
	close(failed)
	return <-failed
}

// rates measures what happens in a second while something is done, which
// returns how many changes it made.
func (f *fleet) rates(during func() int) (r Rates, err error) {
	before, err := f.look(false)
	if err != nil {
		return r, err
	}
	changes := during()
	after, err := f.look(false)
	if err != nil {
		return r, err
	}
	delta, seconds := after.counts.Since(before.counts), after.at.Sub(before.at).Seconds()
	return Rates{
		Beats:     delta.Messages("LeaseKeepAlive") / seconds,
		Requests:  unary(delta) / seconds,
		Watch:     delta.Messages("Watch") / seconds,
		Events:    delta.Answers("Watch") / seconds,
		Sent:      delta.Sent() / seconds,
		Received:  delta.Received() / seconds,
		ServerCPU: (after.serverCPU - before.serverCPU).Seconds() / seconds,
		ClientCPU: (after.clientCPU - before.clientCPU).Seconds() / seconds,
		Changes:   float64(changes) / seconds,
	}, nil
}

// unary is how many requests were answered that are no streams.
func unary(c member.Counts) float64 {
	return c.Sum("grpc_server_handled_total", `grpc_type="unary"`)
}

// watcher is the subscriber of an Instancer, and notes how late changes come.
type watcher struct {
	mu   sync.Mutex // guards all below
	last []string
	late []time.Duration
}

func follow(s sd.Instancer) *watcher {
	w := &watcher{}
	events := make(chan sd.Event, 1)
	s.Register(events)
	go func() {
		for e := range events {
			w.took(e.Instances, time.Now())
		}
	}()
	return w
}

// took notes the age of what one event brought anew.
func (w *watcher) took(now []string, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.last
	w.last = now
	if old == nil {
		return
	}
	known := make(map[string]bool, len(old))
	for _, value := range old {
		known[value] = true
	}
	for _, value := range now {
		var instance, version, made int64
		if known[value] {
			continue
		}
		if _, err := fmt.Sscanf(value, "http://host-%d:8080/%d/%d", &instance, &version, &made); err == nil {
			w.late = append(w.late, at.Sub(time.Unix(0, made)))
		}
	}
}

func (w *watcher) latencies() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.late
}
