// The name of the service is the key, so that two instances overwrite each
// other, and the last one to register is the one that callers see.
package main

import (
	"context"
	"log"
	"os"
	"time"

	"github.com/go-kit/kit/sd/etcdv3"
	kitlog "github.com/go-kit/log"
)

func main() {
	for _, address := range []string{"10.0.0.1:8080", "10.0.0.2:8080"} {
		client, err := etcdv3.NewClient(context.Background(), []string{os.Getenv("ETCD")}, etcdv3.ClientOptions{})
		if err != nil {
			log.Fatal(err)
		}
		registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
			Key:   "08-name-as-key",
			Value: address,
			TTL:   etcdv3.NewTTLOption(time.Second, 3*time.Second),
		}, kitlog.NewNopLogger())
		registrar.Register()
		for range 3 {
			entries, err := client.GetEntries("08-name-as-key")
			if err != nil || len(entries) != 1 || entries[0] != address {
				log.Fatal(entries, err)
			}
			time.Sleep(700 * time.Millisecond)
		}
	}
}
