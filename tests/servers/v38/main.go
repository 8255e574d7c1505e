// Command v38 is etcd 3.8.0-alpha.0, as its own etcd command is.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
