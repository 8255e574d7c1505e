package etcdv3

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
)

// FuzzEntries applies what the bytes say to a set of the given size: each
// three of them are an operation and a key.
func FuzzEntries(f *testing.F) {
	f.Add(uint16(0), uint8(1), []byte("\x00\x00\x01\x01\x00\x01\x02\x00\x01"))
	f.Add(uint16(255), uint8(255), []byte("\x00\xff\xff\x00\xff\xfe\x02\x00\x00"))
	f.Add(uint16(2000), uint8(3), []byte("\x03\x00\x00\x04\x01\x00\x03\x02\x00"))
	f.Add(uint16(4000), uint8(200), slices.Concat(
		[]byte("\x03\x00\x10\x03\x01\x10\x04\x00\x10\x04\x00\x80\x01\x00\x20\x02\x00\x20\x03\x08\x00"),
		slices.Repeat([]byte("\x00\x00\x00\x02\x00\x00"), 40)))
	f.Add(uint16(600), uint8(100), slices.Repeat([]byte("\x04\x00\x00\x04\x01\x00\x04\x02\x00\x03\x00\x07"), 4))
	f.Add(uint16(600), uint8(100), slices.Repeat([]byte("\x05\x00\x00\x05\x01\x00\x0b\x01\x00\x05\x00\x07"), 4))
	f.Fuzz(func(t *testing.T, size uint16, spread uint8, operations []byte) {
		e, m := filled(int(size)%5000, 1+int(spread)*20)
		agrees(t, e, m)
		versions := []version{{e.sorted, e.sorted.strings()}}
		var ahead *draft
		for i := 0; i+3 <= len(operations) && i < 3*200; i += 3 {
			operate(e, m, operations[i], int(binary.BigEndian.Uint16(operations[i+1:])))
			wellFormed(t, e.sorted)
			if i%(3+3*int(spread%3)) == 0 {
				ahead = becomes(t, ahead, e.sorted)
			}
			if i%48 == 0 {
				versions = append(versions, version{e.sorted, e.sorted.strings()})
			}
		}
		agrees(t, e, m)
		for i, v := range versions {
			if !slices.Equal(v.set.strings(), v.want) {
				t.Fatalf("version %d has changed", i)
			}
			if v.set.equal(e.sorted) != slices.Equal(v.want, e.sorted.strings()) {
				t.Fatalf("equal is wrong about version %d", i)
			}
		}
	})
}

// operate applies one operation to a set and to its model.
func operate(e *entries, m model, operation byte, n int) {
	key := fmt.Sprintf("k%06d", n)
	put := func(key, value string) {
		e.put([]byte(key), []byte(value))
		m[key] = value
	}
	remove := func(key string) {
		e.delete([]byte(key))
		delete(m, key)
	}
	switch operation % 6 {
	case 0: // an instance of its own
		put(key, key)
	case 1: // one that others have
		put(key, fmt.Sprintf("v%06d", n%97))
	case 2:
		remove(key)
	case 3: // a burst, in the middle of the order
		for i := range 256 {
			put(fmt.Sprintf("%s/%03d", key, i), fmt.Sprintf("v%06d/%03d", n%7, i))
		}
	case 4: // many leave at once
		for i := range 256 {
			remove(fmt.Sprintf("k%06d", n+i))
			remove(fmt.Sprintf("%s/%03d", key, i))
		}
	case 5: // the same instance, a little different
		put(key, fmt.Sprintf("%s?%d", m[key], operation))
	}
}

// userinfo is where the endpoint's user and password would be, if it is a URL,
// whether or not it can be parsed.
var userinfo = regexp.MustCompile(`(?i)^\s*[a-z][a-z0-9+.-]*://[^/?#]*@`)

// FuzzEndpoints gives NewClient endpoints and options of all kinds. What it
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
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		began := time.Now()
		endpoints := strings.Split(machines, ",")
		c, err := NewClient(ctx, endpoints, options)
		if (c == nil) == (err == nil) {
			t.Fatalf("client %v, error %v", c, err)
		}
		if took := time.Since(began); took > 5*time.Second+machine.since(began) {
			t.Errorf("took %v", took)
		}
		if err != nil {
			hides(t, err, secret, endpoints, password)
			return
		}
		cancel()
		select {
		case <-c.(*client).cli.Ctx().Done():
		case <-time.After(10 * time.Second):
			t.Error("the client does not close")
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
	a := newAuthority(f)
	cert, key := a.issue("client")
	empty := filepath.Join(f.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		f.Fatal(err)
	}
	return []string{cert, key, empty, filepath.Join(filepath.Dir(empty), "missing.pem")}
}

// fuzzOptions makes options from bits: the TLS files, and dial options that
// wait. Nothing that is dialled leaves the process.
func fuzzOptions(files []string, flags uint8) (options ClientOptions) {
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

// FuzzTTL gives NewTTLOption any two durations. It runs at some tens of seeds a
// second, so all pairs of the interesting ones stand in a test of their own.
func FuzzTTL(f *testing.F) {
	for i, d := range extremeDurations {
		f.Add(int64(d), int64(extremeDurations[len(extremeDurations)-1-i]))
	}
	f.Fuzz(func(t *testing.T, heartbeat, ttl int64) { keepsTimes(t, time.Duration(heartbeat), time.Duration(ttl)) })
}

func TestTTLOption_KeepsAnyTwoDurations(t *testing.T) {
	for _, heartbeat := range extremeDurations {
		for _, ttl := range extremeDurations {
			keepsTimes(t, heartbeat, ttl)
		}
	}
}

var extremeDurations = []time.Duration{
	0, 1, -1, 499 * time.Millisecond, 500 * time.Millisecond, 500*time.Millisecond + 1, time.Second, time.Second + 1, 3 * time.Second,
	10 * time.Second, time.Hour, maxLeaseSeconds * time.Second, maxLeaseSeconds*time.Second + 1,
	math.MaxInt64 / 3, math.MaxInt64/3 - 1, math.MaxInt64/3 + 1, math.MaxInt64 - 1, math.MaxInt64, math.MinInt64,
}

// keepsTimes fails unless a TTLOption is what its documentation says.
func keepsTimes(t *testing.T, heartbeat, ttl time.Duration) {
	t.Helper()
	o := NewTTLOption(heartbeat, ttl)
	every, seconds := o.timing()
	if every != max(heartbeat, 500*time.Millisecond) {
		t.Errorf("heartbeat %v became %v", heartbeat, every)
	}
	if o.ttl <= o.heartbeat && o.ttl != math.MaxInt64 {
		t.Errorf("the TTL %v is not above the heartbeat %v", o.ttl, o.heartbeat)
	}
	if ttl > every && o.ttl != ttl {
		t.Errorf("the TTL %v became %v", ttl, o.ttl)
	}
	want := min(int64(o.ttl/time.Second)+1, maxLeaseSeconds)
	if o.ttl%time.Second == 0 {
		want = min(int64(o.ttl/time.Second), maxLeaseSeconds)
	}
	if seconds < 1 || seconds != want {
		t.Errorf("the TTL %v became %d s, want %d", o.ttl, seconds, want)
	}
}
