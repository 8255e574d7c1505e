package alone

import (
	"net"
	"strconv"
	"syscall"
	"testing"
	"time"
)

func TestPort_IsGivenToNobodyWhileItsServerIsAway(t *testing.T) {
	address := Port(t)
	for range 3 { // it comes, goes, and comes again
		server := listen(t, address)
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		server.Close()
		conn.Close()
		isGivenToNobody(t, address)
	}
}

func TestKeepPort_IsKeptOnceItsServerIsAway(t *testing.T) {
	server := listen(t, "127.0.0.1:0")
	address := server.Addr().String()
	release := KeepPort(address)
	server.Close()
	time.Sleep(100 * time.Millisecond)
	isGivenToNobody(t, address)
	listen(t, address).Close()
	release()
	release = KeepPort(listen(t, address).Addr().String())
	release() // although the server listens on
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// isGivenToNobody asks the system for any port, and leaves it none to choose from but
// the kept one.
func isGivenToNobody(t *testing.T, kept string) {
	t.Helper()
	_, text, _ := net.SplitHostPort(kept)
	port, _ := strconv.Atoi(text)
	// IP_LOCAL_PORT_RANGE, since Linux 6.3. An older one chooses from all.
	const ipLocalPortRange = 51
	control := func(_, _ string, raw syscall.RawConn) error {
		var set error
		err := raw.Control(func(fd uintptr) {
			set = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipLocalPortRange, port<<16|port)
		})
		if err != nil {
			return err
		}
		return set
	}
	if l, err := (&net.ListenConfig{Control: control}).Listen(t.Context(), "tcp", "127.0.0.1:0"); err == nil {
		defer l.Close()
		if l.Addr().String() == kept {
			t.Error("a listener was given the port")
		}
	}
	server := listen(t, "127.0.0.1:0")
	if c, err := (&net.Dialer{Control: control}).DialContext(t.Context(), "tcp", server.Addr().String()); err == nil {
		defer c.Close()
		if c.LocalAddr().String() == kept {
			t.Error("a connection was given the port")
		}
	}
}
