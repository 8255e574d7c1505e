package etcd

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/kitsd/etcdv3/internal/meter"
	"github.com/kitsd/etcdv3/internal/worker"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

const (
	// A user that etcd refuses is asked about after refusedFirst, and then after
	// twice as long each time, up to refusedMax. Checking a password costs etcd
	// some 60 ms of a core.
	refusedFirst = time.Second
	refusedMax   = time.Minute
)

// tokens is the one token of a client. It is fetched when there is none, or when
// etcd refuses it: once at a time, for all who wait.
//
// etcd goes on checking a password when its caller has given up. So a fetch has
// no deadline, and does not end with who asked for it.
type tokens struct {
	conn           *Conn
	name, password string

	mu       sync.Mutex // guards all below
	token    string
	have     bool      // token is one to use, which is empty where etcd wants none
	accepted bool      // etcd has accepted it
	fetching *fetch    // nil when nobody fetches
	refused  error     // why etcd gave none last
	again    time.Time // when to ask after that
	retry    worker.Backoff
}

// fetch is one under way.
type fetch struct {
	*worker.Worker
	unanswered error // why there was no answer, once it is done
}

// get returns the token, "" if none is needed. It waits for one as long as ctx
// lives; a user that was refused lately is refused at once. If nobody is there
// to answer, or is well, all who wait hear so. Each asks again as its own
// request demands.
func (t *tokens) get(ctx context.Context, cc grpc.ClientConnInterface) (string, error) {
	if t.name == "" {
		return "", nil
	}
	for {
		token, fetching, err := t.current(cc)
		if fetching == nil {
			return token, err
		}
		select {
		case <-fetching.Done():
			if fetching.unanswered != nil {
				return "", fetching.unanswered
			}
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

// now returns the token, "" if there is none.
func (t *tokens) now() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.token
}

// current returns the token, or why there is none, or who fetches one.
func (t *tokens) current(cc grpc.ClientConnInterface) (string, *fetch, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.have:
		return t.token, nil, nil
	case t.conn.ctx.Err() != nil:
		return "", nil, context.Canceled
	case t.fetching != nil:
		return "", t.fetching, nil
	case t.refused != nil && time.Now().Before(t.again):
		return "", nil, t.refused
	}
	f := &fetch{}
	f.Worker = worker.Start(context.Background(), func(ctx context.Context) { f.unanswered = t.fetch(ctx, cc) })
	t.fetching = f
	return "", f, nil
}

// fetch authenticates, however long that takes, and returns why there was no
// answer. An etcd that has too much to do is asked again, after a wait that grows:
// it has checked the password.
func (t *tokens) fetch(ctx context.Context, cc grpc.ClientConnInterface) (unanswered error) {
	retry := worker.Backoff{Max: refusedMax}
	for {
		resp, err := t.authenticate(ctx, cc)
		if errors.Is(err, rpctypes.ErrAuthNotEnabled) {
			resp, err = &pb.AuthenticateResponse{}, nil
		}
		if err == nil || KindOf(err) != Busy || !retry.Wait(ctx) {
			return t.fetched(resp.GetToken(), err)
		}
	}
}

// authenticate asks for a token once, by way of a member that can be left.
func (t *tokens) authenticate(ctx context.Context, cc grpc.ClientConnInterface) (*pb.AuthenticateResponse, error) {
	routed, route := t.conn.Route(clientv3.WithRequireLeader(ctx))
	defer route.End()
	route.Asked()
	resp, err := pb.NewAuthClient(cc).Authenticate(routed, &pb.AuthenticateRequest{Name: t.name, Password: t.password}, grpc.WaitForReady(false))
	if t.conn.left(route, err) {
		meter.Count(t.conn.Metrics.Authentications, 1)
	}
	if err != nil && errors.Is(context.Cause(routed), ErrSilent) {
		err = ErrSilent
	}
	return resp, rpctypes.Error(err)
}

// fetched notes what came of a fetch, and returns why there was no answer.
func (t *tokens) fetched(token string, err error) (unanswered error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fetching = nil
	switch {
	case err == nil:
		t.token, t.have, t.accepted, t.refused = token, true, false, nil
	case Refused(err):
		t.refuse(err)
	default:
		return err
	}
	return nil
}

// refuse has the next fetch wait. t.mu is held.
func (t *tokens) refuse(err error) {
	t.retry.First, t.retry.Max = refusedFirst, refusedMax
	t.refused, t.again = err, time.Now().Add(t.retry.Next())
}

// judge notes what etcd said to a token, and reports whether to ask again with
// another one.
func (t *tokens) judge(token string, err error) (again bool) {
	// etcd looks at permissions only when it has accepted the token.
	accepted := err == nil || errors.Is(rpctypes.Error(err), rpctypes.ErrPermissionDenied)
	if t.name == "" || !accepted && !TokenRefused(err) {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if accepted {
		if t.have && !t.accepted && t.token == token {
			t.accepted = true
			t.retry.Reset()
		}
		return false
	}
	if !t.have || t.token != token {
		return true // there is another one already, or about to be
	}
	t.token, t.have = "", false
	if !t.accepted { // a new one does not help
		t.refuse(err)
	}
	return t.accepted
}

// close ends a fetch that is under way. None begins after the connection's end.
func (t *tokens) close() {
	t.mu.Lock()
	fetching := t.fetching
	t.mu.Unlock()
	if fetching != nil {
		fetching.Stop()
	}
}
