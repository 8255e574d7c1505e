package dial

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/etcdtest/certs"
	"google.golang.org/grpc"
)

// userinfo is where the endpoint's user and password would be, if it is a URL,
// whether or not it can be parsed.
var userinfo = regexp.MustCompile(`(?i)^\s*[a-z][a-z0-9+.-]*://[^/?#]*@`)

// FuzzEndpoints gives Dial endpoints and options of all kinds. What it
// cannot use is an error, at once, that holds no secret; never a panic.
func FuzzEndpoints(f *testing.F) {
	const secret = "hunter2"
	for i, machines := range []string{
		"", "127.0.0.1:2379", "http://127.0.0.1:2379", "https://[::1]:2379,[::1]:2379", "localhost", ":2379", "a:0", "a:65536",
		"http://root:hunter2@127.0.0.1:2379", "http://root:hunter2@%zz:1", "root:hunter2@host:1", "ftp://x:hunter2@y:1", "://hunter2@x",
		"https://a:1,http://root:hunter2@b:2", "http://a:1,https://b:2", "unix:///run/etcd.sock", "unixs://", "unix:", "dns:///etcd:2379",
		" 127.0.0.1:2379 ", "127.0.0.1:2379/path", "http://127.0.0.1:2379/path?q#f", "a b:1", "[::1", "http://\x00:1", "etcd%41:1",
	} {
		f.Add(machines, "root", secret, uint8(0), int64(i))
	}
	for _, flags := range []uint8{1, 2, 3, 4, 4 + 64, 4 + 128, 4 + 192, 7, 24, 24 + 32, 24 + 32 + 7} {
		f.Add("127.0.0.1:2379", "root", secret, flags, int64(time.Millisecond))
	}
	files := fuzzFiles(f)
	f.Fuzz(func(t *testing.T, machines, username, password string, flags uint8, timeout int64) {
		options := fuzzOptions(files, flags)
		options.Username, options.Password = username, password
		options.DialTimeout = time.Duration(timeout) % (20 * time.Millisecond)
		began := time.Now()
		endpoints := strings.Split(machines, ",")
		cli, err := Dial(context.Background(), endpoints, options, Own{})
		if (cli == nil) == (err == nil) {
			t.Fatalf("client %v, error %v", cli, err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		if err != nil {
			hides(t, err, secret, endpoints, password)
			return
		}
		if err := cli.Close(); err != nil {
			t.Error(err)
		}
	})
}

// hides fails if an error tells the password of the options, or the secret
// that is in the userinfo of an endpoint.
func hides(t *testing.T, err error, secret string, endpoints []string, password string) {
	t.Helper()
	if err.Error() == "" {
		t.Error("an error without a text")
	}
	if password == secret && !strings.Contains(strings.Join(endpoints, ","), secret) && strings.Contains(err.Error(), secret) {
		t.Errorf("the error tells the password: %v", err)
	}
	for _, e := range endpoints {
		if info := userinfo.FindString(e); strings.Contains(info, secret) && strings.Contains(err.Error(), secret) {
			t.Errorf("the error tells the userinfo of endpoint %q: %v", e, err)
		}
	}
}

// fuzzFiles writes what the TLS options can name: certificates that are good,
// an empty file, and none.
func fuzzFiles(f *testing.F) []string {
	f.Helper()
	a := certs.New(f)
	cert, key := a.Issue("client")
	empty := filepath.Join(f.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		f.Fatal(err)
	}
	return []string{cert, key, empty, filepath.Join(filepath.Dir(empty), "missing.pem")}
}

// fuzzOptions makes options from bits: the TLS files, and dial options that
// wait. Nothing that is dialled leaves the process.
func fuzzOptions(files []string, flags uint8) (options Options) {
	if flags&1 != 0 {
		options.Cert = files[0]
	}
	if flags&2 != 0 {
		options.Key = files[1]
	}
	if flags&4 != 0 {
		options.CACert = files[flags>>6]
	}
	if flags&24 == 24 {
		nowhere := func(context.Context, string) (net.Conn, error) { return nil, errors.New("there is no network") }
		options.DialOptions = []grpc.DialOption{grpc.WithContextDialer(nowhere)}
		if flags&32 != 0 {
			//lint:ignore SA1019 the package honours it, as programs expect
			options.DialOptions = append(options.DialOptions, grpc.WithBlock())
		}
	}
	return options
}
