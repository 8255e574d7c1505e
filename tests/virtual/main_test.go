package virtual_test

import (
	"flag"
	"os"
	"testing"

	"github.com/kitsd/etcdv3/internal/alone"
)

// TestMain keeps the machine for this binary: lives in virtual time keep the
// processors busy, and other binaries judge bounds in real time.
func TestMain(m *testing.M) {
	flag.Parse()
	release := alone.Hold()
	code := m.Run()
	release()
	os.Exit(code)
}
