// Command promises writes docs/promises.md, and the table of the README, from
// promises.txt and from what the tests measured. It reads the output of any
// number of test runs:
//
//	go test -json ./internal/... | go run ./internal/promises
//
// A test speaks for a promise by a line of its log:
//
//	promise 3 holds
//	promise 3 bound 5s measured 1.36s
//
// results.txt keeps what was said. A run replaces the tests of the packages that
// it holds. Of what was measured the slowest is kept: two runs do not differ by
// noise. With -update the last run counts.
//
// The command fails and writes nothing if a test failed, or if a promise has no
// test that promises.txt does not mark with "?".
package main

import (
	"flag"
	"log"
	"os"
)

const (
	texts   = "internal/promises/promises.txt"
	kept    = "internal/promises/results.txt"
	readme  = "README.md"
	written = "docs/promises.md"
)

func main() {
	log.SetFlags(0)
	update := flag.Bool("update", false, "take what this run measured, even if it is faster")
	flag.Parse()
	if err := run(*update); err != nil {
		log.Fatal(err)
	}
}

func run(update bool) error {
	promises, err := readPromises(texts)
	if err != nil {
		return err
	}
	before, err := readResults(kept)
	if err != nil {
		return err
	}
	now, packages, err := readRun(os.Stdin)
	if err != nil {
		return err
	}
	all := merge(before, now, packages, update)
	if err := judge(promises, all); err != nil {
		return err
	}
	if err := os.WriteFile(kept, []byte(all.String()), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(written, []byte(page(promises, all)), 0o644); err != nil {
		return err
	}
	return replaceTable(readme, table(promises, all))
}
