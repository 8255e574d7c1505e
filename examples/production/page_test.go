// Package production_test runs the programs of docs/production.md.
package production_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"
)

// block is a block of code of the page. A link to the file stands before it.
var block = regexp.MustCompile("(?s)(?:\\[(examples/[^\\]]+)\\]\\(\\.\\./([^)]+)\\)[^\n]*\n\n)?```(go|yaml)\n(.*?)```\n")

// TestPage_QuotesThePrograms keeps the page to what is compiled and run: each of
// its blocks is a file, as it is, and each program stands on it.
func TestPage_QuotesThePrograms(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "production.md"))
	if err != nil {
		t.Fatal(err)
	}
	quoted := map[string]bool{}
	for _, match := range block.FindAllStringSubmatch(string(page), -1) {
		name, link, text := match[1], match[2], match[4]
		if name == "" || name != link {
			t.Errorf("a block without the link to its file, or with another one:\n%s", text)
			continue
		}
		file, err := os.ReadFile(filepath.Join("..", "..", name))
		if err != nil {
			t.Error(err)
		} else if string(file) != text {
			t.Errorf("the page does not hold %s as it is", name)
		}
		quoted[name] = true
	}
	err = filepath.WalkDir(".", func(path string, _ fs.DirEntry, err error) error {
		program := filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go") || filepath.Ext(path) == ".yaml"
		if name := "examples/production/" + filepath.ToSlash(path); program && !quoted[name] {
			t.Errorf("%s is not on the page", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// deployment is what has to fit to the program.
type deployment struct {
	Kind string
	Spec struct {
		Template struct {
			Spec struct {
				TerminationGracePeriodSeconds int
				Containers                    []struct {
					Env []struct {
						Name, Value string
						ValueFrom   struct{ FieldRef struct{ FieldPath string } }
					}
					ReadinessProbe struct{ HTTPGet struct{ Path string } }
					Lifecycle      struct {
						PreStop struct{ Sleep struct{ Seconds int } }
					}
				}
			}
		}
	}
}

// TestManifest_FitsTheProgram adds up what a shutdown takes at most.
func TestManifest_FitsTheProgram(t *testing.T) {
	text, err := os.ReadFile("kubernetes/hello.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var d deployment
	if err := yaml.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile("service/main.go")
	if err != nil {
		t.Fatal(err)
	}
	pod := d.Spec.Template.Spec
	if d.Kind != "Deployment" || len(pod.Containers) != 1 {
		t.Fatalf("%+v", d)
	}
	container := pod.Containers[0]
	takes := time.Duration(container.Lifecycle.PreStop.Sleep.Seconds) * time.Second
	for _, name := range []string{"request", "drain", "shutdown"} {
		takes += constant(t, program, name)
	}
	if grace := time.Duration(pod.TerminationGracePeriodSeconds) * time.Second; grace <= takes {
		t.Errorf("a grace period of %v, and a shutdown of %v", grace, takes)
	}
	if heartbeat, ttl := constant(t, program, "heartbeat"), constant(t, program, "ttl"); ttl < 3*heartbeat {
		t.Errorf("a TTL of %v with a heartbeat of %v", ttl, heartbeat)
	}
	if path := container.ReadinessProbe.HTTPGet.Path; !strings.Contains(string(program), `"`+path+`"`) {
		t.Errorf("the program does not serve %s", path)
	}
	for _, variable := range container.Env {
		if !strings.Contains(string(program), `os.Getenv("`+variable.Name+`")`) {
			t.Errorf("the program does not read %s", variable.Name)
		}
		if variable.Name == "POD_IP" && variable.ValueFrom.FieldRef.FieldPath != "status.podIP" {
			t.Errorf("POD_IP is %+v", variable.ValueFrom)
		}
	}
}

// constant returns a constant of a program.
func constant(t *testing.T, program []byte, name string) time.Duration {
	t.Helper()
	match := regexp.MustCompile(`\b` + name + ` += (\d+) \* time\.Second`).FindSubmatch(program)
	if match == nil {
		t.Fatalf("the program has no constant %s", name)
	}
	seconds, err := time.ParseDuration(string(match[1]) + "s")
	if err != nil {
		t.Fatal(err)
	}
	return seconds
}
