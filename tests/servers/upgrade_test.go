//go:build servers

package servers

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestRollingUpgrade_NobodyNotices replaces the members of a cluster one by one
// with those of the next version. Between the steps the cluster is a mixed one.
func TestRollingUpgrade_NobodyNotices(t *testing.T) {
	t.Parallel()
	for _, upgrade := range [][2]string{{"3.5", "3.6"}, {"3.6", "3.7"}} {
		t.Run(strings.Join(upgrade[:], " to "), func(t *testing.T) {
			t.Parallel()
			has(t, upgrade[:]...)
			etcd := newCluster(t, upgrade[0], 3)
			cli := admin(t, clientv3.Config{Endpoints: endpoints(etcd)})
			services, _ := connect(t, etcdv3.ClientOptions{}, endpoints(etcd)...)
			caller, _ := connect(t, etcdv3.ClientOptions{}, endpoints(etcd)...)
			var registered []string
			for i := range 10 {
				value := fmt.Sprint("own", i)
				register(t, services, "/s/"+value, value, nil)
				registered = append(registered, value)
			}
			before := revisions(t, cli)
			events := discover(t, caller, "/s/")
			eventually(t, 5*time.Second, "the set", func() bool { return events.shows(registered...) })

			for i, m := range etcd {
				m.end(syscall.SIGTERM)
				m.version = upgrade[1]
				m.startAndServe()
				value := fmt.Sprint("change", i)
				put(t, cli, "/s/"+value, value)
				eventually(t, 15*time.Second, "the change after "+m.name, func() bool { return events.has(value) })
				time.Sleep(3 * time.Second)
			}
			eventually(t, 20*time.Second, "the cluster has the new version", func() bool {
				return strings.Contains(etcd[0].get("/version"), `"etcdcluster":"`+upgrade[1])
			})

			events.noErrors(t)
			for _, e := range events.all() {
				for _, value := range registered {
					if !slices.Contains(e.Instances, value) {
						t.Fatalf("%s is missing from an event: %v", value, e.Instances)
					}
				}
			}
			after := revisions(t, cli)
			for key, revision := range before {
				if after[key] != revision {
					t.Errorf("%s was put again", key)
				}
			}
		})
	}
}
