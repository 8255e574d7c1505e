package alone

import (
	"path/filepath"
	"testing"
	"time"
)

func TestHold_WaitsUntilTheOtherLetsGo(t *testing.T) {
	lockFile = filepath.Join(t.TempDir(), "lock")
	release := Hold()
	held := make(chan func())
	go func() { held <- Hold() }()
	select {
	case <-held:
		t.Fatal("two hold the machine")
	case <-time.After(300 * time.Millisecond):
	}
	release()
	(<-held)()
}
