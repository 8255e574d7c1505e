package alone

import (
	"flag"
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

func TestPatience_IsHalfOfTheBinarysTime(t *testing.T) {
	before := flag.Lookup("test.timeout").Value.String()
	t.Cleanup(func() { flag.Set("test.timeout", before) })
	for given, want := range map[string]time.Duration{"20m": 10 * time.Minute, "10m": 5 * time.Minute, "0": time.Hour} {
		if err := flag.Set("test.timeout", given); err != nil {
			t.Fatal(err)
		}
		if got := patience(); got != want {
			t.Errorf("-timeout %s: waits %v, want %v", given, got, want)
		}
	}
}
