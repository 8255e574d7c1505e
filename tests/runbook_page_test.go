package tests

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-kit/kit/metrics"
	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
)

// page is what docs/operations.md says about lines, reasons and errors.
type page struct {
	lines   []lineRow
	reasons []reasonRow
	errors  []reasonRow // beyond the reasons, named by their first text
	watch   []string    // errors of a watch whose reason is "other"
}

// lineRow is a row of the tables of log lines.
type lineRow struct {
	name  string // as it stands on the page
	level string
	keys  map[string]string // what the line has, "" for any value
	more  []string          // further values of err
}

// reasonRow is a row whose errors have one of some texts.
type reasonRow struct {
	name  string
	texts []string
}

var (
	codeSpan = regexp.MustCompile("`([^`]+)`")
	keyvals  = regexp.MustCompile(`(\w+)=("[^"]*"|\S+)`)
	spaces   = regexp.MustCompile(`\s+`)
)

// readPage parses the tables of docs/operations.md.
func readPage(t testing.TB) *page {
	t.Helper()
	document, err := os.ReadFile(filepath.Join(repository, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(document), "\n## Log lines\n")
	text, _, found := strings.Cut(text, "\n## ")
	if !found {
		t.Fatal("docs/operations.md has no section of log lines")
	}
	p := &page{}
	header := ""
	for _, row := range strings.Split(text, "\n") {
		if !strings.HasPrefix(row, "| ") {
			if !strings.HasPrefix(row, "|") {
				header = ""
			}
			continue
		}
		cells := strings.Split(row, "|")[1:]
		spans := codeSpan.FindAllStringSubmatch(cells[0], -1)
		if header == "" {
			header = strings.TrimSpace(cells[0])
			continue
		}
		if len(spans) == 0 {
			t.Errorf("a row of docs/operations.md has no code in its first cell: %s", row)
			continue
		}
		switch header {
		case "line":
			p.lines = append(p.lines, parseLineRow(spans, cells[1]))
		case "`reason`":
			p.reasons = append(p.reasons, reasonRow{spans[0][1], textsOf(cells[1])})
		case "error":
			p.errors = append(p.errors, reasonRow{spans[0][1], textsOf(cells[0])})
		default:
			t.Errorf("a table of docs/operations.md is not known: %q", header)
		}
	}
	_, bullets, _ := strings.Cut(text, "A watch has these beside, as `other`:")
	bullets, _, _ = strings.Cut(bullets, "\n\nThe errors end in")
	for _, span := range codeSpan.FindAllStringSubmatch(spaces.ReplaceAllString(bullets, " "), -1) {
		p.watch = append(p.watch, span[1])
	}
	if len(p.lines) < 15 || len(p.reasons) < 16 || len(p.errors) < 3 || len(p.watch) < 5 {
		t.Fatalf("docs/operations.md: %d lines, %d reasons, %d errors, %d of watches", len(p.lines), len(p.reasons), len(p.errors), len(p.watch))
	}
	return p
}

func parseLineRow(spans [][]string, level string) lineRow {
	row := lineRow{name: spans[0][1], level: strings.TrimSpace(level), keys: map[string]string{}}
	for _, pair := range keyvals.FindAllStringSubmatch(row.name, -1) {
		value := strings.Trim(pair[2], `"`)
		if value == "..." || value == "N" {
			value = ""
		}
		row.keys[pair[1]] = value
	}
	for _, span := range spans[1:] {
		row.more = append(row.more, strings.Trim(span[1], `"`))
	}
	return row
}

// textsOf returns the texts of a cell, each up to what may be anything.
func textsOf(cell string) (texts []string) {
	for _, span := range codeSpan.FindAllStringSubmatch(cell, -1) {
		text, _, _ := strings.Cut(span[1], "...")
		texts = append(texts, text)
	}
	return texts
}

func (r reasonRow) fits(err string) bool {
	return slices.ContainsFunc(r.texts, func(text string) bool { return strings.Contains(err, text) })
}

// unconfirmed is what the page says to be followed by the reason that counts.
const unconfirmed = "no heartbeat was answered for as long as the lease lives: "

// reason returns the reason of an error as the page has it: that of the first row
// that the error fits.
func (p *page) reason(err string) string {
	if _, why, found := strings.Cut(err, unconfirmed); found {
		if reason := p.reason(why); reason != "other" {
			return reason
		}
	}
	for _, row := range p.reasons {
		if row.fits(err) {
			return row.name
		}
	}
	return "other"
}

// known reports whether the page has an error whose reason is "other".
func (p *page) known(err string) bool {
	return slices.ContainsFunc(p.errors, func(row reasonRow) bool { return row.fits(err) }) ||
		slices.ContainsFunc(p.watch, func(text string) bool { return strings.Contains(err, text) })
}

// row returns the row of a line: the one that says most of it.
func (p *page) row(l logLine) (best *lineRow) {
	for i, row := range p.lines {
		if row.describes(l) && (best == nil || row.says() > best.says()) {
			best = &p.lines[i]
		}
	}
	return best
}

// says counts the values that a row names.
func (r lineRow) says() (n int) {
	for _, value := range r.keys {
		if n++; value != "" {
			n++
		}
	}
	return n
}

func (r lineRow) describes(l logLine) bool {
	for key := range l.keys {
		if _, has := r.keys[key]; !has && !slices.Contains([]string{"key", "value", "prefix", "level", "lease"}, key) {
			return false
		}
	}
	for key, want := range r.keys {
		value, has := l.keys[key]
		if !has || want != "" && value != want && !slices.ContainsFunc(r.more, func(other string) bool { return value == other }) {
			return false
		}
	}
	return true
}

// logLine is one line of a log.
type logLine struct {
	at   time.Time
	keys map[string]string
}

// recorded is a logger, and metrics, that can be read.
type recorded struct {
	mu     sync.Mutex // guards all below
	lines  []logLine
	values map[string]float64 // of metrics, as Losses{lease lost}
}

// Log implements log.Logger.
func (r *recorded) Log(pairs ...any) error {
	l := logLine{time.Now(), map[string]string{}}
	for i := 0; i+1 < len(pairs); i += 2 {
		l.keys[fmt.Sprint(pairs[i])] = fmt.Sprint(pairs[i+1])
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, l)
	return nil
}

var _ log.Logger = (*recorded)(nil)

// all returns the lines so far.
func (r *recorded) all() []logLine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.lines)
}

func (r *recorded) value(metric string) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.values[metric]
}

func (r *recorded) String() string {
	var text strings.Builder
	for _, l := range r.all() {
		fmt.Fprintln(&text, l.at.Format("05.000"), l.keys)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	counted := maps.Clone(r.values)
	maps.DeleteFunc(counted, func(_ string, value float64) bool { return value == 0 })
	fmt.Fprintln(&text, counted)
	return text.String()
}

func (r *recorded) update(name, label string, change func(float64) float64) {
	if label != "" {
		name += "{" + label + "}"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.values == nil {
		r.values = map[string]float64{}
	}
	r.values[name] = change(r.values[name])
}

// metrics returns metrics for ClientOptions.
func (r *recorded) metrics() *etcdv3.Metrics {
	c := func(name string) metrics.Counter { return recordedCounter{r, name, ""} }
	g := func(name string) metrics.Gauge { return recordedGauge{recordedCounter{r, name, ""}} }
	return &etcdv3.Metrics{
		ServicesWanted: g("ServicesWanted"), ServicesRegistered: g("ServicesRegistered"),
		Losses: c("Losses"), Returns: c("Returns"), HeartbeatsUnanswered: c("HeartbeatsUnanswered"),
		PrefixesWatched: g("PrefixesWatched"), PrefixesStale: g("PrefixesStale"), Instances: g("Instances"),
		SilentSeconds: g("SilentSeconds"), Interruptions: c("Interruptions"),
		EventsSent: c("EventsSent"), EventsCoalesced: c("EventsCoalesced"),
		Requests: c("Requests"), Retries: c("Retries"), RequestsWaiting: g("RequestsWaiting"), Authentications: c("Authentications"),
	}
}

// recordedCounter is a counter with the value of its one label.
type recordedCounter struct {
	*recorded
	name, label string
}

// With implements metrics.Counter.
func (c recordedCounter) With(labels ...string) metrics.Counter {
	c.label = labels[1]
	return c
}

// Add implements metrics.Counter and metrics.Gauge.
func (c recordedCounter) Add(n float64) {
	c.update(c.name, c.label, func(was float64) float64 { return was + n })
}

// recordedGauge is a gauge with the value of its one label.
type recordedGauge struct{ recordedCounter }

// With implements metrics.Gauge.
func (g recordedGauge) With(labels ...string) metrics.Gauge {
	g.label = labels[1]
	return g
}

// Set implements metrics.Gauge.
func (g recordedGauge) Set(value float64) {
	g.update(g.name, g.label, func(float64) float64 { return value })
}
