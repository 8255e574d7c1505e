package etcdtest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest"
)

// A bubble fails if a goroutine is left in it.
func TestCloseEndsWhateverIsGoingOn(t *testing.T) {
	slow := func(int, string, any) time.Duration { return time.Hour }
	for name, trouble := range map[string]func(*etcdtest.Etcd){
		"nothing":  func(*etcdtest.Etcd) {},
		"silence":  func(e *etcdtest.Etcd) { e.Member(0).Silence() },
		"frost":    func(e *etcdtest.Etcd) { e.Member(0).Freeze() },
		"stall":    func(e *etcdtest.Etcd) { e.Member(0).Stall() },
		"leader":   func(e *etcdtest.Etcd) { e.Member(0).LoseLeader() },
		"down":     func(e *etcdtest.Etcd) { e.Member(0).Down() },
		"writes":   func(e *etcdtest.Etcd) { e.Set(func(s *etcdtest.Settings) { s.WriteTime = time.Hour }) },
		"renewals": func(e *etcdtest.Etcd) { e.Set(func(s *etcdtest.Settings) { s.RenewTime = time.Hour }) },
		"lists":    func(e *etcdtest.Etcd) { e.Set(func(s *etcdtest.Settings) { s.RangeBytesPerSecond = 1 }) },
		"delay":    func(e *etcdtest.Etcd) { e.Set(func(s *etcdtest.Settings) { s.Delay = slow }) },
		"answers":  func(e *etcdtest.Etcd) { e.Set(func(s *etcdtest.Settings) { s.DelayAnswer, s.Twice = slow, slow }) },
		"links":    func(e *etcdtest.Etcd) { e.SetLinks(etcdtest.Link{RTT: time.Hour}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				etcd := etcdtest.New(etcdtest.Config{})
				cli := connectAll(t, etcd)
				w, k := watch(t, cli, t.Context()), keepAlive(t, cli, t.Context())
				_, err := grant(t, cli, 7, 10)
				must(t, err)
				trouble(etcd)
				synctest.Wait()
				if etcd.Connections() > 0 {
					w.create(prefix(""))
					k.renew(7, 7)
				}
				for range 3 {
					go func() { _, _ = cli.Put(within(t, time.Minute), "a", "") }()
					go func() { _, _ = cli.Get(within(t, time.Minute), "a") }()
				}
				time.Sleep(5 * time.Second)
				etcd.Close()
				etcd.Close()
				same(t, "connections", etcd.Connections(), 0)
			})
		})
	}
}
