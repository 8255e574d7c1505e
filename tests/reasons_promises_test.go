package tests

import (
	"strings"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// tells fails unless Err and the log name a reason within a time.
func tells(t *testing.T, r *etcdv3.Registrar, j *journal, bound time.Duration, reason string) {
	t.Helper()
	took := eventually(t, bound+5*time.Second, "Err names "+reason, func() bool {
		return r.Err() != nil && strings.Contains(r.Err().Error(), reason)
	})
	within(t, 32, bound, took)
	eventually(t, time.Second, "the log names "+reason, func() bool { return j.count(reason) > 0 })
	if !strings.Contains(j.String(), "level=warn") {
		t.Errorf("log:\n%s", j)
	}
}

// hasty is a service whose troubles show soon.
func hasty(t *testing.T, c etcdv3.Client) (*etcdv3.Registrar, *journal) {
	t.Helper()
	j := &journal{}
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: "v", TTL: etcdv3.NewTTLOption(500*time.Millisecond, 3*time.Second)}, j.logger())
	r.Register()
	return r, j
}

func TestClosedPort_IsToldAsConnectionRefused(t *testing.T) {
	t.Parallel()
	c, _ := connect(t, etcdv3.ClientOptions{HeaderTimeoutPerRequest: time.Second}, "127.0.0.1:1")
	r, j := hasty(t, c)
	tells(t, r, j, 500*time.Millisecond, "connection refused")
	if strings.Contains(j.String(), "TLS") {
		t.Errorf("log:\n%s", j)
	}
}

func TestPasswordChanged_IsToldAsAuthenticationFailed(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	enableAuth(t, n.admin(), "user", "/s/", clientv3.PermissionType(clientv3.PermReadWrite))
	c, _ := connect(t, etcdv3.ClientOptions{Username: "user", Password: "user-pass"}, n.endpoint())
	r, j := hasty(t, c)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	root := plainAs(t, "root", "root-pass", n.endpoint())
	if _, err := root.UserChangePassword(t.Context(), "user", "another"); err != nil {
		t.Fatal(err)
	}
	lease := clientv3.LeaseID(c.LeaseID())
	if _, err := root.Revoke(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	tells(t, r, j, 2*time.Second, "authentication failed")
	if strings.Contains(j.String(), "deleted from outside") || strings.Contains(j.String(), "user-pass") {
		t.Errorf("log:\n%s", j)
	}
}

func TestStoreFull_IsToldAsNoSpace(t *testing.T) {
	t.Parallel()
	n := newNode(t, func(cfg *embed.Config) { cfg.QuotaBackendBytes = 4 << 20 })
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	r, j := hasty(t, c)
	admin := n.admin()
	large := strings.Repeat("x", 1<<20)
	for {
		if _, err := admin.Put(t.Context(), "/large", large); err != nil {
			break
		}
	}
	if _, err := admin.Revoke(t.Context(), clientv3.LeaseID(c.LeaseID())); err != nil {
		t.Fatal(err)
	}
	tells(t, r, j, 2*time.Second, "database space exceeded")
}

func TestLeaseLost_IsNotToldAsDeleted(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	c, _ := connect(t, etcdv3.ClientOptions{}, n.endpoint())
	r, j := hasty(t, c)
	for range 5 {
		if _, err := n.admin().Revoke(t.Context(), clientv3.LeaseID(c.LeaseID())); err != nil {
			t.Fatal(err)
		}
		eventually(t, 5*time.Second, "it is lost", func() bool { return r.Err() != nil })
		eventually(t, 5*time.Second, "it is back", func() bool { return r.Err() == nil })
	}
	if lost := j.count("the lease was lost"); lost != 5 || j.count("deleted") != 0 {
		t.Errorf("log:\n%s", j)
	}
	holds(t, 32)
}
