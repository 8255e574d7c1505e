// Command report runs all benchmarks and the simulation, and writes what they
// measured to docs/benchmarks.md and docs/scaling.md, with pictures. Run it in
// the directory bench:
//
//	go run ./cmd/report
//
// What was measured is kept in the directory results, the output of the
// benchmarks as benchstat reads it. So a part can be measured again, or the pages
// be written without measuring:
//
//	go run ./cmd/report -only simulations,pages
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kitsd/etcdv3/bench/internal/fleet"
	"github.com/kitsd/etcdv3/bench/internal/member"
)

func main() {
	member.ServeIfAsked()
	docs := flag.String("docs", "../docs", "the directory for the pages")
	kept := flag.String("results", "results", "the directory for what was measured")
	only := flag.String("only", "benchmarks,profiles,simulations,pages", "what to do")
	rounds := flag.Int("rounds", 3, "how often the short benchmarks are run")
	flag.Parse()
	if err := report(*docs, store(*kept), *only, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func report(docs string, kept store, only string, rounds int) error {
	dir, err := os.MkdirTemp("", "etcdv3-report")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.MkdirAll(string(kept), 0o755); err != nil {
		return err
	}
	for _, part := range []struct {
		name string
		do   func() error
	}{
		{"benchmarks", func() error { return benchmarks(dir, kept, rounds) }},
		{"profiles", func() error { return profiles(dir, kept) }},
		{"simulations", func() error { return simulations(dir, kept) }},
		{"pages", func() error { return writePages(docs, kept) }},
	} {
		if !strings.Contains(only, part.name) {
			continue
		}
		if err := part.do(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// benchmarks runs all benchmarks, and keeps their output, and the machine.
func benchmarks(dir string, kept store, rounds int) error {
	began, all, mine := time.Now(), busy(), own()
	r, err := newRunner(dir)
	if err != nil {
		return err
	}
	err = r.benchmarks(rounds)
	r.stop()
	if err != nil {
		return err
	}
	m, err := thisMachine(rounds)
	if err != nil {
		return err
	}
	m.Took = time.Since(began).Round(time.Second)
	others := busy() - all - (own() - mine)
	m.Others = max(0, others.Seconds()/time.Since(began).Seconds()/float64(m.Processors))
	if err := kept.save("machine.json", m); err != nil {
		return err
	}
	return os.WriteFile(kept.path("benchmarks.txt"), r.output.Bytes(), 0o644)
}

func profiles(dir string, kept store) error {
	r, err := newRunner(dir)
	if err != nil {
		return err
	}
	defer r.stop()
	costs, err := r.profiles()
	if err != nil {
		return err
	}
	return kept.save("profiles.json", costs)
}

// simulations runs the fleet at a quarter of its size, from which the model takes
// its constants, and at full size, against which the model is checked. Then it runs
// the gRPC proxy.
func simulations(dir string, kept store) error {
	program := filepath.Join(dir, "simulate")
	if _, err := output("go", "build", "-o", program, "./cmd/simulate"); err != nil {
		return err
	}
	for _, s := range []struct {
		name string
		args []string
	}{
		{"small.json", []string{"-services=5", "-instances=500", "-watchers=125", "-window=6s"}},
		{"full.json", []string{"-services=20", "-instances=2000", "-watchers=500", "-window=6s"}},
		{"fan.json", []string{"-fan=100"}},
	} {
		r, err := simulate(program, s.args...)
		if err == nil {
			err = kept.save(s.name, r)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writePages writes the pages and the pictures from what is kept.
func writePages(docs string, kept store) error {
	var m machine
	var costs []cost
	var small, full fleet.Result
	var fan fleet.FanOuts
	for name, into := range map[string]any{"machine.json": &m, "profiles.json": &costs, "small.json": &small, "full.json": &full, "fan.json": &fan} {
		if err := kept.load(name, into); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(kept.path("benchmarks.txt"))
	if err != nil {
		return err
	}
	all := parse(string(text))
	if err := plots(docs, all); err != nil {
		return err
	}
	if err := write(filepath.Join(docs, "benchmarks.md"), "benchmarks.md.tmpl", benchmarksPage{m, tables(all), costs}); err != nil {
		return err
	}
	return write(filepath.Join(docs, "scaling.md"), "scaling.md.tmpl", newScalingPage(m, small, full, fan))
}
