//go:build servers

package servers

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestOutageLongerThanTheTTL_RegistersAgain cuts the way to etcd until etcd has
// expired the lease (promises 3 and 13).
func TestOutageLongerThanTheTTL_RegistersAgain(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		etcd := newMember(t, version)
		cli := admin(t, clientv3.Config{Endpoints: []string{etcd.client}})
		bridge := newBridge(t, etcd.client)
		c, _ := connect(t, etcdv3.ClientOptions{}, bridge.endpoint())
		registrar := register(t, c, "/s/own", "own", short)
		events := discover(t, c, "/s/")
		eventually(t, 5*time.Second, "the set", func() bool { return events.shows("own") })

		bridge.cut()
		eventually(t, 15*time.Second, "the key has expired, and Err tells", func() bool {
			return revision(cli, "/s/own") == 0 && registrar.Err() != nil
		})
		put(t, cli, "/s/other", "other")
		time.Sleep(3 * time.Second) // a back-off grows
		bridge.mend()
		eventually(t, 5*time.Second, "registered again, and discovered", func() bool {
			return revision(cli, "/s/own") != 0 && registrar.Err() == nil && events.shows("other", "own")
		})
	})
}

// TestWipedStore_RegistersAgain kills etcd, which comes back with an empty store
// (promises 3 and 14).
func TestWipedStore_RegistersAgain(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		etcd := newMember(t, version)
		cli := admin(t, clientv3.Config{Endpoints: []string{etcd.client}})
		for i := range 20 { // revisions that the new store does not reach soon
			put(t, cli, "/s/other", fmt.Sprint("other", i))
		}
		c, _ := connect(t, etcdv3.ClientOptions{}, etcd.client)
		registrar := register(t, c, "/s/own", "own", short)
		events := discover(t, c, "/s/")
		eventually(t, 5*time.Second, "the set", func() bool { return events.shows("other19", "own") })

		etcd.kill()
		etcd.wipe()
		time.Sleep(4 * time.Second)
		etcd.startAndServe()
		eventually(t, 5*time.Second, "registered again", func() bool {
			return revision(cli, "/s/own") != 0 && registrar.Err() == nil
		})
		eventually(t, 30*time.Second, "the other store is noticed", func() bool { return events.shows("own") })
	})
}

// TestCompaction_NoChangeIsMissed compacts what a watch has missed (promise 11).
func TestCompaction_NoChangeIsMissed(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		etcd := newMember(t, version)
		cli := admin(t, clientv3.Config{Endpoints: []string{etcd.client}})
		put(t, cli, "/s/1", "a")
		put(t, cli, "/s/2", "b")
		bridge := newBridge(t, etcd.client)
		c, _ := connect(t, etcdv3.ClientOptions{}, bridge.endpoint())
		events := discover(t, c, "/s/")
		eventually(t, 5*time.Second, "the set", func() bool { return events.shows("a", "b") })

		bridge.cut()
		put(t, cli, "/s/3", "c")
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		deleted, err := cli.Delete(ctx, "/s/1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cli.Compact(ctx, deleted.Header.Revision); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		bridge.mend()
		eventually(t, 5*time.Second, "what was missed", func() bool { return events.shows("b", "c") })
		put(t, cli, "/s/4", "d")
		eventually(t, time.Second, "a change after that", func() bool { return events.shows("b", "c", "d") })
		events.noErrors(t)
	})
}

// TestFrozenMember_IsLeftForAnother stops one member after the other, with all
// connections standing (promise 12).
func TestFrozenMember_IsLeftForAnother(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		etcd := newCluster(t, version, 3)
		c, _ := connect(t, etcdv3.ClientOptions{}, endpoints(etcd)...)
		register(t, c, "/s/own", "own", nil) // with the default TTL, for which the promise is
		events := discover(t, c, "/s/")
		eventually(t, 5*time.Second, "the set", func() bool { return events.shows("own") })
		for i, m := range etcd {
			others := append(append([]*member{}, etcd[:i]...), etcd[i+1:]...)
			cli := admin(t, clientv3.Config{Endpoints: endpoints(others)})
			lease := c.LeaseID()
			m.freeze()
			frozen := time.Now()
			value := fmt.Sprint("change", i)
			put(t, cli, "/s/"+value, value)
			eventually(t, 15*time.Second, "the change, with "+m.name+" frozen", func() bool { return events.has(value) })
			never(t, 13*time.Second-time.Since(frozen), "the registration is lost", func() bool { return !events.has("own") })
			if c.LeaseID() != lease {
				t.Errorf("the lease was replaced, with %s frozen", m.name)
			}
			m.thaw()
			m.waitUntilItServes()
			// A leader that is thawed holds the leases for expired, and may revoke them
			// before it hears that another one leads: that is etcd's fault. Then they
			// are replaced within a heartbeat and a second.
			time.Sleep(4 * time.Second)
			eventually(t, time.Second, "it is registered, with "+m.name+" back", func() bool { return events.has("own") })
		}
		events.noErrors(t)
	})
}

// TestUserAndPassword_OutliveTheTokens has tokens that are good for 2 s, and an
// etcd that forgets all of them (promise 24).
func TestUserAndPassword_OutliveTheTokens(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		const tokenTTL = 2 * time.Second
		etcd := newMember(t, version, "--auth-token-ttl", fmt.Sprint(int(tokenTTL.Seconds())), "--bcrypt-cost", "4")
		enableUsers(t, etcd)
		c, _ := connect(t, etcdv3.ClientOptions{Username: "hello", Password: "hello-secret"}, etcd.client)
		registrar := register(t, c, "/s/own", "own", short)
		events := discover(t, c, "/s/")
		eventually(t, 5*time.Second, "the set", func() bool { return events.shows("own") })

		const quiet = 10 * time.Second
		lease, before := c.LeaseID(), etcd.calls("Authenticate")
		never(t, quiet, "the registration is lost", func() bool {
			return registrar.Err() != nil || c.LeaseID() != lease || !events.shows("own")
		})
		if asked := etcd.calls("Authenticate") - before; asked > int(quiet/tokenTTL) {
			t.Errorf("%d authentications while %d heartbeats were sent", asked, quiet/(500*time.Millisecond))
		}
		root := admin(t, clientv3.Config{Endpoints: []string{etcd.client}, Username: "root", Password: "root-secret"})
		put(t, root, "/s/1", "a")
		eventually(t, 5*time.Second, "a change after the tokens have expired", func() bool { return events.shows("a", "own") })

		etcd.kill()
		etcd.startAndServe()
		put(t, admin(t, clientv3.Config{Endpoints: []string{etcd.client}, Username: "root", Password: "root-secret"}), "/s/2", "b")
		eventually(t, 5*time.Second, "all is well after the restart", func() bool {
			return registrar.Err() == nil && events.shows("a", "b", "own")
		})
		registrar.Deregister()
		eventually(t, 5*time.Second, "it has left", func() bool { return events.shows("a", "b") })
	})
}

// TestRevokedRole_NeighboursDoNotNotice takes the permission for one of two
// services of a client (promise 31). Newer servers then refuse to renew its lease,
// and end the stream that renews both.
func TestRevokedRole_NeighboursDoNotNotice(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		etcd := newMember(t, version, "--bcrypt-cost", "4")
		enableUsers(t, etcd)
		c, _ := connect(t, etcdv3.ClientOptions{Username: "hello", Password: "hello-secret"}, etcd.client)
		registrar := register(t, c, "/s/own", "own", short)
		register(t, c, "/refused", "refused", short)
		events := discover(t, c, "/s/")
		eventually(t, 5*time.Second, "the set", func() bool { return events.shows("own") })
		before := etcd.calls("Authenticate")

		root := admin(t, clientv3.Config{Endpoints: []string{etcd.client}, Username: "root", Password: "root-secret"})
		registered := revision(root, "/s/own")
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := root.RoleRevokePermission(ctx, "hello", "/refused", ""); err != nil {
			t.Fatal(err)
		}
		never(t, 10*time.Second, "the neighbour is lost", func() bool {
			return registrar.Err() != nil || revision(root, "/s/own") != registered || !events.shows("own")
		})
		if asked := etcd.calls("Authenticate") - before; asked > 5 {
			t.Errorf("%d authentications", asked)
		}
		events.noErrors(t)
	})
}

// enableUsers makes root, and a user that may read and write under /s/.
func enableUsers(t *testing.T, etcd *member) {
	t.Helper()
	cli := admin(t, clientv3.Config{Endpoints: []string{etcd.client}})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for _, step := range []func() error{
		func() error { _, err := cli.UserAdd(ctx, "root", "root-secret"); return err },
		func() error { _, err := cli.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := cli.RoleAdd(ctx, "hello"); return err },
		func() error {
			_, err := cli.RoleGrantPermission(ctx, "hello", "/s/", clientv3.GetPrefixRangeEnd("/s/"), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error {
			_, err := cli.RoleGrantPermission(ctx, "hello", "/refused", "", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := cli.UserAdd(ctx, "hello", "hello-secret"); return err },
		func() error { _, err := cli.UserGrantRole(ctx, "hello", "hello"); return err },
		func() error { _, err := cli.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestQuietWatch_StaysQuiet looks at what an Instancer asks while nothing happens
// (promise 27): one sign of life in ten seconds.
func TestQuietWatch_StaysQuiet(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		etcd := newMember(t, version)
		put(t, admin(t, clientv3.Config{Endpoints: []string{etcd.client}}), "/s/1", "a")
		c, _ := connect(t, etcdv3.ClientOptions{}, etcd.client)
		events := discover(t, c, "/s/")
		eventually(t, 5*time.Second, "the set", func() bool { return events.shows("a") })

		const quiet = 25 * time.Second
		lists, streams := etcd.calls("Range"), etcd.calls("Watch")
		time.Sleep(quiet)
		if n := etcd.calls("Range") - lists; n > int(quiet/(10*time.Second)) {
			t.Errorf("%d reads in %v", n, quiet)
		}
		if n := etcd.calls("Watch") - streams; n > 0 {
			t.Errorf("%d streams were opened in %v", n, quiet)
		}
		if n := len(events.all()); n != 1 {
			t.Errorf("%d events, want the first one: %+v", n, events.all())
		}
	})
}

// TestThreeHundredLeases_AreKept holds 300 services on one client over three
// members (promises 1 and 30).
func TestThreeHundredLeases_AreKept(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		const services = 300
		etcd := newCluster(t, version, 3)
		cli := admin(t, clientv3.Config{Endpoints: endpoints(etcd)})
		c, leave := connect(t, etcdv3.ClientOptions{}, endpoints(etcd)...)
		streams := func() (n int) {
			for _, m := range etcd {
				n += m.calls("LeaseKeepAlive") + m.calls("Watch")
			}
			return n
		}
		before := streams()
		var all sync.WaitGroup
		for i := range services {
			all.Go(func() {
				err := c.Register(etcdv3.Service{
					Key: fmt.Sprintf("/s/%03d", i), Value: fmt.Sprint(i), TTL: etcdv3.NewTTLOption(time.Second, 4*time.Second),
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		registered := revisions(t, cli)
		if len(registered) != services {
			t.Fatalf("%d of %d are registered", len(registered), services)
		}
		never(t, 15*time.Second, "a key was put again", func() bool {
			now := revisions(t, cli)
			for key, revision := range registered {
				if now[key] != revision {
					return true
				}
			}
			return false
		})
		if n := streams() - before; n > 4 {
			t.Errorf("%d streams were opened", n)
		}
		leave()
		eventually(t, 5*time.Second, "all have left", func() bool { return len(revisions(t, cli)) == 0 })
	})
}

// revisions returns the mod revisions of all keys under /s/.
func revisions(t *testing.T, cli *clientv3.Client) map[string]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	resp, err := cli.Get(ctx, "/s/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]int64{}
	for _, kv := range resp.Kvs {
		all[string(kv.Key)] = kv.ModRevision
	}
	return all
}
