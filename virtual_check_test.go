package etcdv3

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestVirtual_SilentWatch_IsLeftForAnother(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		etcd.set("/s/1", "a")
		_, events, _ := etcd.followed(t)
		after(20 * time.Second) // it has answered before
		for range 10 {
			opened, heard := etcd.opened, false
			etcd.breaks(only("progress", func(ctx context.Context, call string) error {
				if heard {
					return nil
				}
				heard = true
				return refuses(ctx, call)
			}))
			after(checkInterval + checkTimeout + 5*time.Second)
			if etcd.opened != opened+1 {
				t.Errorf("%d watches", etcd.opened-opened)
			}
		}
		events.are(t, "a")
	})
}

func TestVirtual_ProxyThatKnowsNoProgress_IsProbedInstead(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		etcd.mute = true
		etcd.set("/s/1", "a")
		_, events, _ := etcd.followed(t)
		after(time.Minute)
		if etcd.opened != deafAfter+1 {
			t.Errorf("%d watches, want %d", etcd.opened, deafAfter+1)
		}
		asked, probed := etcd.count("progress"), etcd.count("get")
		after(time.Hour)
		if etcd.opened != deafAfter+1 || etcd.count("progress") != asked {
			t.Errorf("%d watches, %d requests for progress", etcd.opened, etcd.count("progress")-asked)
		}
		if n := etcd.count("get") - probed; n < 300 || n > 361 {
			t.Errorf("%d probes in an hour", n)
		}
		events.are(t, "a")
		etcd.goAway(hangs)
		after(15 * time.Second)
		events.are(t, "error")
		etcd.comeBack()
		after(5 * time.Second)
		events.are(t, "a")
	})
}

func TestVirtual_WatchesThatDidNotAnswer_AreAskedAgainOnANewStream(t *testing.T) {
	virtually(t, func(t *testing.T, etcd *virtualEtcd) {
		etcd.mute = true // a member that is behind, for example
		_, events, _ := etcd.followed(t)
		after(time.Minute)
		etcd.mu.Lock()
		etcd.mute = false
		etcd.mu.Unlock()
		etcd.cancelWatches("etcdserver: no leader")
		after(time.Minute)
		asked := etcd.count("progress")
		after(time.Hour)
		if n := etcd.count("progress") - asked; n < 300 {
			t.Errorf("%d requests for progress in an hour", n)
		}
		events.are(t, "")
	})
}

func TestVirtual_StoreStartsOver_IsNoticed(t *testing.T) {
	for _, mute := range []bool{false, true} { // mute: a gRPC proxy
		for _, writes := range []int{0, 1, 200} { // 200: revisions have overtaken ours
			virtually(t, func(t *testing.T, etcd *virtualEtcd) {
				etcd.mute = mute
				for i := range 50 {
					etcd.set("/s/1", fmt.Sprint("a", i))
				}
				c, events, _ := etcd.followed(t)
				after(time.Minute)
				events.are(t, "a49")
				etcd.startOver()
				if writes > 1 {
					c.link.announce() // or nobody could tell these events from ours
				}
				for i := range writes {
					etcd.set("/s/2", fmt.Sprint("b", i))
				}
				after(30 * time.Second)
				want := ""
				if writes > 0 {
					want = fmt.Sprint("b", writes-1)
				}
				if got := events.take(); len(got) == 0 || got[len(got)-1] != want || slices.Contains(got, "error") {
					t.Errorf("mute %v, %d writes: events %q, want %q", mute, writes, got, want)
				}
			})
		}
	}
}
