package member

import (
	"strconv"
	"strings"
)

// Counts is what a member's /metrics said at one moment.
type Counts map[string]float64

// Counts reads the member's metrics.
func (m *Member) Counts() (Counts, error) {
	text, err := get("http://" + m.Endpoint + "/metrics")
	if err != nil {
		return nil, err
	}
	counts := Counts{}
	for line := range strings.Lines(text) {
		name, value, ok := cutLast(strings.TrimSpace(line))
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			counts[name] = n
		}
	}
	return counts, nil
}

func cutLast(line string) (before, after string, ok bool) {
	i := strings.LastIndexByte(line, ' ')
	if i < 0 {
		return "", "", false
	}
	return line[:i], line[i+1:], true
}

// Since is what was added after an earlier moment.
func (c Counts) Since(earlier Counts) Counts {
	delta := Counts{}
	for name, value := range c {
		delta[name] = value - earlier[name]
	}
	return delta
}

// Sum adds up all series of a metric whose labels contain all of the given
// ones, each as `name="value"`.
func (c Counts) Sum(metric string, labels ...string) (sum float64) {
	for name, value := range c {
		family, rest, _ := strings.Cut(name, "{")
		if family == metric && containsAll(rest, labels) {
			sum += value
		}
	}
	return sum
}

func containsAll(s string, all []string) bool {
	for _, one := range all {
		if !strings.Contains(s, one) {
			return false
		}
	}
	return true
}

// Sent is the bytes of all messages that the server sent to clients, without
// the frames around them.
func (c Counts) Sent() float64 { return c.Sum("etcd_network_client_grpc_sent_bytes_total") }

// Received is the bytes of all messages that it received from clients.
func (c Counts) Received() float64 { return c.Sum("etcd_network_client_grpc_received_bytes_total") }

// Handled is how many calls of a method have ended, Started how many began,
// and Messages how many messages of clients arrived for it.
func (c Counts) Handled(method string) float64 { return c.method("grpc_server_handled_total", method) }
func (c Counts) Started(method string) float64 { return c.method("grpc_server_started_total", method) }
func (c Counts) Messages(method string) float64 {
	return c.method("grpc_server_msg_received_total", method)
}

func (c Counts) Answers(method string) float64 { return c.method("grpc_server_msg_sent_total", method) }

func (c Counts) method(metric, method string) float64 {
	return c.Sum(metric, `grpc_method="`+method+`"`)
}

// Watchers is how many watches stand, WatchStreams how many streams they are on.
func (c Counts) Watchers() float64     { return c.Sum("etcd_debugging_mvcc_watcher_total") }
func (c Counts) WatchStreams() float64 { return c.Sum("etcd_debugging_mvcc_watch_stream_total") }
