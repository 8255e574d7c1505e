// Package bench measures github.com/kitsd/etcdv3 beside a loop written by hand
// on clientv3, and beside go-kit's own sd/etcdv3: all three in one process,
// against etcd servers in processes of their own.
//
//	go test -bench . -run '^$'          benchmarks, in the format that benchstat reads
//	go run ./cmd/report                 all of them, and docs/benchmarks.md, docs/scaling.md, docs/*.svg
//	go run ./cmd/simulate               the load of a fleet on three members
//	go test ./...                       the library through etcd's gRPC proxy
//
// It is a module of its own, so that the library's go.mod holds nothing of what
// it needs. Every benchmark has the sub-benchmarks
//
//	bare      clientv3, and what one writes by hand: list, watch, a map; grant, put, keep alive
//	upstream  github.com/go-kit/kit/sd/etcdv3, where it can do the thing
//	this      github.com/kitsd/etcdv3
package bench
