//go:build modules

package bench

// go-kit requires an old google.golang.org/genproto. Its packages were split into
// modules of their own, which etcd's server requires: a package that both hold is
// ambiguous. This import is never built. It keeps a version in go.mod that holds
// these packages no more.
import _ "google.golang.org/genproto/protobuf/ptype"
