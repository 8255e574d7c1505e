package production_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	kitlog "github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/examples/internal/member"
	"github.com/kitsd/etcdv3/examples/production/metrics"
	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/yaml"
)

// names is a registerer that keeps the names of metrics.
type names struct {
	*prometheus.Registry
	known map[string]bool
}

var fqName = regexp.MustCompile(`fqName: "([^"]+)"`)

func (n names) MustRegister(collectors ...prometheus.Collector) {
	for _, c := range collectors {
		descriptions := make(chan *prometheus.Desc, 10)
		c.Describe(descriptions)
		close(descriptions)
		for d := range descriptions {
			n.known[fqName.FindStringSubmatch(d.String())[1]] = true
		}
	}
	n.Registry.MustRegister(collectors...)
}

var metric = regexp.MustCompile(`\betcdv3_[a-z_]+`)

// TestMetrics_AreThoseOfTheDocuments compares the names of operations.md, the
// alerts and the dashboard with those that the program registers.
func TestMetrics_AreThoseOfTheDocuments(t *testing.T) {
	registered := names{prometheus.NewRegistry(), map[string]bool{}}
	made := reflect.ValueOf(*metrics.New(registered))
	for i := range made.NumField() {
		if made.Field(i).IsNil() {
			t.Errorf("%s is not kept", made.Type().Field(i).Name)
		}
	}
	for document, mayLack := range map[string]bool{"operations.md": false, "dashboard.json": false, "alerts.yaml": true} {
		text := read(t, document)
		found := map[string]bool{}
		for _, name := range metric.FindAllString(text, -1) {
			found[name] = true
			if !registered.known[name] {
				t.Errorf("%s: no metric is named %s", document, name)
			}
		}
		for name := range registered.known {
			if !mayLack && !found[name] {
				t.Errorf("%s: it has not %s", document, name)
			}
		}
	}
}

// TestDashboard_IsOneScreen reads what Grafana would.
func TestDashboard_IsOneScreen(t *testing.T) {
	var dashboard struct {
		Title  string
		Panels []struct {
			Title, Type string
			GridPos     struct{ X, Y, W, H int }
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, "dashboard.json")), &dashboard); err != nil {
		t.Fatal(err)
	}
	taken := map[[2]int]string{}
	for _, panel := range dashboard.Panels {
		if panel.Title == "" || panel.Type == "" || len(panel.Targets) == 0 {
			t.Errorf("%+v", panel)
		}
		for x := panel.GridPos.X; x < panel.GridPos.X+panel.GridPos.W; x++ {
			for y := panel.GridPos.Y; y < panel.GridPos.Y+panel.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies over %s", panel.Title, other)
				}
				if taken[[2]int{x, y}] = panel.Title; x >= 24 || y >= 24 {
					t.Fatalf("%s is not on the screen", panel.Title)
				}
			}
		}
	}
	if len(dashboard.Panels) < 10 {
		t.Errorf("%d panels", len(dashboard.Panels))
	}
}

// TestAlerts_AreComplete reads the rules; scripts/alerts runs them.
func TestAlerts_AreComplete(t *testing.T) {
	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "alerts.yaml")), &alerts); err != nil {
		t.Fatal(err)
	}
	page, tests := read(t, "operations.md"), read(t, "../tests/testdata/alerts_test.yaml")
	for _, group := range alerts.Groups {
		for _, rule := range group.Rules {
			if rule.Expr == "" || rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || rule.Annotations["description"] == "" {
				t.Errorf("%+v", rule)
			}
			if !strings.Contains(page, "`"+rule.Alert+"`") {
				t.Errorf("operations.md has not %s", rule.Alert)
			}
			if !strings.Contains(tests, "alertname: "+rule.Alert+"\n") {
				t.Errorf("no test of %s", rule.Alert)
			}
		}
	}
}

func read(t *testing.T, document string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", document))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestMetrics_TellOfAnOutage has etcd go away for longer than the TTL.
func TestMetrics_TellOfAnOutage(t *testing.T) {
	etcd := member.Start(t)
	registry := prometheus.NewRegistry()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	client, err := etcdv3.NewClient(ctx, []string{etcd.Endpoint}, etcdv3.ClientOptions{Metrics: metrics.New(registry)})
	if err != nil {
		t.Fatal(err)
	}
	registrar := etcdv3.NewRegistrar(client, etcdv3.Service{
		Key: "/services/hello/1", Value: "v", TTL: etcdv3.NewTTLOption(500*time.Millisecond, 2*time.Second),
	}, kitlog.NewNopLogger())
	registrar.Register()
	discover(t, client, "/services/hello/")
	const prefix = `{prefix="/services/hello/"}`
	eventually(t, 5*time.Second, "all is well", func() bool {
		now := gather(t, registry)
		return now["services_wanted"] == 1 && now["services_registered"] == 1 && now["instances"+prefix] == 1 &&
			now["prefixes_watched"] == 1 && now["prefixes_stale"] == 0 && now["requests_total"] > 0
	})

	etcd.Stop()
	eventually(t, 20*time.Second, "the metrics tell of it", func() bool {
		now := gather(t, registry)
		losses := 0.0
		for name, value := range now {
			if strings.HasPrefix(name, "losses_total") {
				losses += value
			}
		}
		return now["services_wanted"] == 1 && now["services_registered"] == 0 && losses == 1 &&
			now["instances"+prefix] == 1 && now["prefixes_stale"] == 1 && now["silent_seconds"+prefix] > 2
	})
	if t.Failed() {
		t.Log(gather(t, registry))
	}
}

// gather returns the values, as services_wanted, or losses_total{reason="no answer"}.
func gather(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			name := strings.TrimPrefix(family.GetName(), "etcdv3_")
			for _, label := range m.GetLabel() {
				name += fmt.Sprintf("{%s=%q}", label.GetName(), label.GetValue())
			}
			all[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all
}
