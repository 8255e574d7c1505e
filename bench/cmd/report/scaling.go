package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/kitsd/etcdv3/bench/internal/fleet"
)

// scalingPage is what docs/scaling.md is made of.
type scalingPage struct {
	Machine      machine
	Small, Full  fleet.Result
	Fan          fleet.FanOuts
	Constants    string
	Checked      string
	Large        string
	Model        fleet.Model // at full size
	BeatMicros   float64     // what one more heartbeat costs the servers
	BeatsPerCPU  float64     // heartbeats a second that a processor handles
	EventsPerCPU float64
}

// InstancesPerService is how many instances each simulated service has.
func (p scalingPage) InstancesPerService() float64 {
	return float64(p.Full.Load.Instances) / float64(p.Full.Load.Services)
}

// large are loads that no one machine can simulate.
var large = []fleet.Load{
	{Services: 100, Instances: 10_000, Watchers: 2_000, Heartbeat: 3 * time.Second, Churn: 10},
	{Services: 1_000, Instances: 100_000, Watchers: 20_000, Heartbeat: 3 * time.Second, Churn: 100},
	{Services: 1_000, Instances: 100_000, Watchers: 20_000, Heartbeat: 20 * time.Second, Churn: 100},
	{Services: 1_000, Instances: 100_000, Watchers: 100_000, Heartbeat: 20 * time.Second, Churn: 100},
}

func newScalingPage(m machine, small, full fleet.Result, fan fleet.FanOuts) scalingPage {
	from, model := fleet.ModelOf(small), fleet.ModelOf(full)
	larger := model
	larger.BeatCPU = (full.Beats.ServerCPU - small.Beats.ServerCPU) / (full.Beats.Beats - small.Beats.Beats)
	return scalingPage{
		Machine: m, Small: small, Full: full, Fan: fan, Model: model,
		Constants: constants(from, model), Checked: checked(from.Predict(full.Load), full), Large: predictions(larger),
		BeatMicros: 1e6 * larger.BeatCPU, BeatsPerCPU: 1 / larger.BeatCPU, EventsPerCPU: 1 / model.EventCPU,
	}
}

// constants is the table of the model's constants at both sizes.
func constants(small, full fleet.Model) string {
	var out strings.Builder
	line := func(what, unit string, factor float64, of func(fleet.Model) float64) {
		fmt.Fprintf(&out, "| %s | %s %s | %s %s |\n", what, number(factor*of(small)), unit, number(factor*of(full)), unit)
	}
	line("a client: memory on the servers", "kB", 1e-3, func(m fleet.Model) float64 { return m.ClientServer })
	line("a client: its own memory", "kB", 1e-3, func(m fleet.Model) float64 { return m.ClientClient })
	line("a registration: memory on the servers", "kB", 1e-3, func(m fleet.Model) float64 { return m.RegistrationServer })
	line("a registration: memory of its client", "kB", 1e-3, func(m fleet.Model) float64 { return m.RegistrationClient })
	line("a registration: requests to begin", "", 1, func(m fleet.Model) float64 { return m.RegisterRequests })
	line("a registration: CPU of the servers to begin", "µs", 1e6, func(m fleet.Model) float64 { return m.RegisterCPU })
	line("an Instancer: memory on the servers", "kB", 1e-3, func(m fleet.Model) float64 { return m.WatcherServer })
	line("an Instancer: memory of its client, with the set", "kB", 1e-3, func(m fleet.Model) float64 { return m.WatcherClient })
	line("an Instancer: bytes to begin, the list", "B", 1, func(m fleet.Model) float64 { return m.FirstSet })
	line("a heartbeat: bytes received", "B", 1, func(m fleet.Model) float64 { return m.BeatReceived })
	line("a heartbeat: bytes sent", "B", 1, func(m fleet.Model) float64 { return m.BeatSent })
	line("a heartbeat: CPU of the servers", "µs", 1e6, func(m fleet.Model) float64 { return m.BeatCPU })
	line("a sign of life: bytes received", "B", 1, func(m fleet.Model) float64 { return m.SignReceived })
	line("a sign of life: bytes sent", "B", 1, func(m fleet.Model) float64 { return m.SignSent })
	line("an event to one watch: bytes sent", "B", 1, func(m fleet.Model) float64 { return m.EventSent })
	line("an event to one watch: CPU of the servers", "µs", 1e6, func(m fleet.Model) float64 { return m.EventCPU })
	return out.String()
}

// checked is the table of what was predicted, and what was measured.
func checked(p fleet.Prediction, r fleet.Result) string {
	var out strings.Builder
	line := func(what, unit string, predicted, measured float64) {
		fmt.Fprintf(&out, "| %s | %s %s | %s %s | %.2f |\n", what, number(predicted), unit, number(measured), unit, measured/predicted)
	}
	i, w := float64(r.Load.Instances), float64(r.Load.Watchers)
	line("keep-alive streams", "", p.KeepAlives, r.Standing.KeepAlives)
	line("watch streams", "", p.WatchStreams, r.Standing.WatchStreams)
	line("watches", "", p.Watches, r.Standing.Watches)
	line("heartbeats", "/s", p.Beats, r.Beats.Beats)
	line("bytes sent for heartbeats", "B/s", p.BeatSent, r.Beats.Sent)
	line("CPU of the servers for heartbeats", "s/s", p.BeatCPU, r.Beats.ServerCPU)
	line("signs of life", "/s", p.Signs, r.Idle.Requests+r.Idle.Watch)
	line("bytes sent, nothing happening", "B/s", p.IdleSent, r.Idle.Sent)
	line("events to watches", "/s", p.Events, r.Churn.Events)
	line("bytes sent under churn", "B/s", p.ChurnSent, r.Churn.Sent)
	line("CPU of the servers under churn", "s/s", p.ChurnCPU, r.Churn.ServerCPU)
	line("memory of the servers", "MB", p.Server/1e6, (i*(r.Connect.Server+r.Register.Server)+w*r.Watch.Server)/1e6)
	line("memory of the clients", "MB", p.Client/1e6, (i*(r.Connect.Client+r.Register.Client)+w*r.Watch.Client)/1e6)
	return out.String()
}

// predictions is the table of what the model says of large loads.
func predictions(m fleet.Model) string {
	var out strings.Builder
	row := func(what string, of func(fleet.Load, fleet.Prediction) string) {
		fmt.Fprintf(&out, "| %s |", what)
		for _, l := range large {
			fmt.Fprintf(&out, " %s |", of(l, m.Predict(l)))
		}
		out.WriteString("\n")
	}
	count := func(n int) string { return thousands(fmt.Sprint(n)) }
	row("services S", func(l fleet.Load, _ fleet.Prediction) string { return count(l.Services) })
	row("instances I", func(l fleet.Load, _ fleet.Prediction) string { return count(l.Instances) })
	row("watchers W", func(l fleet.Load, _ fleet.Prediction) string { return count(l.Watchers) })
	row("heartbeat h", func(l fleet.Load, _ fleet.Prediction) string { return l.Heartbeat.String() })
	row("changes a second c", func(l fleet.Load, _ fleet.Prediction) string { return number(l.Churn) })
	row("heartbeats a second", func(_ fleet.Load, p fleet.Prediction) string { return number(p.Beats) })
	row("— processors of the servers", func(_ fleet.Load, p fleet.Prediction) string { return number(p.BeatCPU) })
	row("signs of life a second", func(_ fleet.Load, p fleet.Prediction) string { return number(p.Signs) })
	row("events to watches a second", func(_ fleet.Load, p fleet.Prediction) string { return number(p.Events) })
	row("— processors of the servers", func(_ fleet.Load, p fleet.Prediction) string { return number(p.ChurnCPU - p.BeatCPU) })
	row("MB/s sent", func(_ fleet.Load, p fleet.Prediction) string { return number(p.ChurnSent / 1e6) })
	row("streams", func(_ fleet.Load, p fleet.Prediction) string { return number(p.KeepAlives + p.WatchStreams) })
	row("connections to each member", func(l fleet.Load, _ fleet.Prediction) string { return count(l.Instances) })
	row("GB of memory, each of three members", func(_ fleet.Load, p fleet.Prediction) string {
		return number(p.Server / fleet.Members / 1e9)
	})
	row("MB to list all again at once", func(l fleet.Load, _ fleet.Prediction) string {
		return number(float64(l.Watchers) * m.FirstSet / 1e6)
	})
	return out.String()
}
