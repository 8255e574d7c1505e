// Command report runs all benchmarks and the simulation, and writes what they
// measured to docs/benchmarks.md and docs/scaling.md, with pictures, and to
// bench/results.txt as benchstat reads it. Run it in the directory bench:
//
//	go run ./cmd/report
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/kitsd/etcdv3/bench/internal/member"
)

func main() {
	member.ServeIfAsked()
	docs := flag.String("docs", "../docs", "the directory to write to")
	raw := flag.String("raw", "results.txt", "the file for the output of the benchmarks")
	rounds := flag.Int("rounds", 3, "how often the short benchmarks are run")
	flag.Parse()
	if err := report(*docs, *raw, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
		os.Exit(1)
	}
}

func report(docs, raw string, rounds int) error {
	began, all, mine := time.Now(), busy(), own()
	dir, err := os.MkdirTemp("", "etcdv3-report")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	r, err := newRunner(dir)
	if err != nil {
		return err
	}
	results, costs, small, full, err := r.all(rounds)
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
	if err := os.WriteFile(raw, r.output.Bytes(), 0o644); err != nil {
		return err
	}
	if err := plots(docs, results); err != nil {
		return err
	}
	if err := write(filepath.Join(docs, "benchmarks.md"), "benchmarks.md.tmpl", benchmarksPage{m, tables(results), costs}); err != nil {
		return err
	}
	return write(filepath.Join(docs, "scaling.md"), "scaling.md.tmpl", newScalingPage(m, small, full))
}
