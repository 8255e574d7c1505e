// Package etcdv3 is service discovery for go-kit on etcd.
package etcdv3
