package tests

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcd"
	"github.com/kitsd/etcdv3/internal/registration"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// TestOperations runs the commands of docs/operations.md, as they stand there,
// against a member, and looks whether they do what the document says.
func TestOperations(t *testing.T) {
	t.Parallel()
	heavy(t) // it compiles etcdctl
	etcd := newNode(t)
	sh := newShell(t, etcd)

	sh.run(sh.section("Roles"))
	sh.environment = append(sh.environment, "ETCDCTL_USER=root", "ETCDCTL_PASSWORD=root-secret")
	var (
		hello  = connectAs(t, etcd, "hello", "hello-secret")
		orders = connectAs(t, etcd, "orders", "orders-secret")
		first  = etcdv3.Service{Key: "/services/hello/10.0.0.1:8080", Value: "http://10.0.0.1:8080"}
		second = etcdv3.Service{
			Key: "/services/hello/10.0.0.2:8080", Value: "http://10.0.0.2:8080",
			TTL: etcdv3.NewTTLOption(500*time.Millisecond, 5*time.Second),
		}
	)
	instancer, err := etcdv3.NewInstancer(orders, "/services/hello/", log.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(instancer.Stop)
	instances := func(want ...string) func() bool {
		return func() bool {
			state := instancer.State()
			return state.Err == nil && slices.Equal(state.Instances, want)
		}
	}
	registrar := etcdv3.NewRegistrar(hello, second, log.NewNopLogger())
	registrar.Register()
	if err := errors.Join(registrar.Err(), hello.Register(first)); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "both are seen", instances(first.Value, second.Value))

	// Roles: nothing beyond what is granted.
	const elsewhere = "/services/hello/10.0.0.3:8080" // of another process
	sh.run("etcdctl put " + elsewhere + " v")
	for what, err := range map[string]error{
		"register under another prefix":    hello.Register(etcdv3.Service{Key: "/services/orders/1", Value: "v"}),
		"register with a role to discover": orders.Register(first),
		"deregister with the same":         orders.Deregister(etcdv3.Service{Key: elsewhere}),
	} {
		if !errors.Is(err, rpctypes.ErrPermissionDenied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	sh.run("etcdctl del " + elsewhere)
	wider, err := etcdv3.NewInstancer(orders, "/services/hello", log.NewNopLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(wider.Stop)
	if state := wider.State(); !errors.Is(state.Err, rpctypes.ErrPermissionDenied) {
		t.Error("a prefix that is wider than the role:", state)
	}

	// Looking.
	sh.environment = append(sh.environment, "KEY="+first.Key, "LEASE="+strconv.FormatInt(hello.LeaseID(), 10))
	output := sh.run(sh.section("Looking"))
	for _, want := range []string{first.Value, second.Key, `"Lease" : ` + strconv.FormatInt(hello.LeaseID(), 10), "attached keys([" + first.Key + "])"} {
		if !strings.Contains(output, want) {
			t.Errorf("no %q in\n%s", want, output)
		}
	}

	// Draining: the second goes, stays away, and comes back. Between the two it
	// has heartbeats at which it could have put its key back.
	sh.environment = append(sh.environment, "KEY="+second.Key, "VALUE_OF_ANOTHER_INSTANCE="+first.Value)
	commands := strings.SplitAfter(sh.section("Draining"), "\n")
	sh.run(commands[0])
	eventually(t, time.Minute, "it is drained", func() bool { return instances(first.Value)() && registrar.Err() != nil })
	time.Sleep(2 * time.Second)
	if state := instancer.State(); !slices.Equal(state.Instances, []string{first.Value}) {
		t.Error(state)
	}
	sh.run(commands[1])
	eventually(t, time.Minute, "it is back", func() bool { return instances(first.Value, second.Value)() && registrar.Err() == nil })
	registrar.Deregister()
	eventually(t, time.Minute, "it has left", instances(first.Value))
}

// TestOperations_HasEveryLogLine looks for all that the package logs, and all
// that a registration and a watch give as a reason, in docs/operations.md.
func TestOperations_HasEveryLogLine(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile(filepath.Join(repository, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	unwrapped := strings.Join(strings.Fields(string(document)), " ")
	found := 0
	for file, code := range productFiles(t) {
		if !slices.ContainsFunc(tellers, func(pattern string) bool {
			told, _ := filepath.Match(filepath.Join(repository, pattern), file)
			return told
		}) {
			continue
		}
		for _, match := range logged.FindAllStringSubmatch(string(code), -1) {
			found++
			text, _, _ := strings.Cut(match[1], ";") // after which it only says what happens next
			text, _, _ = strings.Cut(text, ": etcd")
			if text != "the registration has ended" && !strings.Contains(unwrapped, text) {
				t.Errorf("%s: %q is not in docs/operations.md", file, text)
			}
		}
	}
	if found < 15 {
		t.Errorf("only %d texts found", found)
	}
}

// TestOperations_HasEveryReason looks for the words that metrics have as the label
// reason in docs/operations.md.
func TestOperations_HasEveryReason(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile(filepath.Join(repository, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for file, counted := range map[string][]string{"internal/etcd/errors.go": etcd.Reasons, "internal/registration/reasons.go": registration.Losses} {
		code, err := os.ReadFile(filepath.Join(repository, file))
		if err != nil {
			t.Fatal(err)
		}
		_, code, _ = bytes.Cut(code, []byte("\nfunc Reason("))
		code, _, _ = bytes.Cut(code, []byte("\n}\n"))
		for _, match := range returned.FindAllSubmatch(code, -1) {
			found++
			if !bytes.Contains(document, []byte("\n| `"+string(match[1])+"` |")) {
				t.Errorf("docs/operations.md has no row of %q", match[1])
			}
			if word := string(match[1]); !slices.Contains(counted, word) && word != "ended" && word != "in doubt" {
				t.Errorf("no metric is there for %q before it is counted", word)
			}
		}
	}
	if found < 15 {
		t.Errorf("only %d reasons found", found)
	}
}

// returned matches a word that is returned.
var returned = regexp.MustCompile(`return "([^"]+)"`)

// tellers are the files that log, and that hold reasons.
var tellers = []string{
	"registrar.go", "instancer.go", "internal/registration/reasons.go", "internal/discovery/*.go",
	"internal/feed/history.go", "internal/etcd/errors.go", "internal/etcd/link.go", "internal/journal/journal.go",
}

// productFiles returns the files of the package and of its internal packages.
func productFiles(t *testing.T) map[string]string {
	t.Helper()
	files := map[string]string{}
	for _, pattern := range []string{"*.go", "internal/*/*.go"} {
		names, err := filepath.Glob(filepath.Join(repository, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			code, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(name, "_test.go") {
				files[name] = string(code)
			}
		}
	}
	return files
}

// logged matches the message of a log line, and a reason.
var logged = regexp.MustCompile(`(?:"msg", |errors\.New\()"([^"]+)"`)

// TestRoles_WriteAlone_RegistersButSeesNothing shows what a role without read
// costs, as docs/operations.md says.
func TestRoles_WriteAlone_RegistersButSeesNothing(t *testing.T) {
	t.Parallel()
	heavy(t) // it compiles etcdctl
	etcd := newNode(t)
	sh := newShell(t, etcd)
	sh.run(strings.Replace(sh.section("Roles"), "readwrite", "write", 1))
	root, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd.endpoint()}, Username: "root", Password: "root-secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	holds := func(key string) bool {
		resp, err := root.Get(ctx, key)
		return err == nil && len(resp.Kvs) == 1
	}

	hello := connectAs(t, etcd, "hello", "hello-secret")
	service := etcdv3.Service{
		Key: "/services/hello/1", Value: "v",
		TTL: etcdv3.NewTTLOption(500*time.Millisecond, 3*time.Second),
	}
	registrar := etcdv3.NewRegistrar(hello, service, log.NewNopLogger())
	registrar.Register()
	if err := registrar.Err(); err != nil || !holds(service.Key) {
		t.Fatal("not registered:", err)
	}
	if _, err := root.Delete(ctx, service.Key); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if holds(service.Key) || registrar.Err() != nil {
		t.Error("it saw that the key was deleted:", registrar.Err())
	}
	if _, err := root.Revoke(ctx, clientv3.LeaseID(hello.LeaseID())); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "registered with a new lease", func() bool { return holds(service.Key) })
	registrar.Deregister()
	if holds(service.Key) {
		t.Error("not deregistered")
	}
}

// shell runs commands of docs/operations.md.
type shell struct {
	t           *testing.T
	document    string
	environment []string
}

// newShell returns a shell in which etcdctl is that of the etcd in go.mod.
func newShell(t *testing.T, etcd *node) *shell {
	t.Helper()
	document, err := os.ReadFile(filepath.Join(repository, "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	dir := binaries(t)
	goTool(t, nil, "build", "-o", filepath.Join(dir, "etcdctl"), "go.etcd.io/etcd/etcdctl/v3")
	return &shell{t: t, document: string(document), environment: append(os.Environ(),
		"PATH="+dir+string(filepath.ListSeparator)+os.Getenv("PATH"), "ETCDCTL_ENDPOINTS="+etcd.endpoint(), "ETCDCTL_COMMAND_TIMEOUT=30s", "ETCDCTL_DIAL_TIMEOUT=30s",
		"ROOT_PASSWORD=root-secret", "HELLO_PASSWORD=hello-secret", "ORDERS_PASSWORD=orders-secret")}
}

var (
	heading  = regexp.MustCompile(`(?m)^## (.*)$`)
	commands = regexp.MustCompile("(?s)```sh\n(.*?)```")
)

// section returns the commands under a heading of the document.
func (s *shell) section(title string) (all string) {
	s.t.Helper()
	places := heading.FindAllStringSubmatchIndex(s.document, -1)
	for i, place := range places {
		if s.document[place[2]:place[3]] != title {
			continue
		}
		end := len(s.document)
		if i+1 < len(places) {
			end = places[i+1][0]
		}
		for _, block := range commands.FindAllStringSubmatch(s.document[place[1]:end], -1) {
			all += block[1]
		}
	}
	if all == "" {
		s.t.Fatalf("no commands in section %q", title)
	}
	return all
}

// run runs commands in one shell, and returns what they print.
func (s *shell) run(script string) string {
	s.t.Helper()
	command := exec.Command("sh", "-e", "-c", script)
	command.Env = s.environment
	output, err := command.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", script, err, bytes.TrimSpace(output))
	}
	return string(output)
}

// connectAs returns a client that ends with the test.
func connectAs(t *testing.T, etcd *node, user, password string) etcdv3.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	client, err := etcdv3.NewClient(ctx, []string{etcd.endpoint()}, etcdv3.ClientOptions{Username: user, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return client
}
