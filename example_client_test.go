package etcdv3_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/log"

	"github.com/kitsd/etcdv3"
)

// memory is an etcdv3.Client without etcd, for tests of code that registers or
// discovers. It is what an Instancer and a Registrar need, and no more.
type memory struct {
	mu       sync.Mutex // guards values and changed
	values   map[string]string
	changed  chan struct{} // closed, and replaced, at every change
	finished chan struct{} // closed by finish
}

var _ etcdv3.Client = (*memory)(nil)

func newMemory() *memory {
	return &memory{values: map[string]string{}, changed: make(chan struct{}), finished: make(chan struct{})}
}

// finish ends what the end of its context ends for a real client.
func (m *memory) finish() { close(m.finished) }

func (m *memory) Register(s etcdv3.Service) error {
	m.change(func() { m.values[s.Key] = s.Value })
	return nil
}

func (m *memory) Deregister(s etcdv3.Service) error {
	m.change(func() { delete(m.values, s.Key) })
	return nil
}

func (m *memory) change(apply func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	apply()
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memory) GetEntries(prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var values []string
	for _, key := range slices.Sorted(maps.Keys(m.values)) {
		if strings.HasPrefix(key, prefix) {
			values = append(values, m.values[key])
		}
	}
	return values, nil
}

// WatchPrefix signals once when it begins, and then after every change.
func (m *memory) WatchPrefix(_ string, ch chan struct{}) {
	for {
		m.mu.Lock()
		changed := m.changed
		m.mu.Unlock()
		select {
		case ch <- struct{}{}:
		case <-m.finished:
			return
		}
		select {
		case <-changed:
		case <-m.finished:
			return
		}
	}
}

func (m *memory) LeaseID() int64 { return 1 }

// Client is an interface, so that tests do without etcd.
func ExampleClient() {
	client := newMemory()
	defer client.finish()

	instancer, err := etcdv3.NewInstancer(client, "/services/hello/", log.NewNopLogger())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer instancer.Stop()
	events := make(chan sd.Event, 1)
	instancer.Register(events)
	defer instancer.Deregister(events)
	fmt.Println((<-events).Instances)

	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key:   "/services/hello/10.0.0.1:8080",
		Value: "http://10.0.0.1:8080",
	}, log.NewNopLogger())
	registrar.Register()
	fmt.Println((<-events).Instances)

	registrar.Deregister()
	fmt.Println((<-events).Instances)

	// Output:
	// []
	// [http://10.0.0.1:8080]
	// []
}
