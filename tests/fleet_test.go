package tests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestFleet_OldAndNewTogether runs services and callers of upstream's package and
// of this one on one member, in a process of their own: upstream leaves
// goroutines.
func TestFleet_OldAndNewTogether(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(binaries(t), "fleet")
	goTool(t, nil, "build", "-o", binary, "-ldflags", "-s -w", "./testdata/fleet")
	etcd := newNode(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	program := exec.CommandContext(ctx, binary)
	program.Env = append(os.Environ(), "ETCD="+etcd.endpoint())
	if output, err := program.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, output)
	}
}
