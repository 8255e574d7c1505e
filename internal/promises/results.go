package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// result is that a test speaks for a promise.
type result struct {
	promise int
	pkg     string // below the module, or the module's name
	test    string
	bound   time.Duration // zero for a promise that holds without one
}

// results are what was measured, zero without a bound.
type results map[result]time.Duration

// merge returns what stands after a run that held some packages.
func merge(before, now results, packages map[string]bool, update bool) results {
	all := results{}
	for r, took := range before {
		if _, still := now[r]; still && !update || !packages[r.pkg] {
			all[r] = took
		}
	}
	for r, took := range now {
		all[r] = max(all[r], took)
	}
	return all
}

// String is how results are kept: one a line.
func (r results) String() string {
	var out strings.Builder
	for _, key := range slices.SortedFunc(maps.Keys(r), byPromise) {
		fmt.Fprintf(&out, "%d %s %s", key.promise, key.pkg, key.test)
		if key.bound > 0 {
			fmt.Fprintf(&out, " %v %v", key.bound, r[key])
		}
		out.WriteString("\n")
	}
	return out.String()
}

func byPromise(a, b result) int {
	if a.promise != b.promise {
		return a.promise - b.promise
	}
	if by := strings.Compare(a.pkg+" "+a.test, b.pkg+" "+b.test); by != 0 {
		return by
	}
	return int(a.bound - b.bound)
}

// readResults reads what is kept.
func readResults(file string) (results, error) {
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	all := results{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) != 3 && len(fields) != 5 {
			return nil, fmt.Errorf("%s: %q is not a promise, a package, a test, and perhaps two times", file, line)
		}
		r, took, err := parse(fields[0], fields[1], fields[2], fields[3:])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all[r] = took
	}
	return all, nil
}

func parse(promise, pkg, test string, times []string) (r result, took time.Duration, err error) {
	r = result{pkg: pkg, test: test}
	if r.promise, err = strconv.Atoi(promise); err != nil || len(times) == 0 {
		return r, 0, err
	}
	if r.bound, err = time.ParseDuration(times[0]); err != nil {
		return r, 0, err
	}
	took, err = time.ParseDuration(times[1])
	return r, took.Round(10 * time.Millisecond), err
}

var line = regexp.MustCompile(`promise (\d+) (?:holds|bound (\S+) measured (\S+))`)

// readRun collects what tests say of promises from the output of go test -json,
// and which packages were tested.
func readRun(from io.Reader) (all results, packages map[string]bool, err error) {
	all, packages = results{}, map[string]bool{}
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var event struct{ Action, Package, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &event) != nil {
			continue
		}
		if event.Action == "fail" || event.Action == "build-fail" {
			return nil, nil, fmt.Errorf("the tests failed: %s %s", event.Package, event.Test)
		}
		pkg := below(event.Package)
		packages[pkg] = true
		said := line.FindStringSubmatch(event.Output)
		if said == nil {
			continue
		}
		times := said[2:]
		if said[2] == "" {
			times = nil
		}
		test, _, _ := strings.Cut(event.Test, "/")
		r, took, err := parse(said[1], pkg, test, times)
		if err != nil {
			return nil, nil, err
		}
		all[r] = max(all[r], took)
	}
	return all, packages, lines.Err()
}

// below returns the path of a package in the repository.
func below(pkg string) string {
	const module = "github.com/kitsd/etcdv3"
	if pkg == module {
		return path.Base(module)
	}
	return strings.TrimPrefix(pkg, module+"/")
}
