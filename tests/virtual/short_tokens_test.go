package virtual_test

import (
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// Two tokens may have expired one after the other: that of the stream, and the one
// that a read has fetched since. It is no loss, and no reason.
func TestTokensThatExpireBetweenHeartbeats_AreNoLoss(t *testing.T) {
	for _, as34 := range []bool{false, true} {
		for _, ttl := range []time.Duration{2 * time.Second, 5 * time.Second, 15 * time.Second, time.Minute} {
			virtuallyOn(t, etcdtest.Config{Members: 3, Settings: etcdtest.Settings{AsEtcd34: as34, TokenTTL: ttl, CheckRenewals: true, PasswordTime: 60 * time.Millisecond}}, func(w *world) {
				w.withUsers()
				s, with := spied()
				c, _ := w.client(with, asUser("u", "p"))
				var rs []*etcdv3.Registrar
				for i := range 20 {
					r, _ := registrar(c, etcdv3.Service{Key: key(i), Value: "v"})
					r.Register()
					rs = append(rs, r)
				}
				ev, j := w.followed(c)
				after(10 * time.Minute)
				for _, r := range rs {
					w.isRegistered(r)
				}
				ev.are(t, "v")
				if s.sum("losses") > 0 || j.count("") > 1 {
					t.Error(s.all(), j)
				}
				w.etcd.RevokeAll()
				w.until(4*time.Second, "back", func() bool { return w.etcd.CountKeys("/s/") == 20 })
			})
		}
	}
}
