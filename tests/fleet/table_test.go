package fleet

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

const (
	document = "../../docs/scaling.md"
	begins   = "<!-- fleet: go test -C tests ./fleet -timeout 12h -args -table -->\n"
	ends     = "<!-- end of fleet -->\n"
)

const heading = `| what happens: services on clients | ideal | took | grants | puts | refused | revokes | authentications |
| --- | --- | --- | --- | --- | --- | --- | --- |
`

// TestTable writes a row of docs/scaling.md for each fleet. Rows of fleets that
// it does not run stay as they are.
func TestTable(t *testing.T) {
	if !*table {
		t.Skip("writes docs/scaling.md with -table")
	}
	for _, f := range every() {
		if !regexp.MustCompile(*only).MatchString(f.String()) {
			continue
		}
		t.Run(f.String(), func(t *testing.T) {
			r := f.run(t)
			if err := write(f, r.row()); err != nil {
				t.Fatal(err)
			}
			for _, fault := range r.faults() {
				t.Error(fault)
			}
		})
	}
}

// row is the row of the table.
func (r result) row() string {
	return fmt.Sprintf("| %v | %s | %s | %d | %d | %d | %d | %d |\n", r.fleet, seconds(r.ideal()), seconds(r.took), r.grants, r.puts, r.refused, r.revokes, r.tokens)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

// write puts a row into the table, where it belongs.
func write(f fleet, row string) error {
	text, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(text), begins)
	old, after, both := strings.Cut(rest, ends)
	if !ok || !both {
		return fmt.Errorf("%s has no %q and %q", document, begins, ends)
	}
	rows := map[string]string{}
	for _, line := range strings.SplitAfter(old, "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			rows[strings.TrimSpace(cells[1])] = line
		}
	}
	rows[f.String()] = row
	var out strings.Builder
	for _, f := range every() {
		out.WriteString(rows[f.String()])
	}
	return os.WriteFile(document, []byte(before+begins+heading+out.String()+ends+after), 0o644)
}
