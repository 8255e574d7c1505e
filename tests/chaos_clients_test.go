package tests

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// party is a client of the package, with all that watches by it.
type party struct {
	name    string
	client  etcdv3.Client
	timeout time.Duration
	wraps   bool            // a clientv3 client that it closes by itself
	ctx     context.Context // of the client
	cancel  context.CancelFunc
	close   func()       // ends what the package does not
	conns   atomic.Int64 // that the client has open
	once    sync.Once
}

// partyPlan is what is decided beforehand about a party.
type partyPlan struct {
	name    string
	slot    int
	members []int // that it knows
	timeout time.Duration
	wraps   bool // see party
	watches []watchPlan
}

// watchPlan is an Instancer to be.
type watchPlan struct {
	prefix  string
	foreign bool          // over a Client that is not one of this package
	lasts   time.Duration // until another takes its place
}

func (p *party) gone() bool { return p.ctx.Err() != nil }

// party returns the present client of a slot.
func (c *chaos) party(slot int) *party {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parties[slot]
}

// join makes a client the present one of its slot; the one before leaves.
func (c *chaos) join(plan partyPlan) {
	p, err := c.connect(plan)
	if err != nil {
		c.fail("%s: %v", plan.name, err)
		return
	}
	c.mu.Lock()
	before := c.parties[plan.slot]
	c.parties[plan.slot] = p
	c.everybody = append(c.everybody, p)
	c.mu.Unlock()
	for _, w := range plan.watches {
		c.running.Go(func() {
			for p.ctx.Err() == nil {
				c.watch(p, w)
			}
		})
		c.running.Go(func() { c.reads(p, w.prefix) })
	}
	if before != nil {
		c.leave(before)
	}
}

// connect makes the client of a party.
func (c *chaos) connect(plan partyPlan) (*party, error) {
	var endpoints []string
	for _, m := range plan.members {
		endpoints = append(endpoints, c.etcd.bridges[m].endpoint())
	}
	p := &party{name: plan.name, timeout: plan.timeout, wraps: plan.wraps, close: func() {}}
	counted := grpc.WithContextDialer(p.dial)
	options := etcdv3.ClientOptions{HeaderTimeoutPerRequest: plan.timeout, DialOptions: []grpc.DialOption{counted}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	var err error
	if !plan.wraps && plan.slot != rivals {
		c.call(0, "NewClient", func() { p.client, err = etcdv3.NewClient(p.ctx, endpoints, options) })
		return p, err
	}
	cli, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(), DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: time.Second, DialOptions: []grpc.DialOption{counted}})
	if err != nil {
		return nil, err
	}
	if plan.slot == rivals {
		ofAnotherProcess(cli)
	}
	p.close = func() { cli.Close() }
	c.call(0, "NewClientFrom", func() { p.client, err = etcdv3.NewClientFrom(p.ctx, cli, options) })
	return p, err
}

// leave ends the context of a party, which has to close its connection soon.
func (c *chaos) leave(p *party) {
	p.once.Do(func() {
		p.cancel()
		p.close()
		c.running.Go(func() {
			c.call(p.timeout, "the end of "+p.name, func() {
				for p.conns.Load() > 0 {
					time.Sleep(5 * time.Millisecond)
				}
			})
		})
	})
}

// dial counts the connections of a party.
func (p *party) dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	p.conns.Add(1)
	return &countedConn{Conn: conn, closed: sync.OnceFunc(func() { p.conns.Add(-1) })}, nil
}

// countedConn is a connection that tells that it is closed.
type countedConn struct {
	net.Conn
	closed func()
}

func (c *countedConn) Close() error {
	defer c.closed()
	return c.Conn.Close()
}

// foreign is a Client that is not one of this package.
type foreign struct{ etcdv3.Client }

// watch is the life of an Instancer, with spectators of every kind. It ends
// with the client, or at its time while there are faults.
func (c *chaos) watch(p *party, plan watchPlan) {
	var in *etcdv3.Instancer
	var err error
	cli := p.client
	name := fmt.Sprintf("%s's Instancer of %s", p.name, plan.prefix)
	if plan.foreign {
		cli, name = foreign{cli}, name+" over another Client"
	}
	c.call(p.timeout, "NewInstancer of "+name, func() { in, err = etcdv3.NewInstancer(cli, plan.prefix, nil) })
	if err != nil {
		c.fail("%s: %v", name, err)
		return
	}
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	var all sync.WaitGroup
	for kind, look := range map[string]func(*spectator){
		"fast": (*spectator).reads, "slow": (*spectator).readsSlowly, "asleep": (*spectator).sleeps, "visiting": (*spectator).visits,
	} {
		s := &spectator{c: c, ctx: ctx, in: in, prefix: plan.prefix, name: fmt.Sprintf("%s, %s", name, kind)}
		c.mu.Lock()
		c.spectators = append(c.spectators, s)
		c.mu.Unlock()
		all.Go(func() { look(s) })
	}
	select {
	case <-time.After(plan.lasts):
		select {
		case <-c.calm:
			<-p.ctx.Done()
		default:
		}
	case <-c.calm:
		<-p.ctx.Done()
	case <-p.ctx.Done():
	}
	cancel()
	c.call(defaultTimeout, "Stop of "+name, in.Stop)
	all.Wait()
}

// reader lists what an Instancer watches, again and again.
type reader struct {
	prefix string
	lists  [][]string
}

func (c *chaos) reads(p *party, prefix string) {
	r := &reader{prefix: prefix}
	for again := true; again; again = sleep(p.ctx, 300*time.Millisecond) {
		c.call(p.timeout, "GetEntries by "+p.name, func() {
			if list, err := p.client.GetEntries(prefix); err == nil {
				slices.Sort(list)
				r.lists = append(r.lists, slices.Compact(list))
			}
		})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readers = append(c.readers, r)
}

// spectator is a subscriber that remembers all.
type spectator struct {
	c      *chaos
	ctx    context.Context // ends with the Instancer, or shortly before
	in     *etcdv3.Instancer
	prefix string
	name   string

	mu     sync.Mutex // guards events
	events []seen
}

// seen is an event, and when it was seen.
type seen struct {
	sd.Event
	at    time.Duration
	first bool // after a Register
}

// watching returns the spectators whose Instancers are still there.
func (c *chaos) watching() []*spectator {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(c.spectators), func(s *spectator) bool { return s.ctx.Err() != nil })
}

func (s *spectator) note(event sd.Event, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, seen{event, time.Since(s.c.began), first})
}

func (s *spectator) last() sd.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.events) == 0 {
		return sd.Event{}
	}
	return s.events[len(s.events)-1].Event
}

// stay subscribes, and notes what comes until the Instancer ends, or the time
// is over, with a pause after each event; it takes none before it is awake.
// Once it has unsubscribed it closes the channel: to send then is a panic.
func (s *spectator) stay(awake <-chan struct{}, until <-chan time.Time, pause time.Duration) {
	ch := make(chan sd.Event, 1)
	s.c.call(0, "Register of "+s.name, func() { s.in.Register(ch) })
	first := true
	defer func() {
		s.c.call(0, "Deregister of "+s.name, func() { s.in.Deregister(ch) })
		close(ch)
		for event := range ch {
			s.note(event, first)
		}
	}()
	select {
	case <-awake:
	case <-s.ctx.Done():
	}
	for {
		select {
		case event := <-ch:
			s.note(event, first)
			first = false
		case <-until:
			return
		case <-s.ctx.Done():
			return
		}
		if pause > 0 && !sleep(s.ctx, pause) {
			return
		}
	}
}

// always is closed.
var always = func() chan struct{} {
	ch := make(chan struct{})
	close(ch)
	return ch
}()

func (s *spectator) reads()       { s.stay(always, nil, 0) }
func (s *spectator) readsSlowly() { s.stay(always, nil, 400*time.Millisecond) }

// sleeps takes no event before the faults are over.
func (s *spectator) sleeps() { s.stay(s.c.calm, nil, 0) }

// visits comes and goes until the faults are over, and then stays.
func (s *spectator) visits() {
	for n := 0; s.ctx.Err() == nil; n++ {
		select {
		case <-s.c.calm:
			s.stay(always, nil, 0)
			return
		default:
		}
		s.stay(always, time.After(time.Duration(20+n*37%400)*time.Millisecond), 0)
		sleep(s.ctx, time.Duration(n*53%300)*time.Millisecond)
	}
}
