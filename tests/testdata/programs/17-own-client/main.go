// A Client of the program's own, for tests without etcd.
package main

import (
	"errors"
	"log"
	"time"

	"github.com/go-kit/kit/sd"
	"github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
)

type fake struct {
	entries chan []string
	err     error
}

var _ etcdv3.Client = (*fake)(nil)

func (f *fake) GetEntries(string) ([]string, error) {
	select {
	case entries := <-f.entries:
		return entries, nil
	default:
		return nil, f.err
	}
}

func (f *fake) WatchPrefix(_ string, ch chan struct{}) {
	for {
		ch <- struct{}{}
		time.Sleep(50 * time.Millisecond)
	}
}

func (f *fake) Register(etcdv3.Service) error   { return f.err }
func (f *fake) Deregister(etcdv3.Service) error { return f.err }
func (f *fake) LeaseID() int64                  { return 0 }

func main() {
	client := &fake{entries: make(chan []string, 2), err: errors.New("nothing left")}
	client.entries <- []string{"a"}
	client.entries <- []string{"a", "b"}
	instancer, err := etcdv3.NewInstancer(client, "prefix", kitlog.NewNopLogger())
	if err != nil {
		log.Fatal(err)
	}
	events := make(chan sd.Event, 10)
	instancer.Register(events)
	timeout := time.After(5 * time.Second)
	for {
		select {
		case event := <-events:
			if event.Err == client.err {
				etcdv3.NewRegistrar(client, etcdv3.Service{Key: "k", Value: "v"}, kitlog.NewNopLogger()).Register()
				instancer.Stop()
				return
			}
		case <-timeout:
			log.Fatal("no error seen")
		}
	}
}
