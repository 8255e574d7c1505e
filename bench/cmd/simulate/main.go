// Command simulate puts the load of a fleet on an etcd cluster of three local
// members, each in a process of its own. It prints as JSON what the members counted:
// the constants of the model in docs/scaling.md, and what the model is checked
// against.
//
// Every instance has a client of its own, connected to all members, and one
// registration. The first clients follow a service as well.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/kitsd/etcdv3/bench/internal/fleet"
	"github.com/kitsd/etcdv3/bench/internal/member"
)

func main() {
	member.ServeIfAsked()
	var load fleet.Load
	flag.IntVar(&load.Services, "services", 20, "how many services there are")
	flag.IntVar(&load.Instances, "instances", 2_000, "how many instances are registered")
	flag.IntVar(&load.Watchers, "watchers", 500, "how many of them follow a service")
	flag.DurationVar(&load.Heartbeat, "heartbeat", 3*time.Second, "how often each renews its lease")
	flag.Float64Var(&load.Churn, "churn", 20, "how many instances change their value in a second, while that is measured")
	flag.DurationVar(&load.Window, "window", 12*time.Second, "for how long each phase is measured")
	fan := flag.Int("fan", 0, "simulate only this many watchers of one service, directly, and through one gRPC proxy")
	flag.Parse()
	os.Setenv("ETCD_CLIENT_DEBUG", "fatal") // when the members end, every client would say so
	var result any
	var err error
	if *fan > 0 {
		result, err = fleet.Fan(*fan)
	} else {
		result, err = fleet.Simulate(load)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "simulate:", err)
		os.Exit(1)
	}
	out := json.NewEncoder(os.Stdout)
	out.SetIndent("", "\t")
	_ = out.Encode(result)
}
