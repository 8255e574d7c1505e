package etcd_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// withUsers runs a story on a cluster that checks passwords.
func withUsers(t *testing.T, settings etcdtest.Settings, story func(t *testing.T, e *etcdtest.Etcd)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := etcdtest.Start(t, etcdtest.Config{Members: 3, Settings: settings})
		e.SetUser("u", "secret", etcdtest.ReadWrite(""))
		e.EnableAuth()
		story(t, e)
	})
}

func TestToken_IsFetchedOnceAndWaitedFor(t *testing.T) {
	for _, old := range []bool{false, true} {
		withUsers(t, etcdtest.Settings{PasswordTime: 10 * time.Second, AsEtcd34: old}, func(t *testing.T, e *etcdtest.Etcd) {
			w := connect(t, e, "u", "secret")
			if took, err := w.put(w.within(3*time.Second), "k"); took != 3*time.Second || err == nil {
				t.Errorf("the first put took %v, %v", took, err)
			}
			var group sync.WaitGroup
			for i := range 100 {
				group.Go(func() {
					if took, err := w.put(w.Context(), fmt.Sprint(i)); err != nil || took > 7100*time.Millisecond {
						t.Errorf("took %v, %v", took, err)
					}
				})
			}
			group.Wait()
			if n := e.Count("Authenticate"); n != 1 {
				t.Errorf("%d authentications", n)
			}
		})
	}
}

func TestToken_ExpiredOrForgotten_IsFetchedAgainOnce(t *testing.T) {
	withUsers(t, etcdtest.Settings{TokenTTL: time.Minute}, func(t *testing.T, e *etcdtest.Etcd) {
		w := connect(t, e, "u", "secret")
		for i := range 5 {
			var group sync.WaitGroup
			for range 10 {
				group.Go(func() {
					if _, err := w.put(w.Context(), fmt.Sprint(i)); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			if n := e.Count("Authenticate"); n != 1+i {
				t.Errorf("%d authentications after %d tokens ended", n, i)
			}
			time.Sleep(2 * time.Minute)
		}
	})
}

// Its token was accepted all the same, and may be replaced when it has expired.
func TestTokenOfAUserWhoMayNothing_IsNoReason(t *testing.T) {
	withUsers(t, etcdtest.Settings{TokenTTL: time.Minute}, func(t *testing.T, e *etcdtest.Etcd) {
		e.SetUser("u", "secret")
		w := connect(t, e, "u", "secret")
		for i := range 5 {
			if _, err := w.put(w.Context(), "k"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
				t.Errorf("%d tokens ended: %v", i, err)
			}
			time.Sleep(2 * time.Minute)
		}
		e.SetUser("u", "secret", etcdtest.ReadWrite(""))
		if took, err := w.put(w.Context(), "k"); err != nil || took > 100*time.Millisecond {
			t.Errorf("with a role again: %v after %v", err, took)
		}
		if n := e.Count("Authenticate"); n != 6 {
			t.Errorf("%d authentications", n)
		}
	})
}

func TestLinksThatBreak_CostNoAuthentication(t *testing.T) {
	withUsers(t, etcdtest.Settings{}, func(t *testing.T, e *etcdtest.Etcd) {
		w := connect(t, e, "u", "secret")
		for i := range 20 {
			if _, err := w.put(w.Context(), fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
			e.Member(i % 3).Break()
		}
		if n := e.Count("Authenticate"); n != 1 {
			t.Errorf("%d authentications", n)
		}
	})
}

func TestRefusedUser_IsAskedAboutAMinuteApart(t *testing.T) {
	withUsers(t, etcdtest.Settings{}, func(t *testing.T, e *etcdtest.Etcd) {
		w := connect(t, e, "u", "wrong")
		for began := time.Now(); time.Since(began) < time.Hour; time.Sleep(100 * time.Millisecond) {
			if _, err := w.put(w.Context(), "k"); !errors.Is(err, rpctypes.ErrAuthFailed) || strings.Contains(err.Error(), "wrong") {
				t.Fatal(err)
			}
		}
		if n := e.Count("Authenticate"); n < 60 || n > 130 {
			t.Errorf("%d authentications in an hour", n)
		}
		e.SetUser("u", "wrong", etcdtest.ReadWrite(""))
		time.Sleep(time.Minute)
		if _, err := w.put(w.Context(), "k"); err != nil {
			t.Error(err)
		}
	})
}

func TestUserOfAnEtcdWithoutUsers_NeedsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := etcdtest.Start(t, etcdtest.Config{})
		w := connect(t, e, "u", "secret")
		for range 10 {
			if _, err := w.put(w.Context(), "k"); err != nil {
				t.Error(err)
			}
		}
		e.SetUser("u", "secret", etcdtest.ReadWrite(""))
		e.EnableAuth()
		if _, err := w.put(w.Context(), "k"); err != nil {
			t.Error("after users came:", err)
		}
		if n := e.Count("Authenticate"); n != 2 {
			t.Errorf("%d authentications", n)
		}
	})
}

// A token that is refused as soon as it was given is not replaced again and again.
func TestTokensThatEtcdNeverAccepts_AreAskedForWithBackoff(t *testing.T) {
	withUsers(t, etcdtest.Settings{}, func(t *testing.T, e *etcdtest.Etcd) {
		w := connect(t, e, "u", "secret")
		e.Set(func(s *etcdtest.Settings) {
			s.Refuse = func(_ int, method string, _ any) error {
				if method == "Authenticate" {
					return nil
				}
				return rpctypes.ErrGRPCInvalidAuthToken
			}
		})
		for began := time.Now(); time.Since(began) < 10*time.Minute; time.Sleep(100 * time.Millisecond) {
			if _, err := w.put(w.within(time.Second), "k"); err == nil {
				t.Fatal("answered")
			}
		}
		if n := e.Count("Authenticate"); n < 10 || n > 30 {
			t.Errorf("%d authentications in ten minutes", n)
		}
		e.Set(func(s *etcdtest.Settings) { s.Refuse = nil })
		time.Sleep(time.Minute)
		if _, err := w.put(w.Context(), "k"); err != nil {
			t.Error(err)
		}
		e.ForgetTokens() // one that was accepted is replaced at once
		if took, err := w.put(w.Context(), "k"); err != nil || took > 0 {
			t.Errorf("took %v, %v", took, err)
		}
		e.SetUser("u", "another one", etcdtest.ReadWrite("")) // and the wait is short again
		if _, err := w.put(w.Context(), "k"); !errors.Is(err, rpctypes.ErrAuthFailed) {
			t.Error(err)
		}
		e.SetUser("u", "secret", etcdtest.ReadWrite(""))
		time.Sleep(2 * time.Second)
		if _, err := w.put(w.Context(), "k"); err != nil {
			t.Error(err)
		}
	})
}
