package etcdv3

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// repository is where the package's files are; TestMain changes the directory.
var repository, _ = os.Getwd()

// promises is how many the README lists.
const promises = 26

// TestEveryPromise_HasATest reads the suite for the calls of holds and within
// in tests, and the README for its list.
func TestEveryPromise_HasATest(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(repository, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	proved := map[int]bool{}
	for _, file := range files {
		tree, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range tree.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(f.Name.Name, "Test") {
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if call, ok := n.(*ast.CallExpr); ok && len(call.Args) > 1 {
					name, _ := call.Fun.(*ast.Ident)
					number, _ := call.Args[1].(*ast.BasicLit)
					if name != nil && number != nil && (name.Name == "holds" || name.Name == "within") {
						n, _ := strconv.Atoi(number.Value)
						proved[n] = true
					}
				}
				return true
			})
		}
	}
	readme, err := os.ReadFile(filepath.Join(repository, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for n := 1; n <= promises; n++ {
		if !proved[n] {
			t.Errorf("no test proves promise %d", n)
		}
		if !regexp.MustCompile(`(?m)^\| ` + strconv.Itoa(n) + ` \|`).Match(readme) {
			t.Errorf("the README's table has no promise %d", n)
		}
	}
}

// TestReadme_ProgramsAreTheExamples keeps the programs of the README to what is
// compiled.
func TestReadme_ProgramsAreTheExamples(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(repository, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"examples/register/main.go", "examples/discover/main.go"} {
		source, err := os.ReadFile(filepath.Join(repository, program))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(readme), "```go\n"+string(source)+"```\n") {
			t.Errorf("the README does not hold %s as it is", program)
		}
	}
}
