//go:build modules

package bench

// go-kit requires a google.golang.org/genproto of before its packages were
// split into modules of their own, and etcd's server the ones after: what both
// hold is ambiguous. This import, which is never built, keeps a version in
// go.mod that holds them no more.
import _ "google.golang.org/genproto/protobuf/ptype"
