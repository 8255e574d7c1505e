//go:build unix

// Package shop_test runs the shop: its programs, as processes, at one etcd.
package shop_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/examples/shop/orders"
	"github.com/kitsd/etcdv3/examples/shop/stock"
	"github.com/kitsd/etcdv3/internal/alone"
)

const (
	ttl       = 3 * time.Second
	apples    = 1_000_000
	instances = 3 // of each service
)

// town is everything that runs.
type town struct {
	programs string // where they are
	machine  string // etcd's endpoint
	etcd     *process
	client   etcdv3.Client
	stock    []*stockInstance
	orders   []*ordersInstance
}

type stockInstance struct {
	*process
	http, grpc string
}

type ordersInstance struct {
	*process
	http string
}

// TestShop_ServesEveryOrderWhileInstancesComeAndGo is the story of a bad day.
func TestShop_ServesEveryOrderWhileInstancesComeAndGo(t *testing.T) {
	t.Cleanup(alone.Hold()) // no other test may have the processors meanwhile
	town := newTown(t)
	byHTTP, byGRPC, byOrders := town.discover(t, stock.HTTPPrefix), town.discover(t, stock.GRPCPrefix), town.discover(t, orders.Prefix)
	everybodyIsReady(t, town)
	customers := newCustomers(t, town)
	customers.areServedByAll(t, town)

	t.Log("a stock and an orders are killed, and go when their TTL is over")
	killed := time.Now()
	town.stock[0].kill(t)
	town.orders[0].kill(t)
	customers.mark()
	customers.areServedByAll(t, town)
	for s, address := range map[*etcdv3.Instancer]string{byHTTP: town.stock[0].http, byGRPC: town.stock[0].grpc, byOrders: town.orders[0].http} {
		eventually(t, ttl+3*time.Second, address+" is gone", func() bool { return !has(s, address) })
		if took := time.Since(killed); took < ttl/2 {
			t.Errorf("%s was gone after %v: that was no TTL of %v", address, took, ttl)
		}
	}
	customers.mark()
	customers.areServedByAll(t, town)

	t.Log("a stock ends, and is gone at once")
	leaving := town.stock[1]
	leaving.signal(t, syscall.SIGTERM)
	for s, address := range map[*etcdv3.Instancer]string{byHTTP: leaving.http, byGRPC: leaving.grpc} {
		eventually(t, ttl/2, address+" is gone", func() bool { return !has(s, address) })
	}
	leaving.waitForExit(t)
	customers.mark()
	customers.areServedByAll(t, town)

	t.Log("it starts again")
	town.stock[1] = town.startStock(t, leaving.http, leaving.grpc)
	everybodyIsReady(t, town)
	customers.mark()
	customers.areServedByAll(t, town)

	t.Log("every order was served, and was served once")
	placed := customers.goHome(t)
	if got, want := town.shop(t, "stock"), fmt.Sprintf("%8d  apple\n", apples-placed); got != want {
		t.Errorf("after %d orders the stock is %q, and not %q", placed, got, want)
	}
	t.Logf("%d orders", placed)

	readinessOutlivesEtcd(t, town)
	town.close(t)
}

// readinessOutlivesEtcd stops etcd's process for longer than the TTL. Everybody
// says why it is not registered, and is ready all the same.
func readinessOutlivesEtcd(t *testing.T, town *town) {
	t.Helper()
	town.etcd.signal(t, syscall.SIGSTOP)
	for _, address := range town.open() {
		eventually(t, ttl+5*time.Second, address+" says that it is not registered", func() bool {
			status, registered := readiness(address)
			if status != http.StatusOK {
				t.Fatalf("%s answers %d without etcd", address, status)
			}
			return !registered
		})
	}
	town.etcd.signal(t, syscall.SIGCONT)
	everybodyIsReady(t, town)
}

// newTown starts an etcd and three instances of each service.
func newTown(t *testing.T) *town {
	t.Helper()
	town := &town{programs: build(t), machine: alone.Port(t)}
	town.etcd = startProcess(t, filepath.Join(town.programs, "etcd"), "-listen", town.machine)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	client, err := etcdv3.NewClient(ctx, []string{town.machine}, etcdv3.ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	town.client = client
	eventually(t, 20*time.Second, "etcd serves", func() bool {
		_, err := client.GetEntries("/")
		return err == nil
	})
	for range instances {
		town.stock = append(town.stock, town.startStock(t, alone.Port(t), alone.Port(t)))
		town.orders = append(town.orders, town.startOrders(t, alone.Port(t)))
	}
	return town
}

func (w *town) startStock(t *testing.T, http, grpc string) *stockInstance {
	t.Helper()
	p := startProcess(t, filepath.Join(w.programs, "stock"), "-etcd", w.machine, "-ttl", ttl.String(),
		"-http", http, "-grpc", grpc, "-goods", fmt.Sprintf("apple=%d", apples))
	return &stockInstance{process: p, http: http, grpc: grpc}
}

func (w *town) startOrders(t *testing.T, http string) *ordersInstance {
	t.Helper()
	p := startProcess(t, filepath.Join(w.programs, "orders"), "-etcd", w.machine, "-ttl", ttl.String(), "-http", http)
	return &ordersInstance{process: p, http: http}
}

// shop runs the command line, and returns what it printed.
func (w *town) shop(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(w.programs, "shop"), append([]string{"-etcd", w.machine}, args...)...).CombinedOutput()
	if err != nil {
		t.Errorf("shop %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// discover looks at a prefix as a caller does.
func (w *town) discover(t *testing.T, prefix string) *etcdv3.Instancer {
	t.Helper()
	s, err := etcdv3.NewInstancer(w.client, prefix, log.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func has(s *etcdv3.Instancer, address string) bool {
	return slices.Contains(s.State().Instances, address)
}

// runs reports whether a process has not ended.
func (p *process) runs() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// open returns the HTTP addresses of all instances that run.
func (w *town) open() (addresses []string) {
	for _, i := range w.stock {
		if i.runs() {
			addresses = append(addresses, i.http)
		}
	}
	for _, i := range w.orders {
		if i.runs() {
			addresses = append(addresses, i.http)
		}
	}
	return addresses
}

func everybodyIsReady(t *testing.T, town *town) {
	t.Helper()
	for _, address := range town.open() {
		eventually(t, 10*time.Second, address+" is ready", func() bool {
			status, registered := readiness(address)
			return status == http.StatusOK && registered
		})
	}
}

// readiness returns how an instance answers when it is asked whether it is ready, 0
// if it does not, and whether it says that it is registered.
func readiness(address string) (status int, registered bool) {
	response, err := http.Get("http://" + address + "/ready")
	if err != nil {
		return 0, false
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, err == nil && string(text) == "registration: <nil>\n"
}

// close ends all services, which leave nothing behind.
func (w *town) close(t *testing.T) {
	t.Helper()
	var all []*process
	for _, i := range w.stock {
		all = append(all, i.process)
	}
	for _, i := range w.orders {
		all = append(all, i.process)
	}
	all = slices.DeleteFunc(all, func(p *process) bool { return !p.runs() })
	for _, p := range all {
		p.signal(t, syscall.SIGTERM)
	}
	for _, p := range all {
		p.waitForExit(t)
	}
	if left, err := w.client.GetEntries("/shop/"); err != nil || len(left) > 0 {
		t.Errorf("after all have left, etcd holds %v, %v", left, err)
	}
}
