//go:build never

package etcdv3_test

// go-kit v0.13.0 brings a google.golang.org/genproto of 2021 into the module
// graph, which holds the same packages as the modules that it was split into,
// and that grpc needs: "ambiguous import", for whoever requires go-kit and this
// module. A newer one holds them no more; go.mod has the first of these, so that
// nobody's version is raised further than need be. go mod tidy keeps the
// requirement for the sake of this import, which is never built. It stands in a
// test, as an import of the package would have every program require genproto,
// and see a hundred modules that genproto requires.
import _ "google.golang.org/genproto/googleapis/type/date"
