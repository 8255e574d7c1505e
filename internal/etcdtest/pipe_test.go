package etcdtest_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

func TestLinkTakesItsTime(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		_, err := cli.Put(t.Context(), "a", string(bytes.Repeat([]byte("x"), 100_000)))
		must(t, err)
		etcd.SetLinks(etcdtest.Link{RTT: 200 * time.Millisecond})
		same(t, "a round trip", took(func() { _, err = cli.Get(t.Context(), "b") }), 200*time.Millisecond)
		must(t, err)
		etcd.SetLinks(etcdtest.Link{BytesPerSecond: 50_000})
		if d := took(func() { _, err = cli.Get(t.Context(), "a") }); d < 2*time.Second || d > 2100*time.Millisecond {
			t.Errorf("100 kB at 50 kB/s took %s", d)
		}
		must(t, err)
		etcd.SetLinks(etcdtest.Link{})
		if d := took(func() { _, err = cli.Get(t.Context(), "a") }); d > 100*time.Millisecond {
			t.Errorf("100 kB at any speed took %s", d)
		}
		must(t, err)
	})
}

func TestConnectingTakesARoundTrip(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		etcd.SetLinks(etcdtest.Link{RTT: time.Second})
		cli := connect(t, etcd)
		d := took(func() { _, err := cli.Get(t.Context(), "a"); must(t, err) })
		if d < 2*time.Second || d > 3500*time.Millisecond {
			t.Errorf("connecting and asking took %s", d)
		}
	})
}

func TestSilenceHoldsBytesUntilItEnds(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		_, err := cli.Get(t.Context(), "a")
		must(t, err)
		etcd.Member(0).Silence()
		time.AfterFunc(8*time.Second, etcd.Member(0).Speak)
		_, err = cli.Put(within(t, time.Second), "late", "1")
		wantError(t, "a write", err, context.DeadlineExceeded)
		sameAll(t, "keys while silent", etcd.Keys(""), nil)
		same(t, "a read", took(func() { _, err = cli.Get(t.Context(), "a") }), 7*time.Second)
		must(t, err)
		sameAll(t, "keys afterwards", etcd.Keys(""), []string{"late"})
		same(t, "connections", etcd.Connections(), 1)
	})
}

func TestSilentMemberLetsNobodyConnect(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		etcd.Member(0).Silence()
		time.AfterFunc(5*time.Second, etcd.Member(0).Speak)
		cli := connect(t, etcd)
		same(t, "a read", took(func() { _, err := cli.Get(t.Context(), "a"); must(t, err) }), 5*time.Second)
	})
}

func TestWhatWasSentIsDeliveredAfterTheClientHasGone(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		_, err := cli.Get(t.Context(), "a")
		must(t, err)
		etcd.Member(0).Silence()
		go func() { _, _ = cli.Put(t.Context(), "late", "1") }()
		time.Sleep(time.Second)
		must(t, cli.Close())
		time.Sleep(time.Second)
		etcd.Member(0).Speak()
		time.Sleep(time.Second)
		sameAll(t, "keys", etcd.Keys(""), []string{"late"})
		same(t, "connections", etcd.Connections(), 0)
	})
}

func TestBrokenConnectionIsMadeAgain(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		cli := connect(t, etcd)
		_, err := cli.Get(t.Context(), "a")
		must(t, err)
		etcd.Member(0).Break()
		_, err = cli.Get(t.Context(), "a")
		must(t, err)
		same(t, "connections", etcd.Connections(), 1)
	})
}

func TestMemberThatIsDownRefusesConnections(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		etcd.Member(0).Down()
		cli := connect(t, etcd, func(c *clientv3.Config) { c.MaxUnaryRetries = 1 })
		_, err := cli.Put(within(t, 3*time.Second), "a", "1")
		if err == nil {
			t.Error("a member that is down took a write")
		}
		etcd.Member(0).Up()
		_, err = cli.Put(within(t, 3*time.Second), "a", "1")
		must(t, err)
	})
}

func TestFrozenMemberConnectsAndStandsStill(t *testing.T) {
	virtually(t, etcdtest.Config{}, func(t *testing.T, etcd *etcdtest.Etcd) {
		etcd.Member(0).Freeze()
		time.AfterFunc(5*time.Second, etcd.Member(0).Thaw)
		cli := connect(t, etcd)
		d := took(func() { _, err := cli.Get(t.Context(), "a"); must(t, err) })
		same(t, "a read", d, 5*time.Second)
		same(t, "connections", etcd.Connections(), 1)
	})
}

func TestOneAddressForAllMembers(t *testing.T) {
	virtually(t, etcdtest.Config{Members: 2}, func(t *testing.T, etcd *etcdtest.Etcd) {
		etcd.Member(0).Down()
		cli := connect(t, etcd, func(c *clientv3.Config) { c.Endpoints = []string{etcd.Address()} })
		_, err := cli.Get(t.Context(), "a")
		must(t, err)
		same(t, "the member that is up", etcd.Member(1).Connections(), 1)
	})
}
