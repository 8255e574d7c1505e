//go:build servers

package servers

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestGRPCProxy_StandsBetween reaches etcd through its own gRPC proxy.
func TestGRPCProxy_StandsBetween(t *testing.T) {
	everyVersion(t, func(t *testing.T, version string) {
		etcd := newMember(t, version)
		cli := admin(t, clientv3.Config{Endpoints: []string{etcd.client}})
		address := freeAddresses(t, 1)[0]
		start(t, filepath.Join(programs, "etcd-"+version), "grpc-proxy", "start",
			"--endpoints", etcd.client, "--listen-addr", address, "--advertise-client-url", address, "--data-dir", etcd.directory)
		through := admin(t, clientv3.Config{Endpoints: []string{address}})
		eventually(t, 30*time.Second, "the proxy serves", func() bool {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, err := through.Get(ctx, "/s/")
			return err == nil
		})

		c, _ := connect(t, etcdv3.ClientOptions{}, address)
		registrar := register(t, c, "/s/own", "own", short)
		events := discover(t, c, "/s/")
		eventually(t, 5*time.Second, "the set", func() bool { return events.shows("own") })
		registered := revision(cli, "/s/own")
		put(t, cli, "/s/1", "a")
		eventually(t, 2*time.Second, "a change", func() bool { return events.shows("a", "own") })
		never(t, 12*time.Second, "the registration is lost", func() bool { return revision(cli, "/s/own") != registered })

		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if _, err := cli.Revoke(ctx, clientv3.LeaseID(c.LeaseID())); err != nil {
			t.Fatal(err)
		}
		// A third of the TTL, at which the proxy renews, and a second.
		eventually(t, 3*time.Second, "registered again", func() bool { return revision(cli, "/s/own") > registered })
		eventually(t, 2*time.Second, "discovered again", func() bool { return events.shows("a", "own") })
		registrar.Deregister()
		eventually(t, 2*time.Second, "it has left", func() bool { return events.shows("a") })
		events.noErrors(t)
	})
}

// nginxConf is nginx in front of etcd with nginx's own defaults for HTTP/2, of
// which one is 128 streams at a time on a connection.
const nginxConf = `
daemon off;
master_process off;
pid %[1]s/nginx.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	upstream etcd { %[3]s }
	server {
		listen %[2]s http2;
		location / { grpc_pass grpc://etcd; }
	}
}
`

// TestNginx_TakesTwoHundredInstancersOfOneClient has more Instancers than nginx
// allows streams (promise 30).
func TestNginx_TakesTwoHundredInstancersOfOneClient(t *testing.T) {
	t.Parallel()
	has(t, "3.7")
	etcd := newCluster(t, "3.7", 3)
	cli := admin(t, clientv3.Config{Endpoints: endpoints(etcd)})
	address := startNginx(t, etcd)

	const prefixes = 200
	prefix := func(i int) string { return fmt.Sprintf("/s/%03d/", i) }
	for i := range prefixes {
		put(t, cli, prefix(i)+"1", "a")
	}
	c, _ := connect(t, etcdv3.ClientOptions{}, address)
	registrar := register(t, c, "/own", "own", short)
	instancers := make([]*etcdv3.Instancer, prefixes)
	log := newLines(t)
	var all sync.WaitGroup
	for i := range prefixes {
		all.Go(func() {
			s, err := etcdv3.NewInstancer(c, prefix(i), log)
			if err != nil {
				t.Error(err)
				return
			}
			instancers[i] = s
		})
	}
	all.Wait()
	t.Cleanup(func() {
		for _, s := range instancers {
			if s != nil {
				all.Go(s.Stop)
			}
		}
		all.Wait()
	})
	know := func(want string) func() bool {
		return func() bool {
			for _, s := range instancers {
				if state := s.State(); state.Err != nil || strings.Join(state.Instances, " ") != want {
					return false
				}
			}
			return true
		}
	}
	eventually(t, 10*time.Second, "all know their set", know("a"))
	for i := range prefixes {
		put(t, cli, prefix(i)+"2", "b")
	}
	eventually(t, 5*time.Second, "all know of the change", know("a b"))
	if _, err := c.GetEntries("/own"); err != nil {
		t.Error("a request beside them:", err)
	}
	never(t, 15*time.Second, "something breaks while nothing happens", func() bool {
		return registrar.Err() != nil || !know("a b")()
	})
	registrar.Deregister()
	if err := registrar.Err(); err == nil || revision(cli, "/own") != 0 {
		t.Error("it has not left:", err)
	}
}

// startNginx starts nginx in front of a cluster, and returns where it listens.
func startNginx(t *testing.T, etcd []*member) (address string) {
	t.Helper()
	dir, err := os.MkdirTemp(memory, "nginx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // as root, nginx works as another user
		t.Fatal(err)
	}
	servers := ""
	for _, m := range etcd {
		servers += "server " + m.client + "; "
	}
	address = freeAddresses(t, 1)[0]
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, fmt.Appendf(nil, nginxConf, dir, address, servers), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, filepath.Join(programs, "nginx"), "-p", dir, "-c", conf)
	cli := admin(t, clientv3.Config{Endpoints: []string{address}})
	eventually(t, 10*time.Second, "nginx serves", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := cli.Get(ctx, "/s/")
		return err == nil
	})
	return address
}
