package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/pprof/profile"
)

// cost is where the processor time of one benchmark goes, in microseconds an
// operation.
type cost struct {
	Work   string
	Owners []ownerCost
	Own    []ownerCost // the functions of this package, in the variant this
}

type ownerCost struct {
	Owner      string
	Bare, This float64
}

// profiled are the benchmarks that are profiled, and what one operation of
// each is.
var profiled = []struct{ work, bench, args string }{
	{"one change, 1,000 standing", "Change/instances=1000", "-test.benchtime=1s"},
	{"one change, 10,000 standing", "Change/instances=10000", "-test.benchtime=1s"},
	{"one change, 100,000 standing", "Change/instances=100000", "-test.benchtime=1s"},
	{"a burst of 3,000 changes onto 2,000", "Burst", "-test.benchtime=1s"},
	{"first full set of 50,000", "FirstSet", "-test.benchtime=1s"},
	{"Register and Deregister", "Register", "-test.benchtime=1s"},
	{"8 s of 1,000 heartbeats a second", "Heartbeats", "-window=8s"},
}

// profiles profiles each benchmark, in the variants bare and this.
func (r *runner) profiles() (all []cost, err error) {
	for _, p := range profiled {
		c := cost{Work: p.work}
		bare, _, err := r.profile(p.bench, "bare", p.args)
		if err != nil {
			return nil, err
		}
		this, own, err := r.profile(p.bench, "this", p.args)
		if err != nil {
			return nil, err
		}
		for _, owner := range owners {
			c.Owners = append(c.Owners, ownerCost{owner, bare[owner], this[owner]})
		}
		for name, micros := range own {
			c.Own = append(c.Own, ownerCost{Owner: name, This: micros})
		}
		slices.SortFunc(c.Own, func(a, b ownerCost) int { return int(1000 * (b.This - a.This)) })
		c.Own = c.Own[:min(len(c.Own), 6)]
		all = append(all, c)
	}
	return all, nil
}

// profile runs one sub-benchmark, and returns microseconds an operation, by
// owner and by function of this package.
func (r *runner) profile(bench, variant, args string) (byOwner, own map[string]float64, err error) {
	fmt.Fprintln(os.Stderr, "profile", bench, variant)
	path := filepath.Join(r.dir, "cpu.out")
	which := "^Benchmark" + strings.ReplaceAll(bench, "/", "$/^") + "$/^" + variant + "$"
	out, err := r.test(which, args, "-profile="+path)
	if err != nil {
		return nil, nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	samples, err := profile.Parse(file)
	if err != nil {
		return nil, nil, err
	}
	byOwner, own = map[string]float64{}, map[string]float64{}
	n := iterations(out)
	for _, s := range samples.Sample {
		micros := float64(s.Value[1]) / 1e3 / n
		owner, function := ownerOf(s)
		byOwner[owner] += micros
		if owner == thisOwner {
			own[function] += micros
		}
	}
	return byOwner, own, nil
}

// iterations is how often the benchmark ran, of which this is the output.
func iterations(output string) float64 {
	for line := range strings.Lines(output) {
		if fields := strings.Fields(line); len(fields) > 2 && strings.HasPrefix(fields[0], "Benchmark") {
			n, _ := strconv.ParseFloat(fields[1], 64)
			return max(n, 1)
		}
	}
	return 1
}

const (
	thisOwner  = "this package"
	benchOwner = "the benchmark itself"
	gcOwner    = "garbage collector, in the background"
	restOwner  = "Go's runtime: scheduler, timers, network"
)

var owners = []string{thisOwner, "clientv3 and protobuf", "gRPC", gcOwner, restOwner, benchOwner}

// packages says whose a function is, by how its name begins.
var packages = []struct{ prefix, owner string }{
	{"github.com/kitsd/etcdv3/bench", benchOwner},
	{"github.com/kitsd/etcdv3.", thisOwner},
	{"github.com/kitsd/etcdv3/internal/", thisOwner},
	{"go.etcd.io/etcd/", "clientv3 and protobuf"},
	{"google.golang.org/protobuf", "clientv3 and protobuf"},
	{"google.golang.org/grpc", "gRPC"},
	{"golang.org/x/net/http2", "gRPC"},
	{"runtime.gcBgMarkWorker", gcOwner},
	{"runtime.bgsweep", gcOwner},
	{"runtime.bgscavenge", gcOwner},
}

// ownerOf is who does what a sample was taken in: the innermost function that
// belongs to somebody. What the runtime does for it is its own.
func ownerOf(s *profile.Sample) (owner, function string) {
	for _, location := range s.Location {
		for _, line := range location.Line {
			for _, p := range packages {
				if line.Function != nil && strings.HasPrefix(line.Function.Name, p.prefix) {
					return p.owner, strings.TrimLeft(strings.TrimPrefix(line.Function.Name, "github.com/kitsd/etcdv3"), "./")
				}
			}
		}
	}
	return restOwner, ""
}
