package etcdtest

import (
	"context"
	"fmt"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
)

// Permission lets a user read or write the keys from Key to End. If End is
// empty it is one key, and if it is "\x00" all from Key on.
type Permission struct {
	Key, End    string
	Read, Write bool
}

// ReadWrite is the permission to read and write all keys with a prefix.
func ReadWrite(prefix string) Permission { return Permission{prefix, endOf(prefix), true, true} }

// Read is the permission to read all keys with a prefix.
func Read(prefix string) Permission { return Permission{prefix, endOf(prefix), true, false} }

// endOf is the end of the range of all keys with a prefix.
func endOf(prefix string) string {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			return prefix[:i] + string([]byte{prefix[i] + 1})
		}
	}
	return "\x00"
}

// users is who may do what, guarded by the cluster's mutex.
type users struct {
	enabled  bool
	revision uint64 // grows with every change
	byName   map[string]*user
	tokens   uint64 // that were given out
}

type user struct {
	password string
	may      []Permission
}

// token is what a member knows of one.
type token struct {
	user    string
	expires time.Time
	order   uint64
}

// caller is who made a request. The zero value is nobody.
type caller struct {
	name     string
	revision uint64 // of the users, when the request came
}

func (u *users) init() { u.byName, u.revision = map[string]*user{}, 1 }

// EnableAuth makes etcd ask for tokens. The user root, if there is one, may do all.
func (e *Etcd) EnableAuth() { e.changeUsers(func(u *users) { u.enabled = true }) }

// DisableAuth makes etcd ask for tokens no more.
func (e *Etcd) DisableAuth() { e.changeUsers(func(u *users) { u.enabled = false }) }

// SetUser makes a user, or changes one. A changed password invalidates the
// tokens of the user; changed permissions do not.
func (e *Etcd) SetUser(name, password string, may ...Permission) {
	e.changeUsers(func(u *users) {
		if old := u.byName[name]; old != nil && old.password != password {
			e.invalidate(name)
		}
		u.byName[name] = &user{password, may}
	})
}

// RemoveUser deletes a user with its tokens.
func (e *Etcd) RemoveUser(name string) {
	e.changeUsers(func(u *users) {
		delete(u.byName, name)
		e.invalidate(name)
	})
}

// ForgetTokens invalidates all tokens, as if they had expired.
func (e *Etcd) ForgetTokens() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, m := range e.members {
		clear(m.tokens)
	}
}

func (e *Etcd) changeUsers(change func(*users)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.auth.revision++
	change(&e.auth)
}

func (e *Etcd) invalidate(name string) {
	for _, m := range e.members {
		for id, t := range m.tokens {
			if t.user == name {
				delete(m.tokens, id)
			}
		}
	}
}

// callerOf returns who made a request, nobody if no token came along. A token
// that was given out while the member's store stood still is waited for.
func (m *Member) callerOf(ctx context.Context) (caller, error) {
	for {
		by, early, err := m.callerNow(sentToken(ctx))
		if !early {
			return by, err
		}
		if err := m.fresh.wait(ctx, m.etcd.closed); err != nil {
			return caller{}, rpctypes.ErrGRPCInvalidAuthToken
		}
	}
}

func sentToken(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, field := range []string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger} {
		if sent := md.Get(field); len(sent) > 0 {
			return strings.TrimPrefix(sent[0], "Bearer ")
		}
	}
	return ""
}

// callerNow returns whom a token belongs to, and whether it comes too early to tell.
func (m *Member) callerNow(sent string) (by caller, early bool, err error) {
	e := m.etcd
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.auth.enabled || sent == "" {
		return caller{}, false, nil
	}
	t := m.tokens[sent]
	switch {
	case t == nil || time.Now().After(t.expires):
		return caller{}, false, rpctypes.ErrGRPCInvalidAuthToken
	case m.lags() && t.order > m.lastToken:
		return caller{}, true, nil
	}
	t.expires = time.Now().Add(e.now().tokenTTL())
	return caller{t.user, e.auth.revision}, false, nil
}

// named returns an error if etcd asks for tokens and the request has none.
func (m *Member) named(ctx context.Context) error {
	by, err := m.callerOf(ctx)
	if err != nil {
		return err
	}
	m.etcd.mu.Lock()
	defer m.etcd.mu.Unlock()
	if m.etcd.auth.enabled && by == (caller{}) {
		return rpctypes.ErrGRPCUserEmpty
	}
	return nil
}

// authenticate checks a password. It takes the core until it is done, whoever
// still waits.
func (e *Etcd) authenticate(name, password string) error {
	e.mu.Lock()
	enabled, u := e.auth.enabled, e.auth.byName[name]
	e.mu.Unlock()
	if !enabled {
		return rpctypes.ErrGRPCAuthNotEnabled
	}
	if u == nil {
		return rpctypes.ErrGRPCAuthFailed
	}
	if !e.core.enter(e.closed) {
		return rpctypes.ErrGRPCStopped
	}
	defer e.core.leave()
	if !e.sleep(e.now().PasswordTime) {
		return rpctypes.ErrGRPCStopped
	}
	if u.password != password {
		return rpctypes.ErrGRPCAuthFailed
	}
	return nil
}

// assign gives a user a token, which all members learn that are up.
func (e *Etcd) assign(name string) (string, error) {
	if !e.auth.enabled {
		return "", rpctypes.ErrGRPCAuthNotEnabled
	}
	if e.auth.byName[name] == nil {
		return "", rpctypes.ErrGRPCAuthFailed
	}
	e.auth.tokens++
	id := fmt.Sprintf("token.%d", e.auth.tokens)
	for _, m := range e.members {
		if m.isUp() {
			m.tokens[id] = &token{name, time.Now().Add(e.now().tokenTTL()), e.auth.tokens}
		}
	}
	return id, nil
}

type authServer struct {
	pb.UnimplementedAuthServer
	*Member
}

func (s authServer) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	if err := s.linearize(ctx); err != nil {
		return nil, err
	}
	if err := s.etcd.authenticate(r.Name, r.Password); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if s.etcd.now().AsEtcd34 {
		if _, err := s.callerOf(ctx); err != nil {
			return nil, err
		}
	}
	return propose(withoutToken(ctx), s.Member, r, func(c *change, _ caller) (*pb.AuthenticateResponse, error) {
		id, err := s.etcd.assign(r.Name)
		return &pb.AuthenticateResponse{Header: s.header(c.rev), Token: id}, err
	})
}

// withoutToken hides a token that came along.
func withoutToken(ctx context.Context) context.Context {
	return metadata.NewIncomingContext(ctx, nil)
}
