package tests

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	upstream = "github.com/go-kit/kit/sd/etcdv3"
	ours     = "github.com/kitsd/etcdv3"
)

// TestPrograms_ChangeOnlyTheirImportPath builds programs that are written as
// real ones are: with upstream's package, as they stand, and with this one by
// changing the import path alone.
func TestPrograms_ChangeOnlyTheirImportPath(t *testing.T) {
	t.Parallel()
	heavy(t)
	// It compiles what it lists, and, unlike go build, does not link it.
	compile := []string{"-export", "-f", "{{.ImportPath}}", "./testdata/programs/..."}
	goTool(t, nil, "list", compile...)
	goTool(t, rewrite(t, strings.NewReplacer(upstream, ours)), "list", compile...)
}

// TestPrograms_DoWhatTheyMean runs the programs with this package. They check
// for themselves that they work.
func TestPrograms_DoWhatTheyMean(t *testing.T) {
	t.Parallel()
	// To link one binary is faster than to link one for each program: so all
	// of them become packages with a function Main.
	replaced := rewrite(t, strings.NewReplacer(upstream, ours, "package main\n", "package program\n", "func main()", "func Main()"))
	var imports, calls strings.Builder
	names := []string{}
	for file := range replaced {
		name := filepath.Base(filepath.Dir(file))
		names = append(names, name)
		fmt.Fprintf(&imports, "import p%s %q\n", name[:2], ours+"/tests/testdata/programs/"+name)
		fmt.Fprintf(&calls, "case %q: p%s.Main()\n", name, name[:2])
	}
	main := "package main\nimport \"os\"\n" + imports.String() + "func main() { switch os.Args[1] {\n" + calls.String() + "} }\n"
	replaced[filepath.Join(here, "testdata", "programs", "all", "main.go")] = write(t, main)
	binary := filepath.Join(binaries(t), "programs")
	linked := t.Run("link", func(t *testing.T) {
		heavy(t)
		goTool(t, replaced, "build", "-o", binary, "-ldflags", "-s -w", "./testdata/programs/all")
	})
	if !linked {
		return
	}

	etcd := newNode(t)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for {
				began := time.Now()
				output, err := run(binary, name, "ETCD="+etcd.endpoint())
				if err == nil {
					return
				}
				stood := machine.since(began)
				if stood < time.Second { // half of the shortest TTL among them
					t.Fatalf("%v\n%s", err, output)
				}
				t.Logf("once more, as the machine stood still for %v: %v\n%s", stood, err, output)
			}
		})
	}
}

// run runs a program with one more variable in its environment.
func run(binary, argument, variable string) (output []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	program := exec.CommandContext(ctx, binary, argument)
	program.Env = append(os.Environ(), variable)
	return program.CombinedOutput()
}

// disk is where temporary files are before TestMain keeps them in memory, from
// where a system may not run programs.
var disk = os.TempDir()

// binaries returns a directory for programs that a test builds and runs.
func binaries(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(disk, "binaries")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// rewrite returns the programs after a change, as files that stand for them.
func rewrite(t *testing.T, change *strings.Replacer) (replaced map[string]string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(here, "testdata", "programs", "*", "main.go"))
	if err != nil || len(files) < 10 {
		t.Fatal(len(files), "programs", err)
	}
	replaced = map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), strconv.Quote(upstream)) {
			t.Errorf("%s does not import %s", file, upstream)
		}
		replaced[file] = write(t, change.Replace(string(text)))
	}
	return replaced
}

// goTool runs a go command, with files in the place of others.
func goTool(t *testing.T, replaced map[string]string, command string, arguments ...string) {
	t.Helper()
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		t.Fatal(err)
	}
	tool := exec.Command("go", append([]string{command, "-overlay", write(t, string(overlay))}, arguments...)...)
	tool.Dir = here
	if output, err := tool.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
}

// write writes a file that lives as long as the test.
func write(t *testing.T, text string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "file.go")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
