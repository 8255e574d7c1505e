package fleet

import (
	"fmt"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// readers are some Instancers on some instances, each on a client of its own or
// all on one, and what happens to them.
type readers struct {
	story                story
	instancers, clients  int
	instances, valueSize int
}

// readTime is how long etcd takes for one list of each reader.
const readTime = 20 * time.Second

// String is the readers' name in tests.
func (r readers) String() string {
	return fmt.Sprintf("%s: %d readers of %d on %d", r.story, r.instancers, r.instances, r.clients)
}

// reading is what became of readers.
type reading struct {
	took        time.Duration
	bytes, list int64 // that etcd sent, and for one list of each
	lists       int   // requests
	errors      int   // events with an error
}

// known is which set each Instancer knows.
type known struct {
	mu     sync.Mutex
	first  map[int]string // value of the set
	errors int
}

// follow notes what an Instancer sends, as long as the world lives.
func (k *known) follow(w *world, i, size int, s *etcdv3.Instancer, events chan sd.Event) {
	for {
		select {
		case event := <-events:
			k.note(i, size, event)
		case <-w.ctx.Done():
			s.Deregister(events)
			s.Stop()
			return
		}
	}
}

func (k *known) note(i, size int, event sd.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case event.Err != nil:
		k.errors++
	case len(event.Instances) == size:
		k.first[i] = event.Instances[0]
	}
}

// by reports whether so many know the set of a generation.
func (k *known) by(n, generation int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, first := range k.first {
		if first == mark(generation) {
			n--
		}
	}
	return n == 0
}

// mark is the value of the first instance, which tells a generation.
func mark(generation int) string { return fmt.Sprintf("0-%d", generation) }

// fill puts all instances of a generation.
func (r readers) fill(w *world, generation int) {
	values := make(map[string]string, r.instances)
	for i := range r.instances {
		values[fmt.Sprintf("/s/%06d", i)] = fmt.Sprintf("1%0*d", r.valueSize-1, i)
	}
	values["/s/000000"] = mark(generation)
	w.etcd.PutAll(values)
}

// watch starts the Instancers, all at once.
func (r readers) watch(w *world, know *known, prefix string) {
	clients := make([]etcdv3.Client, r.clients)
	for i := range clients {
		clients[i] = w.client(w.ctx)
	}
	time.Sleep(time.Second)
	for i := range r.instancers {
		go func() {
			s, err := etcdv3.NewInstancer(clients[i%r.clients], prefix, nil)
			if err != nil {
				w.Error(err)
				return
			}
			events := make(chan sd.Event)
			go know.follow(w, i, r.instances, s, events)
			s.Register(events)
		}()
	}
}

// listBytes is the size of one list.
func (r readers) listBytes(w *world) int64 {
	if _, err := w.client(w.ctx).GetEntries("/s/"); err != nil {
		w.Fatal(err)
	}
	return w.etcd.RangeBytes()
}

// run is the whole life of some readers.
func (r readers) run(t *testing.T) (done reading) {
	virtually(t, etcdtest.Config{Members: 3}, func(w *world) {
		r.fill(w, 1)
		done.list = int64(r.instancers) * r.listBytes(w)
		slow := func(s *etcdtest.Settings) { s.RangeBytesPerSecond = int(done.list / int64(readTime/time.Second)) }
		know := &known{first: map[int]string{}}
		generation := 1
		if r.story == starts {
			w.etcd.Set(slow)
			w.forget()
			r.watch(w, know, "/s/")
		} else {
			r.watch(w, know, "/s/")
			w.waitFor(time.Minute, func() bool { return know.by(r.instancers, generation) })
			time.Sleep(10 * time.Second)
			w.etcd.Set(slow)
			w.forget()
			generation++
			r.happens(w, generation)
		}
		done.took = w.waitFor(5*time.Minute, func() bool { return know.by(r.instancers, generation) })
		time.Sleep(20 * time.Second)
		done.bytes, done.lists, done.errors = w.etcd.RangeBytes(), w.etcd.Count("Range"), know.errors
	})
	return done
}

// happens is what the story brings. It brings another generation.
func (r readers) happens(w *world, generation int) {
	if r.story == wiped {
		w.etcd.Wipe(false)
		r.fill(w, generation)
		return
	}
	for _, m := range w.etcd.Members() {
		m.Break()
	}
	w.etcd.Put("/s/000000", mark(generation))
}

// usualReaders are those that every run of the tests has. Their sets are small,
// and etcd is as much slower.
func usualReaders() (all []readers) {
	for _, s := range []story{starts, breaks, wiped} {
		all = append(all, readers{s, 300, 300, 300, 20}, readers{s, 300, 1, 1000, 20})
	}
	return append(all, readers{starts, 3000, 1, 100, 20})
}

// everyReader are all readers, with sets of the size that they are to have.
func everyReader() (all []readers) {
	for _, s := range []story{starts, breaks, wiped} {
		for _, n := range []int{300, 3000} {
			all = append(all, readers{s, n, n, 50_000, 20}, readers{s, n, 1, 50_000, 20})
		}
	}
	return all
}

func TestReaders_KnowTheSetInTwiceTheTimeThatListsNeed(t *testing.T) {
	each := usualReaders()
	if *all {
		each = everyReader()
	}
	for _, r := range each {
		if !regexp.MustCompile(*only).MatchString(r.String()) {
			continue
		}
		t.Run(r.String(), func(t *testing.T) {
			done := r.run(t)
			t.Logf("%v of ideally %v, %.2f times the bytes, %d requests, %d events with an error", done.took, readTime, float64(done.bytes)/float64(done.list), done.lists, done.errors)
			if most := 2*readTime + 5*time.Second; done.took > most {
				t.Errorf("took %v, want at most %v", done.took, most)
			}
			if done.bytes > done.list*3/2 {
				t.Errorf("%d bytes of lists, want at most %d", done.bytes, done.list*3/2)
			}
		})
	}
}
