//go:build never

package etcdv3

// go-kit v0.13.0 brings a google.golang.org/genproto of 2021 into the module
// graph, which holds the same packages as the modules that it was split into,
// and that etcd needs: "ambiguous import", for whoever requires go-kit and this
// module. A newer one holds them no more. go mod tidy keeps the requirement for
// the sake of this import, which is never built.
import _ "google.golang.org/genproto/googleapis/type/date"
