package bench

import (
	"context"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/bench/internal/member"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// BenchmarkAuthentication counts how often 100 services on one client authenticate,
// for as long as -window says. Their heartbeat is 1 s. The server is one of its own,
// and wants a user and a password. By hand it is clientv3's KeepAlive again.
//
//	authenticates  calls of Authenticate, from the start
//	beats          heartbeats meanwhile
func BenchmarkAuthentication(b *testing.B) {
	each(b, []registration{bareRegistration{}, thisRegistration{}}, func(b *testing.B, v registration) {
		members, err := member.Start(1, member.Options{NoFsync: !*fsync})
		if err != nil {
			b.Fatal(err)
		}
		defer member.Stop(members)
		enableAuth(b, members[0].Endpoint)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		was := counts(b, members[0])
		r := v.client(ctx, b, registrationOptions{
			endpoint: members[0].Endpoint, heartbeat: time.Second, ttl: 3 * time.Second, alive: true, user: "root", password: "secret",
		})
		registerMany(b, r, "/auth", 100)
		for b.Loop() {
			time.Sleep(*window)
		}
		done := counts(b, members[0]).Since(was)
		b.ReportMetric(done.Handled("Authenticate"), "authenticates")
		b.ReportMetric(done.Messages("LeaseKeepAlive"), "beats")
	})
}

// enableAuth makes a server want a user and a password.
func enableAuth(b *testing.B, endpoint string) {
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: connectTimeout})
	if err != nil {
		b.Fatal(err)
	}
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	if _, err = cli.UserAdd(ctx, "root", "secret"); err == nil {
		if _, err = cli.UserGrantRole(ctx, "root", "root"); err == nil {
			_, err = cli.AuthEnable(ctx)
		}
	}
	if err != nil {
		b.Fatal(err)
	}
}
