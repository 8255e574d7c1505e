package tests

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// here is where these tests are, in the repository: TestMain leaves it.
var (
	here, _    = os.Getwd()
	repository = filepath.Dir(here)
)

// read returns a file of the repository.
func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestEveryPromise_HasATest looks for each promise of promises.txt in the tests of
// all modules, and in the documents. A promise that is marked with "?" there may
// have none yet.
func TestEveryPromise_HasATest(t *testing.T) {
	proved, there := map[int][]string{}, map[string]bool{}
	for _, dir := range []string{"tests", "internal"} {
		err := filepath.WalkDir(filepath.Join(repository, dir), func(file string, _ fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(file, "_test.go") {
				err = speaksFor(file, proved, there)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	readme, page, results := read(t, "README.md"), read(t, "docs/promises.md"), read(t, "internal/promises/results.txt")
	for i, line := range strings.Split(strings.TrimSpace(read(t, "internal/promises/promises.txt")), "\n") {
		n := i + 1
		marked := strings.HasPrefix(line, "? ")
		short, _, _ := strings.Cut(strings.TrimPrefix(line, "? "), " | ")
		switch {
		case len(proved[n]) == 0 && !marked:
			t.Errorf("no test proves promise %d", n)
		case len(proved[n]) > 0 && marked:
			t.Logf("promise %d has a test now, as %s: take the mark off its line in promises.txt", n, proved[n][0])
		}
		if !strings.Contains(readme, "\n| "+strconv.Itoa(n)+" | "+short+" |") {
			t.Errorf("the README's table has no promise %d as promises.txt has it: run make promises", n)
		}
		if !strings.Contains(page, "\n## "+strconv.Itoa(n)+". "+short+"\n") {
			t.Errorf("docs/promises.md has no promise %d as promises.txt has it: run make promises", n)
		}
	}
	for line := range strings.Lines(results) {
		if fields := strings.Fields(line); !there[fields[2]] {
			t.Errorf("docs/promises.md names %s, which is not there: run make promises", fields[2])
		}
	}
}

// speaksFor collects the functions of a file, and those among them that call holds
// or within, of whatever package, with the number of a promise after the test.
func speaksFor(file string, proved map[int][]string, there map[string]bool) error {
	tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		return err
	}
	for _, decl := range tree.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		there[f.Name.Name] = true
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			var name string
			switch called := call.Fun.(type) {
			case *ast.Ident:
				name = called.Name
			case *ast.SelectorExpr:
				name = called.Sel.Name
			}
			if len(call.Args) < 2 || !strings.EqualFold(name, "holds") && !strings.EqualFold(name, "within") {
				return true
			}
			if number, ok := call.Args[1].(*ast.BasicLit); ok && number.Kind == token.INT {
				promise, _ := strconv.Atoi(number.Value)
				proved[promise] = append(proved[promise], f.Name.Name)
			}
			return true
		})
	}
	return nil
}

// TestReadme_ProgramsAreTheExamples keeps the programs of the README to what is
// compiled.
func TestReadme_ProgramsAreTheExamples(t *testing.T) {
	readme := read(t, "README.md")
	for _, program := range []string{"examples/register/main.go", "examples/discover/main.go"} {
		if !strings.Contains(readme, "```go\n"+read(t, program)+"```\n") {
			t.Errorf("the README does not hold %s as it is", program)
		}
	}
}

// TestContributing_NamesEveryTest keeps the tables of CONTRIBUTING complete: they
// name each file of tests, or a folder that holds it.
func TestContributing_NamesEveryTest(t *testing.T) {
	var names []string
	for i, part := range strings.Split(read(t, "CONTRIBUTING.md"), "`") {
		if i%2 == 1 {
			names = append(names, part)
		}
	}
	isNamed := func(file string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			matches, _ := path.Match(name, file)
			return matches || strings.HasPrefix(file, name+"/") || strings.HasPrefix(file, "internal/"+name+"/")
		})
	}
	err := fs.WalkDir(os.DirFS(repository), ".", func(file string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(file, "_test.go") && !isNamed(file) {
			t.Errorf("no table of CONTRIBUTING has %s, nor a folder that holds it", file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestContributing_NamesEveryFileOfARoom keeps its table of rooms complete: each
// room of the product has a row, which names all of its files.
func TestContributing_NamesEveryFileOfARoom(t *testing.T) {
	rows := map[string]string{}
	for line := range strings.Lines(read(t, "CONTRIBUTING.md")) {
		if cells := strings.Split(line, "|"); len(cells) == 5 {
			for _, room := range codeSpan.FindAllStringSubmatch(cells[1], -1) {
				rows[room[1]] = cells[2]
			}
		}
	}
	forTests := []string{"etcdtest", "alone", "promises"}
	files, err := filepath.Glob(filepath.Join(repository, "internal", "*", "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatal("no files:", err)
	}
	for _, file := range files {
		room, name := filepath.Base(filepath.Dir(file)), filepath.Base(file)
		row, has := rows[room]
		switch {
		case strings.HasSuffix(name, "_test.go"):
		case !has:
			t.Errorf("the table of rooms has no %s", room)
		case !slices.Contains(forTests, room) && !strings.Contains(row, "`"+name+"`"):
			t.Errorf("the row of %s does not name %s", room, name)
		}
	}
}
