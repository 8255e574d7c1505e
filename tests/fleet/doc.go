// Package fleet proves in virtual time what a slow, a busy and an erring etcd
// gets of many clients, and what these get of it. It has tests alone, and knows
// no more of the package than a program does: NewClient, Registrar, Instancer.
//
// The tests run a part. All of it runs with flags:
//
//	go test -C tests ./fleet -args -all           every fleet and every reader
//	go test -C tests ./fleet -args -stories 5000  as many stories of late requests
//	go test -C tests ./fleet -args -seed 17       one of them, again
//	go test -C tests ./fleet -args -table         every fleet, into docs/scaling.md
package fleet
