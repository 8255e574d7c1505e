package fleet

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

const (
	writeTime    = 2 * time.Millisecond
	passwordTime = 60 * time.Millisecond
)

// A story is what happens to a fleet.
type story string

const (
	starts story = "starts"
	breaks story = "all links break"
	wiped  story = "the store is empty"
	silent story = "one member falls silent"
	halved story = "the rate is halved"
)

var everyStory = []story{starts, breaks, wiped, silent, halved}

// fleet is some services on some clients, and what happens to them.
type fleet struct {
	story                      story
	services, clients, members int
	users                      bool
}

// String is the fleet's name in tests and in the table.
func (f fleet) String() string {
	users := ""
	if f.users {
		users = ", password"
	}
	endpoints := "1 endpoint"
	if f.members > 1 {
		endpoints = fmt.Sprintf("%d endpoints", f.members)
	}
	return fmt.Sprintf("%s: %d on %d, %s%s", f.story, f.services, f.clients, endpoints, users)
}

// afterStart reports whether the story begins when all are registered.
func (f fleet) afterStart() bool { return f.story == breaks || f.story == wiped }

// ideal is how long etcd takes for a grant and a put of each service, and one
// password check of each client.
func (f fleet) ideal() time.Duration {
	writes := time.Duration(2*f.services) * writeTime
	switch f.story {
	case breaks:
		return 0
	case halved:
		writes += writes / 2
	}
	if f.users && !f.afterStart() {
		return max(writes, time.Duration(f.clients)*passwordTime)
	}
	return writes
}

// mostStill is how many seconds in a row etcd may work without a new key. If each
// service has a client, nobody knows how many others there are: all ask for their
// leases at once, as many as etcd lets wait, and later ones between the puts.
func (f fleet) mostStill() int {
	if f.clients < f.services {
		return 0
	}
	return int(time.Duration(min(f.services, 5000)) * writeTime / time.Second)
}

// bound is within which all have to be registered.
func (f fleet) bound() time.Duration { return 2*f.ideal() + 5*time.Second }

// result is what became of a fleet.
type result struct {
	fleet
	took            time.Duration
	first           time.Duration // until the first key
	still           int           // the most seconds in a row of work without a new key, after the first
	idle            int           // the same without a new lease either
	grants, puts    int           // that etcd did not refuse for load
	refused         int           // grants and puts together
	revokes, tokens int
	lost            int // services that are not registered in the end
	dipped          int // keys that were missing after a break
}

// run is the whole life of a fleet.
func (f fleet) run(t *testing.T) (r result) {
	r.fleet = f
	virtually(t, etcdtest.Config{Members: f.members, Settings: etcdtest.Settings{WriteTime: writeTime, PasswordTime: passwordTime}}, func(w *world) {
		if f.users {
			w.protect()
		}
		registrars := f.connect(w)
		begin := func() {
			for _, r := range registrars {
				go r.Register()
			}
		}
		if f.afterStart() {
			w.etcd.Set(func(s *etcdtest.Settings) { s.PasswordTime = 0 })
			begin()
			w.waitFor(f.bound()+3*f.ideal()+time.Minute, func() bool { return w.etcd.CountKeys("/") == f.services })
			time.Sleep(10 * time.Second)
			w.etcd.Set(func(s *etcdtest.Settings) { s.PasswordTime = passwordTime })
			begin = func() {}
		}
		w.forget()
		r.watch(w, func() {
			begin()
			f.happens(w)
		})
		r.count(w)
		for _, one := range registrars {
			if one.Err() != nil {
				r.lost++
			}
		}
	})
	return r
}

// connect returns the registrars of the fleet, each on its client.
func (f fleet) connect(w *world) (all []*etcdv3.Registrar) {
	clients := make([]etcdv3.Client, f.clients)
	for i := range clients {
		clients[i] = w.client(w.ctx)
	}
	for i := range f.services {
		service := etcdv3.Service{Key: fmt.Sprintf("/s/%05d", i), Value: fmt.Sprintf("10.0.0.1:%d", i)}
		all = append(all, etcdv3.NewRegistrar(clients[i%f.clients], service, nil))
	}
	time.Sleep(time.Second)
	return all
}

// happens is what the story brings.
func (f fleet) happens(w *world) {
	switch f.story {
	case breaks:
		for _, m := range w.etcd.Members() {
			m.Break()
		}
	case wiped:
		w.etcd.Wipe(false)
	case silent:
		time.AfterFunc(500*time.Millisecond, w.etcd.Member(0).Silence)
	case halved:
		go func() {
			for w.etcd.CountKeys("/") < f.services/2 {
				time.Sleep(100 * time.Millisecond)
				if w.ctx.Err() != nil {
					return
				}
			}
			w.etcd.Set(func(s *etcdtest.Settings) { s.WriteTime = 2 * writeTime })
		}()
	}
}

// watch looks on until all are registered, and a while longer.
func (r *result) watch(w *world, begin func()) {
	const look = 100 * time.Millisecond
	began, last, before, still, idle := time.Now(), 0, 0, 0, 0
	begin()
	for last < r.services {
		time.Sleep(look)
		n, leases := w.etcd.CountKeys("/"), len(w.etcd.Leases())
		if n > last && last == 0 {
			r.first = time.Since(began)
		}
		still++
		idle++
		working := w.etcd.Pending() > 0 // else it registers nobody
		if n > last || n == 0 || !working {
			still = 0
		}
		if n > last || leases > before || !working {
			idle = 0
		}
		last, before = n, leases
		r.still = max(r.still, still/int(time.Second/look))
		r.idle = max(r.idle, idle/int(time.Second/look))
		if time.Since(began) > 2*r.bound()+time.Minute {
			break
		}
	}
	r.took = time.Since(began)
	if r.story == breaks { // the keys were there all the time, if none is lost now
		r.took = 0
	}
	for range 200 {
		time.Sleep(look)
		r.dipped = max(r.dipped, r.services-w.etcd.CountKeys("/"))
	}
}

// count notes what etcd was asked for.
func (r *result) count(w *world) {
	var more int
	r.grants, r.refused = w.served("LeaseGrant")
	r.puts, more = w.served("Txn")
	r.refused += more
	r.revokes = w.etcd.Count("LeaseRevoke")
	r.tokens = w.etcd.Count("Authenticate")
}

// faults returns where the result is not as promised.
func (r result) faults() (all []string) {
	fault := func(is bool, format string, args ...any) {
		if is {
			all = append(all, fmt.Sprintf(format, args...))
		}
	}
	most := r.services * 3 / 2
	if r.story == breaks {
		most = 0
	}
	if r.story == silent { // what is under way at that member is asked for again
		most += min(r.services, 20*r.clients) / r.members
	}
	tokens := 0
	if r.users && !r.afterStart() {
		tokens = r.clients
		if r.story == silent { // who was at that member asks another one
			tokens *= 2
		}
	}
	fault(r.took > r.bound(), "took %v, want at most %v", r.took, r.bound())
	fault(r.lost > 0, "%d are not registered", r.lost)
	fault(r.dipped > 0, "%d keys went away again", r.dipped)
	fault(r.grants > most, "%d grants, want at most %d", r.grants, most)
	fault(r.puts > most, "%d puts, want at most %d", r.puts, most)
	fault(r.revokes > r.services/10, "%d revokes, want at most %d", r.revokes, r.services/10)
	fault(r.tokens > tokens, "%d authentications, want at most %d", r.tokens, tokens)
	fault(r.idle > 0, "%d seconds in a row without a new lease or key", r.idle)
	fault(r.still > r.mostStill(), "%d seconds in a row without a new key, want at most %d", r.still, r.mostStill())
	return all
}

// usual are the fleets that every run of the tests has.
func usual() (all []fleet) {
	for _, s := range everyStory {
		all = append(all, fleet{s, 300, 50, 3, true})
		if !raced {
			all = append(all, fleet{s, 300, 300, 3, true}, fleet{s, 1000, 50, 3, false})
		}
	}
	if raced {
		return all
	}
	return append(all,
		fleet{starts, 1000, 1000, 1, true}, fleet{starts, 3000, 3000, 1, false}, fleet{wiped, 3000, 50, 1, false},
		fleet{starts, 10000, 50, 1, false})
}

// every are all fleets.
func every() (all []fleet) {
	for _, s := range everyStory {
		for _, services := range []int{300, 1000, 3000, 10000} {
			for _, clients := range []int{50, services} {
				for _, members := range []int{1, 3} {
					for _, users := range []bool{false, true} {
						if s != silent || members == 3 {
							all = append(all, fleet{s, services, clients, members, users})
						}
					}
				}
			}
		}
	}
	return all
}

func TestFleet_IsRegisteredInTwiceTheTimeThatEtcdNeeds(t *testing.T) {
	fleets := usual()
	if *all {
		fleets = every()
	}
	for _, f := range fleets {
		if !regexp.MustCompile(*only).MatchString(f.String()) {
			continue
		}
		t.Run(f.String(), func(t *testing.T) {
			r := f.run(t)
			t.Log(r.line())
			for _, fault := range r.faults() {
				t.Error(fault)
			}
		})
	}
}

// line is what is worth to be told of a result.
func (r result) line() string {
	return fmt.Sprintf("%v of ideally %v, first key after %v, still for %d s; %d grants, %d puts, %d refused, %d revokes, %d tokens",
		r.took, r.ideal(), r.first, r.still, r.grants, r.puts, r.refused, r.revokes, r.tokens)
}
