package lease_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

const denied = "etcdserver: permission denied (grant a role of the user permission for it)"

// checked is an etcd 3.7, which checks on renewal who may write a lease's keys.
func checked(members int) setting {
	return setting{Config: etcdtest.Config{Members: members, Settings: etcdtest.Settings{CheckRenewals: true}}, user: "u"}
}

// put writes a key under a lease.
func (k *kept) put(key string) {
	k.w.Helper()
	if _, err := k.w.conn.KV.Put(k.w.Context(), key, "", clientv3.WithLease(k.ID)); err != nil {
		k.w.Fatal(err)
	}
}

func TestOneOfElevenLosesItsRole_ItsNeighboursDoNotNotice(t *testing.T) {
	for _, foreign := range []bool{false, true} {
		s := checked(3)
		s.foreign = foreign
		virtually(t, s, func(w *world) {
			all := w.grants(11, 10, 3*time.Second)
			for i, l := range all {
				l.put(fmt.Sprintf("/%d", i))
			}
			after(20 * time.Second)
			w.etcd.Forget()
			w.etcd.SetUser("u", "secret", etcdtest.ReadWrite("/1"), etcdtest.ReadWrite("/2"), etcdtest.ReadWrite("/3"),
				etcdtest.ReadWrite("/4"), etcdtest.ReadWrite("/6"), etcdtest.ReadWrite("/7"), etcdtest.ReadWrite("/8"), etcdtest.ReadWrite("/9"), etcdtest.ReadWrite("/0"))
			after(3500 * time.Millisecond)
			w.same("news", all[5].said(), []string{denied})
			after(time.Minute)
			w.same("news", all[5].said(), []string{"silent " + denied, "lost"})
			w.within("streams", w.etcd.Count("LeaseKeepAlive"), 3, 12)
			for _, l := range append(all[:5:5], all[6:]...) {
				if said := l.said(); len(said) > 0 {
					w.Errorf("a neighbour heard %q", said)
				}
			}
			w.same("lost", w.lost(all), 1)
		})
	}
}

func TestRoleThatComesBack_EndsTheRefusal(t *testing.T) {
	virtually(t, checked(1), func(w *world) {
		l, other := w.grant(60, 3*time.Second), w.grant(10, 3*time.Second)
		l.put("/a/1")
		other.put("/b/1")
		after(10 * time.Second)
		for range 3 {
			w.etcd.SetUser("u", "secret", etcdtest.ReadWrite("/b"))
			after(20 * time.Second)
			w.same("news", l.said(), []string{denied})
			w.etcd.SetUser("u", "secret", etcdtest.ReadWrite(""))
			after(4 * time.Second)
			w.same("news", l.said(), []string{"well"})
		}
		w.etcd.Forget()
		after(time.Minute)
		w.same("streams", w.etcd.Count("LeaseKeepAlive"), 0)
		w.untroubled([]*kept{l, other})
		w.same("passwords", w.etcd.Count("Authenticate"), 0)
	})
}

// Most leases of a client are refused. The few that are not are renewed in time,
// and etcd is not asked for all of them again and again.
func TestManyLoseTheirRole_TheRestLives(t *testing.T) {
	for _, link := range []time.Duration{0, 20 * time.Millisecond} {
		virtually(t, checked(3), func(w *world) {
			w.etcd.SetLinks(etcdtest.Link{RTT: link})
			all := w.grants(200, 10, 3*time.Second)
			for i, l := range all {
				l.put(fmt.Sprintf("/%d/%d", i%20, i))
			}
			after(20 * time.Second)
			w.etcd.Forget()
			w.etcd.SetUser("u", "secret", etcdtest.ReadWrite("/7/"))
			after(time.Minute)
			var good []*kept
			for i, l := range all {
				if i%20 == 7 {
					good = append(good, l)
					continue
				}
				if said := l.said(); len(said) < 2 || said[0] != denied || said[len(said)-1] != "lost" {
					w.Errorf("heard %q", said)
				}
			}
			w.untroubled(good)
			w.within("streams", w.etcd.Count("LeaseKeepAlive"), 190, 190+300)
			w.within("beats", w.etcd.Count("Renew"), 0, 1500)
			w.within("streams at one time", w.etcd.MostStreams(), 1, 3) // one may be about to end
		})
	}
}

// A stream that is full all the time loses none of the others.
func TestManyLoseTheirRoleOnAFullStream_TheRestLives(t *testing.T) {
	virtually(t, checked(3), func(w *world) {
		w.delay(time.Millisecond)
		refused, good := w.grants(150, 10, 3*time.Second), w.grants(3000, 10, 3*time.Second)
		for i, l := range refused {
			l.put(fmt.Sprint("/", i))
		}
		after(20 * time.Second)
		w.etcd.SetUser("u", "secret", etcdtest.ReadWrite("a"))
		after(40 * time.Second)
		w.untroubled(good)
		w.same("lost", w.lost(refused), len(refused))
		w.within("beats sent", w.sent.Value(), 0, 60_000+100*len(refused))
	})
}

// After a refusal the stream becomes as wide again as a long link needs it.
func TestOneLosesItsRoleOverALongLink_TheRestLives(t *testing.T) {
	virtually(t, checked(1), func(w *world) {
		w.delay(time.Millisecond)
		w.etcd.SetLinks(etcdtest.Link{RTT: 250 * time.Millisecond})
		refused, good := w.grant(10, 3*time.Second), w.grants(3000, 10, 3*time.Second)
		refused.put("/a")
		after(20 * time.Second)
		w.etcd.SetUser("u", "secret")
		after(40 * time.Second)
		w.untroubled(good)
		w.same("lost", w.lost([]*kept{refused}), 1)
	})
}

func TestTokensAreForgotten_NobodyHears(t *testing.T) {
	virtually(t, checked(3), func(w *world) {
		all := w.grants(20, 10, 3*time.Second)
		for i, l := range all {
			l.put(fmt.Sprint("/", i))
		}
		after(10 * time.Second)
		w.etcd.Forget()
		for range 5 {
			w.etcd.ForgetTokens()
			after(20 * time.Second)
		}
		w.untroubled(all)
		w.same("passwords", w.etcd.Count("Authenticate"), 5)
		w.within("streams", w.etcd.Count("LeaseKeepAlive"), 5, 6)
	})
}

func TestUserThatIsRefused_IsToldAtOnce(t *testing.T) {
	virtually(t, checked(3), func(w *world) {
		l := w.grant(20, 3*time.Second)
		l.put("/a")
		after(10 * time.Second)
		w.etcd.Forget()
		w.etcd.SetUser("u", "another one", etcdtest.ReadWrite(""))
		after(3500 * time.Millisecond)
		const failed = "etcdserver: authentication failed, invalid user ID or password (check ClientOptions.Username and Password)"
		w.same("news", l.said(), []string{failed})
		after(time.Minute)
		w.same("news", l.said(), []string{"silent " + failed})
		w.within("passwords", w.etcd.Count("Authenticate"), 3, 8)
		w.etcd.SetUser("u", "secret", etcdtest.ReadWrite(""))
		after(70 * time.Second)
		w.same("news", l.said(), []string{"lost resumed"})
	})
}

// A clientv3 client that authenticates by itself is not asked for a password at
// each heartbeat, nor a refused one every second.
func TestForeignUser_CostsAPasswordAStream(t *testing.T) {
	s := checked(3)
	s.foreign = true
	s.wrap = func(cli *clientv3.Client) { cli.Lease = namespace.NewLease(cli.Lease, "ns/") }
	virtually(t, s, func(w *world) {
		l := w.grant(10, 3*time.Second)
		after(time.Minute)
		w.untroubled([]*kept{l})
		w.same("streams", w.etcd.Count("LeaseKeepAlive"), 1)
		w.etcd.SetUser("u", "another one", etcdtest.ReadWrite(""))
		w.etcd.Member(0).Break()
		w.etcd.Member(1).Break()
		w.etcd.Member(2).Break()
		w.etcd.Forget()
		after(10 * time.Minute)
		w.within("passwords", w.etcd.Count("Authenticate"), 10, 25)
		if said := l.said(); len(said) != 2 || strings.HasPrefix(said[0], "silent") || !strings.HasPrefix(said[1], "silent") {
			w.Errorf("heard %q", said)
		}
	})
}

// The wait after a token that has expired does not grow with each of them.
func TestForeignUserWhoseTokensExpire_LosesNothing(t *testing.T) {
	s := checked(3)
	s.foreign = true
	virtually(t, s, func(w *world) {
		l := w.grant(10, 3*time.Second)
		for range 10 {
			after(time.Minute)
			w.etcd.ForgetTokens()
		}
		after(time.Minute)
		w.untroubled([]*kept{l})
	})
}

// Users are switched on, and the client has none.
func TestNoUser_IsToldAtOnce(t *testing.T) {
	s := checked(1)
	s.user = ""
	virtually(t, s, func(w *world) {
		l := w.grant(20, 3*time.Second)
		after(10 * time.Second)
		w.etcd.EnableAuth()
		after(4 * time.Second)
		const empty = "etcdserver: user name is empty (set ClientOptions.Username and Password)"
		w.same("news", l.said(), []string{empty})
		after(20 * time.Second)
		w.same("news", l.said(), []string{"silent " + empty})
		w.within("streams", w.etcd.Count("LeaseKeepAlive"), 5, 25)
		w.etcd.DisableAuth()
		after(5 * time.Second)
		w.same("news", l.said(), []string{"lost resumed"})
	})
}
