package dial

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// silent makes an address on which nothing answers, not even the kernel: a
// listener whose backlog is full drops who comes next.
func silent(t *testing.T, address netip.AddrPort) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		conn, err := net.DialTimeout("tcp", address.String(), 200*time.Millisecond)
		if err != nil {
			return
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the backlog does not fill")
}

func TestNameWithDeadAddresses_Connects(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	serve(t, l, nil)
	port := l.Addr().(*net.TCPAddr).AddrPort().Port()
	silent(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port))
	silent(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.3"), port))
	through := newRacer()
	through.lookup = func(context.Context, string) (all []net.IPAddr, err error) {
		for _, last := range []byte{2, 3, 1} {
			all = append(all, net.IPAddr{IP: net.IPv4(127, 0, 0, last)})
		}
		return all, nil
	}
	_, name, _ := net.SplitHostPort(l.Addr().String())
	name = "etcd.example:" + name
	for name, o := range map[string]Options{
		name:             {},
		"http://" + name: {DialOptions: blocking, DialTimeout: 2 * time.Second},
	} {
		began := time.Now()
		cli := dialledThrough(t, o, Own{}, through, name)
		if !connects(cli, connectTimeout) {
			t.Errorf("%s is not connected after %v", name, time.Since(began))
		}
		answers(t, cli)
	}
}
