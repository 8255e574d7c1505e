// Command promises writes the table of promises into the README, with what the
// tests measured. It reads the output of the suite:
//
//	go test -count=1 -json -skip 'TestEveryPromise|TestReadme' . | go run ./internal/promises
//
// It fails, and writes nothing, if a test failed or a promise was not proved.
package main

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// texts holds the promises, one a line: what is promised, a bar, the bound.
//
//go:embed promises.txt
var texts string

const (
	readme = "README.md"
	begin  = "<!-- promises: made by internal/promises -->\n"
	end    = "<!-- end of promises -->\n"
)

// result is what the tests said of one promise.
type result struct {
	tests []string
	worst map[time.Duration]time.Duration // what was measured, by the bound
}

func main() {
	log.SetFlags(0)
	results, err := read(os.Stdin)
	if err == nil {
		err = write(results)
	}
	if err != nil {
		log.Fatal(err)
	}
}

var line = regexp.MustCompile(`promise (\d+) (holds|bound (\S+) measured (\S+))`)

// read collects the results from the output of go test -json.
func read(r io.Reader) (map[int]*result, error) {
	results := map[int]*result{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var event struct{ Action, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &event) != nil {
			continue
		}
		if event.Action == "fail" {
			return nil, fmt.Errorf("the suite failed: %s", event.Test)
		}
		m := line.FindStringSubmatch(event.Output)
		if m == nil {
			continue
		}
		n, _ := strconv.Atoi(m[1])
		if results[n] == nil {
			results[n] = &result{worst: map[time.Duration]time.Duration{}}
		}
		results[n].add(event.Test, m[3], m[4])
	}
	return results, lines.Err()
}

func (r *result) add(test, bound, measured string) {
	test, _, _ = strings.Cut(test, "/")
	if !slices.Contains(r.tests, test) {
		r.tests = append(r.tests, test)
		slices.Sort(r.tests)
	}
	if bound == "" {
		return
	}
	b, _ := time.ParseDuration(bound)
	m, _ := time.ParseDuration(measured)
	r.worst[b] = max(r.worst[b], m)
}

// write replaces the README's table.
func write(results map[int]*result) error {
	var table strings.Builder
	table.WriteString("| | promise | bound | slowest of the last run | proved by |\n|---|---|---|---|---|\n")
	for i, text := range strings.Split(strings.TrimSpace(texts), "\n") {
		r := results[i+1]
		if r == nil {
			return fmt.Errorf("no test proved promise %d", i+1)
		}
		promise, bound, _ := strings.Cut(strings.TrimSuffix(text, " |"), " | ")
		fmt.Fprintf(&table, "| %d | %s | %s | %s | `%s` |\n", i+1, promise, bound, r.measured(), strings.Join(r.tests, "`, `"))
	}
	old, err := os.ReadFile(readme)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(old), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no marks for the table", readme)
	}
	return os.WriteFile(readme, []byte(head+begin+table.String()+end+tail), 0o644)
}

// measured is the slowest of each bound, as "1.2 s of 5 s".
func (r *result) measured() string {
	var bounds []time.Duration
	for b := range r.worst {
		bounds = append(bounds, b)
	}
	slices.Sort(bounds)
	var all []string
	for _, b := range bounds {
		all = append(all, fmt.Sprintf("%.2f s of %.1f s", r.worst[b].Seconds(), b.Seconds()))
	}
	return strings.Join(all, ", ")
}
