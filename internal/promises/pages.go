package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// promise is a line of promises.txt: the promise in few words, its bound, those
// of the tests whose times stand beside it, and its full text.
type promise struct {
	short, bound string
	against      []time.Duration
	long         string
	unproved     bool // marked with "?": its test is still to come
}

// readPromises reads promises.txt. The first line is promise 1.
func readPromises(file string) (all []promise, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), " |")
		if len(fields) != 4 {
			return nil, fmt.Errorf("%s: %q has not four fields", file, line)
		}
		for i := range fields {
			fields[i] = strings.TrimSpace(fields[i])
		}
		p := promise{bound: fields[1], long: fields[3]}
		p.short, p.unproved = strings.CutPrefix(fields[0], "? ")
		for _, field := range strings.Fields(fields[2]) {
			bound, err := time.ParseDuration(field)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			p.against = append(p.against, bound)
		}
		all = append(all, p)
	}
	return all, nil
}

// judge returns the promises that have no test, and are not marked, as an error.
func judge(promises []promise, all results) (err error) {
	for i, p := range promises {
		if len(all.tests(i+1)) == 0 && !p.unproved {
			err = errors.Join(err, fmt.Errorf("no test speaks for promise %d", i+1))
		}
	}
	return err
}

// tests returns the names of the tests that speak for a promise.
func (r results) tests(n int) []string {
	names := map[string]bool{}
	for key := range r {
		if key.promise == n {
			names[key.test] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// slowest returns the longest time that the tests of a promise took which have this
// bound.
func (r results) slowest(n int, bound time.Duration) (took time.Duration, known bool) {
	for key, t := range r {
		if key.promise == n && key.bound == bound {
			took, known = max(took, t), true
		}
	}
	return took, known
}

// measured is the slowest for each bound of a promise.
func measured(n int, p promise, all results) string {
	var times []string
	for _, bound := range p.against {
		if took, known := all.slowest(n, bound); known {
			times = append(times, fmt.Sprintf("%.2f s", took.Seconds()))
		}
	}
	return strings.Join(times, "; ")
}

// table is that of the README.
func table(promises []promise, all results) string {
	var out strings.Builder
	out.WriteString("| | promise | bound | slowest measured |\n|---|---|---|---|\n")
	for i, p := range promises {
		fmt.Fprintf(&out, "| %d | %s | %s | %s |\n", i+1, p.short, p.bound, measured(i+1, p, all))
	}
	return out.String()
}

const intro = `# What it promises

Each promise is a sentence that a user can rely on, with a number, and with a
bound where time is in it. Bounds hold with default options unless one says
otherwise; in parentheses stands what the tests set. The tests break real etcd
members, their connections and their stores, or an etcd in memory whose time is
virtual. What is measured is the slowest of all runs that wrote this page.

This page is made by ` + "`make promises`" + ` from [promises.txt](../internal/promises/promises.txt)
and from what the tests say. To add one: [CONTRIBUTING.md](../CONTRIBUTING.md#add-a-promise).
`

// script is what checks a promise that no test of Go can, as its text says.
var script = regexp.MustCompile("`(scripts/[^`]+)` checks that")

// page is docs/promises.md.
func page(promises []promise, all results) string {
	var out strings.Builder
	out.WriteString(intro)
	for i, p := range promises {
		fmt.Fprintf(&out, "\n## %d. %s\n\n%s\n", i+1, p.short, p.long)
		if p.bound != "" {
			fmt.Fprintf(&out, "\n- Bound: %s.", p.bound)
			if times := measured(i+1, p, all); times != "" {
				fmt.Fprintf(&out, " Slowest measured: %s.", times)
			}
		} else {
			out.WriteString("\n- No time is in it.")
		}
		out.WriteString("\n- Proved by ")
		if tests := all.tests(i + 1); len(tests) > 0 {
			fmt.Fprintf(&out, "`%s`.\n", strings.Join(tests, "`, `"))
		} else if by := script.FindStringSubmatch(p.long); by != nil {
			fmt.Fprintf(&out, "`%s`, which `.ci/run` runs.\n", by[1])
		} else {
			out.WriteString("no test yet.\n")
		}
	}
	return out.String()
}

const (
	begin = "<!-- promises: made by internal/promises -->\n"
	end   = "<!-- end of promises -->\n"
)

// replaceTable replaces the table of the README.
func replaceTable(file, table string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(old), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		return fmt.Errorf("%s has no marks for the table", file)
	}
	return os.WriteFile(file, []byte(head+begin+table+end+tail), 0o644)
}
