// Quickstart shows registration and discovery on real parts, with nothing
// installed: an etcd, three go-kit HTTP services that register themselves, and
// a caller that finds them. Instances join, leave and die, and etcd goes away
// and comes back, while the calls go on; every line tells what happened, and
// how soon the caller saw it. It ends by itself within a minute.
//
//	go run ./examples/quickstart
//	go run ./examples/quickstart -etcd localhost:2379
//
// What to copy into a program of your own is in service.go (registration) and
// in caller.go (discovery). The rest is the story.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// storyTimeout leaves some seconds of the minute to clean up in.
const storyTimeout = 54 * time.Second

func main() {
	if role := os.Getenv(roleVariable); role != "" {
		if err := childMain(role); err != nil {
			fmt.Fprintln(os.Stderr, "quickstart:", role+":", err)
			os.Exit(1)
		}
		return
	}
	machines := flag.String("etcd", "", "`host:port,...` of an existing etcd, which is then not stopped; without it one is started")
	flag.Parse()
	os.Exit(run(*machines))
}

// run tells the story, cleans up behind it, and returns the exit status.
func run(machines string) int {
	interrupted, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeout(interrupted, storyTimeout)
	defer cancel()
	s := newStory(strings.FieldsFunc(machines, func(r rune) bool { return r == ',' }))
	err := s.tell(ctx)
	cleanupErr := s.cleanUp(err == nil)
	if interrupted.Err() != nil && cleanupErr == nil {
		s.say("interrupted: everybody has deregistered, and nothing is left behind")
		return 130
	}
	if err = errors.Join(err, cleanupErr); err != nil {
		s.say("FAILED: %v", err)
	}
	if s.caller != nil {
		s.summarize()
	}
	if err != nil {
		return 1
	}
	return 0
}
