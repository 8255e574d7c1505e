package virtual_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// services registers some one after the other, so that the queue of writes lets in no
// more at a time.
func (w *world) services(c etcdv3.Client, n int) (all []*etcdv3.Registrar, logs []*journal) {
	for i := range n {
		r, j := registrar(c, etcdv3.Service{Key: key(i), Value: "v"})
		r.Register()
		all, logs = append(all, r), append(logs, j)
	}
	return all, logs
}

// allSay fails unless the Err of all holds a text.
func (w *world) allSay(all []*etcdv3.Registrar, words string) {
	w.Helper()
	says := map[string]int{}
	for _, r := range all {
		if err := fmt.Sprint(r.Err()); !strings.Contains(err, words) {
			says[err]++
		}
	}
	if len(says) > 0 {
		w.Errorf("want %q, of %d say: %v", words, len(all), says)
	}
}

// There are more services than turns.
func TestWhoWaitsForATurn_IsToldWhy(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		all, _ := w.services(c, 100)
		w.refuses(rpctypes.ErrGRPCNoLeader, "LeaseGrant", "Txn", "Range")
		w.etcd.RevokeAll()
		after(10 * time.Minute)
		w.allSay(all, "no leader")
	})
}

func TestWhoWaitsForATurn_IsToldTheNewReason(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		all, _ := w.services(c, 40)
		w.etcd.Set(func(s *etcdtest.Settings) { s.NoSpace = true })
		w.etcd.RevokeAll()
		after(time.Minute)
		w.all((*etcdtest.Member).Down)
		after(time.Minute)
		w.allSay(all, "connection refused")
	})
}

func TestErr_WhileRegisterWaits(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		r, _ := registrar(c, service("v"))
		w.delaysAnswers(time.Second, "LeaseGrant")
		done := start(r.Register)
		after(500 * time.Millisecond)
		if err := r.Err(); strings.Contains(err.Error(), "was not called") {
			w.Errorf("Register is under way: %v", err)
		}
		<-done
		r.Deregister()
		done = start(r.Register)
		after(500 * time.Millisecond)
		if err := r.Err(); err.Error() == "deregistered" {
			w.Errorf("Register is under way: %v", err)
		}
		<-done
	})
}

func TestEtcdThatDoesNotAnswer_IsTheReasonInTheEnd(t *testing.T) {
	virtually(t, func(w *world) {
		_, r, j := w.registered()
		w.all((*etcdtest.Member).Stall)
		w.etcd.RevokeAll()
		after(2 * time.Minute)
		if err := r.Err(); strings.Contains(err.Error(), "lease was lost") {
			w.Errorf("%v\n%s", err, j)
		}
	})
}

func TestConnectionRefused_IsNoReasonOnceConnected(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		w.all((*etcdtest.Member).Down)
		r, j := registrar(c, service("v"))
		r.Register()
		w.all((*etcdtest.Member).Stall)
		w.all((*etcdtest.Member).Up)
		after(2 * time.Minute)
		if err := r.Err(); strings.Contains(err.Error(), "connection refused") {
			w.Errorf("connected for two minutes: %v\n%s", err, j)
		}
		// Nor is it the reason of a key that is asked for only now.
		err := c.Register(etcdv3.Service{Key: "/s/2", Value: "v"})
		if strings.Contains(err.Error(), "connection refused") {
			w.Error(err)
		}
	})
}

// There are more lists than turns.
func TestGetEntriesThatWaitsForATurn_SaysWhy(t *testing.T) {
	virtually(t, func(w *world) {
		c, _ := w.client()
		_, _ = c.GetEntries("/s/") // connects
		w.refuses(rpctypes.ErrGRPCNoLeader, "Range")
		var group sync.WaitGroup
		for range 40 {
			group.Go(func() {
				_, err := c.GetEntries("/s/")
				w.says(err, "no leader")
			})
		}
		group.Wait()
	})
}
