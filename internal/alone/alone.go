// Package alone keeps tests apart that share a machine. It gives the machine to one
// test binary at a time: one that starts etcd members keeps the processors busy, and
// a bound that another one judges meanwhile would be a bound of a busy machine. And
// it keeps the ports of servers that tests stop and start again.
package alone

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// patience is how long a binary waits for others at most: half of the time that go
// test gives it, so that as much is left for its own tests. That is the flag -timeout,
// ten minutes by default; 0 is no limit.
func patience() time.Duration {
	timeout := 10 * time.Minute
	if f := flag.Lookup("test.timeout"); f != nil && flag.Parsed() {
		timeout = f.Value.(flag.Getter).Get().(time.Duration)
	}
	if timeout == 0 {
		return time.Hour
	}
	return timeout / 2
}

// lockFile is the same for all binaries: it is read before a binary has its
// temporary files elsewhere.
var lockFile = filepath.Join(os.TempDir(), "kitsd-etcdv3-tests.lock")

// held keeps the files of locks, which would be closed if they were garbage.
var (
	mu   sync.Mutex
	held []*os.File
)

// Hold waits until no other process holds the machine, and returns a function that
// lets go of the machine. The end of the process lets go, too. When the wait takes
// longer than patience, or where files cannot be locked, the machine is shared.
func Hold() (release func()) {
	file, err := os.OpenFile(lockFile, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return func() {}
	}
	mu.Lock()
	held = append(held, file)
	mu.Unlock()
	release = func() { _ = file.Close() }
	if tryLock(file) {
		return release
	}
	fmt.Fprintf(os.Stderr, "waiting for another test binary, which holds %s\n", lockFile)
	most := patience()
	for began := time.Now(); time.Since(began) < most; time.Sleep(100 * time.Millisecond) {
		if tryLock(file) {
			return release
		}
	}
	fmt.Fprintf(os.Stderr, "going on beside it after %v\n", most)
	return release
}
