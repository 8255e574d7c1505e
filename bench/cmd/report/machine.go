package main

import (
	"bytes"
	"embed"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

// machine is what the numbers were measured on, and with.
type machine struct {
	Processor  string
	Processors int
	System     string
	Go         string
	Versions   map[string]string
	Rounds     int
	Date       string
	Took       time.Duration
	Others     float64 // the share of the processors that other programs had meanwhile
}

// busy is the processor time that all programs have used since the start of
// the machine.
func busy() (d time.Duration) {
	text, _ := os.ReadFile("/proc/stat")
	fields := strings.Fields(strings.SplitN(string(text), "\n", 2)[0])
	for i, field := range fields {
		if i == 0 || i == 4 || i == 5 { // its name, idle, waiting for the disk
			continue
		}
		ticks, _ := strconv.ParseInt(field, 10, 64)
		d += time.Duration(ticks) * time.Second / 100
	}
	return d
}

// own is the processor time of this program, and of all that it ran and
// waited for.
func own() (d time.Duration) {
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var use syscall.Rusage
		_ = syscall.Getrusage(who, &use)
		d += time.Duration(use.Utime.Nano() + use.Stime.Nano())
	}
	return d
}

func thisMachine(rounds int) (m machine, err error) {
	m = machine{
		Processor: "unknown", Processors: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version(),
		Versions: map[string]string{}, Rounds: rounds, Date: time.Now().UTC().Format("2006-01-02"),
	}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.Processor = strings.TrimSpace(value)
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.System += ", kernel " + strings.TrimSpace(string(text))
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dep := range info.Deps {
			m.Versions[dep.Path] = dep.Version
		}
	}
	// Only the test binary links upstream.
	kit, err := output("go", "list", "-m", "-f", "{{.Version}}", "github.com/go-kit/kit")
	m.Versions["github.com/go-kit/kit"] = strings.TrimSpace(kit)
	return m, err
}

// benchmarksPage is what docs/benchmarks.md is made of.
type benchmarksPage struct {
	Machine machine
	Table   string
	Costs   []cost
}

//go:embed *.tmpl
var templates embed.FS

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"number":  number,
	"percent": func(share float64) string { return number(100*share) + " %" },
}).ParseFS(templates, "*.tmpl"))

// write makes a page of a template.
func write(path, name string, data any) error {
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, name, data); err != nil {
		return err
	}
	if _, others, found := bytes.Cut(old, []byte(notOurs)); found {
		page.WriteString("\n" + notOurs)
		page.Write(others)
	}
	return os.WriteFile(path, page.Bytes(), 0o644)
}

// notOurs begins what another command has written at the end of a page.
const notOurs = "<!-- What follows is written by another command. -->\n"
