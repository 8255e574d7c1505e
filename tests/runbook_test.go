package tests

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-kit/log"
	"github.com/kitsd/etcdv3"
	"github.com/kitsd/etcdv3/internal/etcdtest/certs"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

const (
	// Services of the runbook have a short heartbeat and TTL, so that their
	// troubles show soon. What the page says in heartbeats and TTLs holds for any.
	runbookBeat = 500 * time.Millisecond
	runbookTTL  = 3 * time.Second

	// What the page promises of any service and prefix.
	lostLease   = runbookBeat + time.Second // until a lost lease is replaced
	outageTold  = 15 * time.Second          // until subscribers hear of an outage
	outageOver  = 5 * time.Second           // until all is well, once etcd answers
	firstRepeat = time.Minute               // until a trouble is told again
)

// trouble is something that goes wrong, and the rows of docs/operations.md that
// tell of it: lines, reasons, and errors beyond these.
type trouble struct {
	name string
	rows []string
	run  func(*scene)
}

// troubles are all that the page has rows for.
var troubles = []trouble{
	{"start and end", []string{"action=register", "action=deregister", "instances=N"}, startAndEnd},
	{"nothing to register", []string{`msg="not registered" err="no key provided"`}, nothingToRegister},
	{"nil client", []string{`err="client is nil: make one with NewClient"`}, nilClient},
	{"password changed", []string{`msg="registration lost" err=...`, "password"}, passwordChanged},
	{"role revoked", []string{`msg="registration lost" err=...`, "permission"}, roleRevoked},
	{"store full", []string{`msg="not registered" err=...`, "no space"}, storeFull},
	{"wrong CA", []string{`msg="not registered" err=...`, `msg="failed to retrieve entries" err=...`, "certificate"}, wrongCA},
	{"closed port", []string{`msg="not registered" err=...`, `msg="failed to retrieve entries" err=...`, "connection refused", "context deadline exceeded: etcd did not answer within the request timeout"}, closedPort},
	{"no leader", []string{`msg="registration lost" err=...`, `msg="watch interrupted" err=...`, "no leader"}, noLeader},
	{"too few streams", []string{`msg="not registered" err=...`, "no answer", "context deadline exceeded: etcd did not answer within the request timeout"}, tooFewStreams},
	{"too many requests", []string{`msg="not registered" err=...`, "too many requests"}, tooManyRequests},
	{"message limit", []string{`msg="failed to retrieve entries" err=...`, "received message larger than max"}, messageLimit},
	{"value too large", []string{`msg="not registered" err=...`, "request is too large", "other"}, valueTooLarge},
	{"silent link", []string{`msg="registration lost" err=...`, `action=register msg="registered again"`, "no answer"}, silentLink},
	{"broken connection", []string{`msg="registration lost" err=...`, `msg="watch interrupted" err=...`, `msg="watch resumed" instances=N`, "connection lost"}, brokenConnection},
	{"long outage", []string{`msg="not registered" err=... for=...`, `msg="watch interrupted" err=... for=...`, `msg="failed to retrieve entries" err=...`, `msg="watch resumed" instances=N`}, longOutage},
	{"two registrars", []string{`msg="registration ended" err=...`, "ended"}, twoRegistrars},
	{"context ends", []string{`msg="registration ended" err=...`, "ended"}, contextEnds},
	{"key deleted", []string{`msg="registration lost" err=...`, `action=register msg="registered again"`, "key deleted", "in doubt"}, keyDeleted},
	{"key taken", []string{`msg="registration lost" err=...`, "key taken"}, keyTaken},
	{"key changed", []string{`msg="registration lost" err=...`, "key changed"}, keyChanged},
	{"lease revoked", []string{`msg="registration lost" err=...`, `action=register msg="registered again"`, "lease lost"}, leaseRevoked},
	{"logger blocks", []string{`msg="log lines dropped" lines=N`}, loggerBlocks},
	{"another value", []string{`msg="not deregistered" err=...`, "compare failed: the key has value ... and mod revision ..."}, anotherValue},
	{"register again while etcd is away", []string{`msg="not put again" err=...`, "context deadline exceeded: etcd did not answer within the request timeout"}, againWhileAway},
	{"end while etcd is away", []string{`msg="not deregistered" err=...`, "context deadline exceeded: etcd did not answer within the request timeout"}, endWhileAway},
}

// TestRunbook has each trouble happen to real members, and compares what Err, the
// log and the metrics say with docs/operations.md.
func TestRunbook(t *testing.T) {
	t.Parallel()
	p := readPage(t)
	for _, trouble := range troubles {
		t.Run(trouble.name, func(t *testing.T) {
			t.Parallel()
			s := &scene{T: t, page: p, seen: map[string]bool{}}
			trouble.run(s)
			s.compare(trouble.rows)
		})
	}
}

// TestRunbook_EveryRowHasATrouble fails for a row that nothing tries, and for a
// trouble whose row is gone.
func TestRunbook_EveryRowHasATrouble(t *testing.T) {
	t.Parallel()
	p := readPage(t)
	tried := map[string]bool{}
	for _, trouble := range troubles {
		for _, row := range trouble.rows {
			tried[row] = true
		}
	}
	for _, row := range p.rows() {
		if !tried[row] {
			t.Errorf("no trouble tries the row %s of docs/operations.md", row)
		}
		delete(tried, row)
	}
	for row := range tried {
		t.Errorf("docs/operations.md has no row %s", row)
	}
}

// rows returns the names of all rows.
func (p *page) rows() (names []string) {
	for _, row := range p.lines {
		names = append(names, row.name)
	}
	for _, row := range slices.Concat(p.reasons, p.errors) {
		names = append(names, row.name)
	}
	return names
}

// scene is where a trouble happens.
type scene struct {
	*testing.T
	recorded
	page *page
	seen map[string]bool // rows of the page
}

// client returns a client whose metrics are recorded.
func (s *scene) client(o etcdv3.ClientOptions, endpoints ...string) etcdv3.Client {
	s.Helper()
	o.Metrics = s.metrics()
	c, _ := connect(s.T, o, endpoints...)
	return c
}

// register registers a service.
func (s *scene) register(c etcdv3.Client, key, value string) *etcdv3.Registrar {
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: key, Value: value, TTL: etcdv3.NewTTLOption(runbookBeat, runbookTTL)}, &s.recorded)
	r.Register()
	return r
}

// registered does so, and fails if that fails.
func (s *scene) registered(c etcdv3.Client) *etcdv3.Registrar {
	s.Helper()
	r := s.register(c, "/s/1", "v")
	s.isBack(r, time.Second)
	return r
}

// discover follows a prefix.
func (s *scene) discover(c etcdv3.Client) *etcdv3.Instancer {
	s.Helper()
	i, err := etcdv3.NewInstancer(c, "/s/", &s.recorded)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(i.Stop)
	return i
}

// waits is eventually, with all that was recorded when it fails.
func (s *scene) waits(bound time.Duration, what string, condition func() bool) time.Duration {
	s.Helper()
	done := false
	defer func() {
		if !done {
			s.Logf("recorded:\n%s", &s.recorded)
		}
	}()
	took := eventually(s.T, bound, what, condition)
	done = true
	s.Logf("%v of %v: %s", took.Round(time.Millisecond), bound, what)
	return took
}

// tells waits until Err has a reason of the page.
func (s *scene) tells(r *etcdv3.Registrar, bound time.Duration, reason string) {
	s.Helper()
	s.waits(bound, "Err tells of "+reason, func() bool { return r.Err() != nil && s.page.reason(r.Err().Error()) == reason })
	s.seen[reason] = true
}

// isBack waits until a service is registered.
func (s *scene) isBack(r *etcdv3.Registrar, bound time.Duration) {
	s.Helper()
	s.waits(bound, "registered", func() bool { return r.Err() == nil })
}

// logs waits for a line of a row of the page.
func (s *scene) logs(bound time.Duration, row string) {
	s.Helper()
	s.waits(bound, "the log has "+row, func() bool {
		return slices.ContainsFunc(s.all(), func(l logLine) bool { found := s.page.row(l); return found != nil && found.name == row })
	})
}

// counts waits until a metric has a value.
func (s *scene) counts(metric string, value float64) {
	s.Helper()
	s.waits(time.Second, fmt.Sprint(metric, " is ", value), func() bool { return s.value(metric) == value })
}

// does fails if something fails.
func (s *scene) does(_ any, err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// compare compares all that was recorded with the page.
func (s *scene) compare(rows []string) {
	s.Helper()
	var wrong []string
	for deadline := time.Now().Add(patienceFactor * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if wrong = s.wrong(); len(wrong) == 0 || time.Now().After(deadline) {
			break
		}
	}
	for _, row := range rows {
		if !s.seen[row] {
			wrong = append(wrong, "nothing shows the row "+row)
		}
	}
	if len(wrong) > 0 {
		s.Errorf("%s\nrecorded:\n%s", strings.Join(wrong, "\n"), &s.recorded)
	}
}

// wrong returns what differs from the page.
func (s *scene) wrong() (wrong []string) {
	want := map[string]float64{} // metrics, as the lines and the page have them
	why := map[string]string{}   // the last reason of a key
	for _, l := range s.all() {
		row := s.page.row(l)
		if row == nil {
			wrong = append(wrong, fmt.Sprint("the page has no row of the line ", l.keys))
			continue
		}
		s.seen[row.name] = true
		if l.keys["level"] != row.level {
			wrong = append(wrong, fmt.Sprintf("level %q of %v, the page has %q", l.keys["level"], l.keys, row.level))
		}
		reason := ""
		if err, has := l.keys["err"]; has && row.keys["err"] == "" {
			reason = s.page.reason(err)
			s.seen[reason] = true
			for _, more := range s.page.errors {
				s.seen[more.name] = s.seen[more.name] || more.fits(err)
			}
			if reason == "other" && !s.page.known(err) {
				wrong = append(wrong, fmt.Sprintf("the page has no row of the error %q", err))
			}
		}
		_, repeated := l.keys["for"]
		switch msg := l.keys["msg"]; {
		case msg == "registration lost":
			want["Losses{"+reason+"}"]++
			why[l.keys["key"]] = reason
		case msg == "not registered":
			why[l.keys["key"]] = reason
		case msg == "registered again":
			want["Returns{"+why[l.keys["key"]]+"}"]++
		case msg == "watch interrupted" && !repeated:
			want["Interruptions{"+reason+"}"]++
		}
	}
	s.mu.Lock()
	got := maps.Clone(s.values)
	s.mu.Unlock()
	for metric := range got {
		if name, _, has := strings.Cut(metric, "{"); has && slices.Contains([]string{"Losses", "Returns", "Interruptions"}, name) {
			want[metric] += 0
		}
	}
	for metric, value := range want {
		if got[metric] != value {
			wrong = append(wrong, fmt.Sprintf("%s is %v, the lines have %v", metric, got[metric], value))
		}
	}
	return wrong
}

func startAndEnd(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{}, n.endpoint())
	r := s.registered(c)
	s.discover(c)
	s.counts("ServicesWanted", 1)
	s.counts("ServicesRegistered", 1)
	s.counts("PrefixesWatched", 1)
	s.counts("Instances{/s/}", 1)
	r.Deregister()
	if err := r.Err(); err == nil || err.Error() != "deregistered" {
		s.Error(err)
	}
	s.counts("ServicesWanted", 0)
	s.counts("ServicesRegistered", 0)
	s.counts("Instances{/s/}", 0)
	if s.value("Requests") == 0 {
		s.Error("no request was counted")
	}
}

func nothingToRegister(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{}, n.endpoint())
	if err := s.register(c, "", "v").Err(); !errors.Is(err, etcdv3.ErrNoKey) {
		s.Error(err)
	}
	if err := s.register(c, "/s/1", "").Err(); !errors.Is(err, etcdv3.ErrNoValue) {
		s.Error(err)
	}
	s.counts("ServicesWanted", 0)
}

func nilClient(s *scene) {
	if err := s.register(nil, "/s/1", "v").Err(); err == nil {
		s.Error("no error")
	}
}

func passwordChanged(s *scene) {
	n := newNode(s.T)
	enableAuth(s.T, n.admin(), "user", "/s/", clientv3.PermissionType(clientv3.PermReadWrite))
	r := s.registered(s.client(etcdv3.ClientOptions{Username: "user", Password: "user-pass"}, n.endpoint()))
	root := plainAs(s.T, "root", "root-pass", n.endpoint())
	s.does(root.UserChangePassword(s.Context(), "user", "another"))
	s.tells(r, lostLease, "password")
	s.counts("Losses{password}", 1)
	s.counts("ServicesRegistered", 0)
	s.does(root.UserChangePassword(s.Context(), "user", "user-pass"))
	s.isBack(r, outageOver)
	s.counts("Returns{password}", 1)
	if s.value("Authentications") < 2 {
		s.Error("authentications:", s.value("Authentications"))
	}
}

func roleRevoked(s *scene) {
	n := newNode(s.T)
	enableAuth(s.T, n.admin(), "user", "/s/", clientv3.PermissionType(clientv3.PermReadWrite))
	r := s.registered(s.client(etcdv3.ClientOptions{Username: "user", Password: "user-pass"}, n.endpoint()))
	root := plainAs(s.T, "root", "root-pass", n.endpoint())
	end := clientv3.GetPrefixRangeEnd("/s/")
	s.does(root.RoleRevokePermission(s.Context(), "user", "/s/", end))
	s.tells(r, lostLease, "permission")
	s.counts("Losses{permission}", 1)
	s.counts("ServicesRegistered", 0)
	s.does(root.RoleGrantPermission(s.Context(), "user", "/s/", end, clientv3.PermissionType(clientv3.PermReadWrite)))
	s.isBack(r, 2*lostLease)
	s.counts("Returns{permission}", 1)
}

func storeFull(s *scene) {
	n := newNode(s.T, func(cfg *embed.Config) { cfg.QuotaBackendBytes = 4 << 20 })
	c := s.client(etcdv3.ClientOptions{}, n.endpoint())
	r := s.registered(c)
	admin := n.admin()
	for {
		if _, err := admin.Put(s.Context(), "/large", strings.Repeat("x", 1<<20)); err != nil {
			break
		}
	}
	s.does(admin.Revoke(s.Context(), clientv3.LeaseID(c.LeaseID())))
	s.tells(r, lostLease, "no space")
	s.logs(time.Second, `msg="not registered" err=...`)
	s.counts("ServicesRegistered", 0)

	found, err := admin.Get(s.Context(), "/large") // as the page says: compact, defragment, disarm
	s.does(found, err)
	s.does(admin.Compact(s.Context(), found.Header.Revision, clientv3.WithCompactPhysical()))
	s.does(admin.Delete(s.Context(), "/large"))
	s.does(admin.Defragment(s.Context(), n.config.ListenClientUrls[0].String()))
	s.does(admin.AlarmDisarm(s.Context(), &clientv3.AlarmMember{}))
	s.isBack(r, 10*time.Second)
	s.counts("Returns{no space}", 1)
}

// secure returns a member that speaks TLS, and whose certificate is the
// authority's.
func secure(s *scene) *node {
	cert, key := certs.New(s.T).Issue("server")
	return newNode(s.T, func(cfg *embed.Config) {
		cfg.ListenClientUrls[0].Scheme, cfg.AdvertiseClientUrls[0].Scheme = "https", "https"
		cfg.ClientTLSInfo = transport.TLSInfo{CertFile: cert, KeyFile: key}
	})
}

func wrongCA(s *scene) {
	n := secure(s)
	c := s.client(etcdv3.ClientOptions{CACert: certs.New(s.T).File, HeaderTimeoutPerRequest: time.Second}, n.endpoint())
	r := s.register(c, "/s/1", "v")
	s.tells(r, 500*time.Millisecond, "certificate")
	s.neverSays("connection refused")
	s.discover(c)
	s.counts("ServicesWanted", 1)
	s.counts("PrefixesStale", 1)
	r.Deregister()
}

// neverSays fails if a line has a text.
func (s *scene) neverSays(text string) {
	s.Helper()
	if strings.Contains(s.String(), text) {
		s.Errorf("%q:\n%s", text, &s.recorded)
	}
}

func closedPort(s *scene) {
	c := s.client(etcdv3.ClientOptions{HeaderTimeoutPerRequest: time.Second}, deadEndpoint(s.T))
	r := s.register(c, "/s/1", "v")
	s.tells(r, 500*time.Millisecond, "connection refused")
	s.discover(c)
	s.counts("ServicesWanted", 1)
	s.counts("ServicesRegistered", 0)
	s.counts("PrefixesStale", 1)
	s.neverSays("TLS")
	r.Deregister()
}

func noLeader(s *scene) {
	etcd := newCluster(s.T, 3)
	c := s.client(etcdv3.ClientOptions{}, etcd.endpoints(0)...)
	r := s.registered(c)
	s.discover(c)
	etcd.stop(s.T, 1, 2)
	s.logs(outageTold, `msg="watch interrupted" err=...`)
	s.tells(r, runbookTTL+time.Second, "no leader")
	s.neverSays("TLS")
	s.counts("Losses{no leader}", 1)
	etcd.restart(s.T, 1, 2)
	s.isBack(r, outageOver)
	s.logs(outageOver, `msg="watch resumed" instances=N`)
}

func tooFewStreams(s *scene) {
	n := newNode(s.T, func(cfg *embed.Config) { cfg.MaxConcurrentStreams = 1 })
	c := s.client(etcdv3.ClientOptions{HeaderTimeoutPerRequest: time.Second}, n.endpoint())
	s.discover(c) // its watch is the one stream that there may be
	time.Sleep(time.Second)
	r := s.register(c, "/s/1", "v")
	s.tells(r, time.Second, "no answer")
	s.neverSays("TLS")
	r.Deregister()
}

func tooManyRequests(s *scene) {
	n := newNode(s.T)
	busy := grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if _, grant := req.(*pb.LeaseGrantRequest); grant {
			return rpctypes.ErrGRPCRequestTooManyRequests
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	})
	c := s.client(etcdv3.ClientOptions{HeaderTimeoutPerRequest: time.Second, DialOptions: []grpc.DialOption{busy}}, n.endpoint())
	r := s.register(c, "/s/1", "v")
	s.tells(r, time.Second, "too many requests")
	s.counts("ServicesWanted", 1)
	r.Deregister()
}

func messageLimit(s *scene) {
	n := newNode(s.T)
	mustPut(s.T, n.admin(), "/s/1", strings.Repeat("x", 10_000))
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{n.endpoint()}, MaxCallSendMsgSize: 5000, MaxCallRecvMsgSize: 5000, Logger: zap.NewNop()})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { cli.Close() })
	ctx, cancel := context.WithCancel(s.Context())
	s.Cleanup(cancel)
	c, err := etcdv3.NewClientFrom(ctx, cli, etcdv3.ClientOptions{Metrics: s.metrics()})
	if err != nil {
		s.Fatal(err)
	}
	if err := s.discover(c).State().Err; err == nil {
		s.Error("no error")
	}
	s.counts("PrefixesStale", 1)
	s.neverSays("Value is above")
}

func valueTooLarge(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{}, n.endpoint())
	for i, size := range []int{1600 << 10, 3 << 20} { // above etcd's limit, and above the client's
		r := s.register(c, fmt.Sprint("/s/", i), strings.Repeat("x", size))
		s.tells(r, time.Second, "other")
		if !strings.Contains(r.Err().Error(), "Value is above etcd's request limit") {
			s.Error(r.Err())
		}
		r.Deregister()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.lines {
		l.keys["value"] = "large"
	}
}

func silentLink(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{}, n.endpoint())
	r := s.registered(c)
	n.silence()
	s.tells(r, runbookTTL+time.Second, "no answer") // a heartbeat may be answered yet
	s.counts("Losses{no answer}", 1)
	s.counts("ServicesRegistered", 0)
	if s.value("HeartbeatsUnanswered") == 0 {
		s.Error("no heartbeat without an answer was counted")
	}
	n.speak()
	s.isBack(r, outageOver)
}

func brokenConnection(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{}, n.endpoint())
	r := s.registered(c)
	s.discover(c)
	n.cut()
	s.logs(outageTold, `msg="watch interrupted" err=...`)
	s.counts("PrefixesStale", 1)
	s.tells(r, runbookTTL+time.Second, "connection lost")
	s.counts("Losses{connection lost}", 1)
	s.counts("Interruptions{connection lost}", 1)
	n.mend()
	s.isBack(r, outageOver)
	s.logs(outageOver, `msg="watch resumed" instances=N`)
	s.counts("PrefixesStale", 0)
}

func longOutage(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{}, n.config.ListenClientUrls[0].Host)
	r := s.registered(c)
	i := s.discover(c)
	n.stop()
	s.logs(time.Second, `msg="watch interrupted" err=...`)
	s.tells(r, runbookTTL+time.Second, "connection refused")
	s.counts("Losses{connection refused}", 1)
	s.logs(outageTold, `msg="failed to retrieve entries" err=...`)
	s.counts("PrefixesStale", 1)
	if i.State().Err == nil || s.value("SilentSeconds{/s/}") < 5 {
		s.Errorf("%v:\n%s", i.State().Err, &s.recorded)
	}
	s.logs(firstRepeat+time.Second, `msg="watch interrupted" err=... for=...`)
	s.logs(outageTold, `msg="not registered" err=... for=...`) // etcd took its time to end
	n.start()
	s.isBack(r, outageOver)
	s.logs(outageOver, `msg="watch resumed" instances=N`)
	s.counts("Returns{connection refused}", 1)
	s.counts("PrefixesStale", 0)
	s.counts("SilentSeconds{/s/}", 0)
}

func twoRegistrars(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{}, n.endpoint())
	first := s.registered(c)
	second := s.registered(c)
	s.tells(first, time.Second, "ended")
	first.Deregister() // takes the key away, and the second says so
	s.tells(second, time.Second, "ended")
	if lines := strings.Count(s.String(), "registration ended"); lines != 2 {
		s.Errorf("%d lines:\n%s", lines, &s.recorded)
	}
	s.counts("ServicesRegistered", 0)
	s.counts("ServicesWanted", 0)
	if left := values(s.T, n.admin(), "/s/"); len(left) > 0 {
		s.Error(left)
	}
}

func contextEnds(s *scene) {
	n := newNode(s.T)
	c, cancel := connect(s.T, etcdv3.ClientOptions{Metrics: s.metrics()}, n.endpoint())
	r := s.registered(c)
	cancel()
	s.tells(r, time.Second, "ended")
	s.counts("ServicesRegistered", 0)
	if late := s.register(c, "/s/2", "v"); late.Err() == nil || s.page.reason(late.Err().Error()) != "ended" {
		s.Error(late.Err())
	}
}

func keyDeleted(s *scene) {
	n := newNode(s.T)
	r := s.registered(s.client(etcdv3.ClientOptions{}, n.endpoint()))
	s.does(n.admin().Delete(s.Context(), "/s/1"))
	s.tells(r, runbookBeat, "in doubt")
	s.isBack(r, runbookBeat+time.Second)
	s.counts("Losses{key deleted}", 1)
	s.counts("Returns{key deleted}", 1)
}

func keyTaken(s *scene) {
	n := newNode(s.T)
	r := s.registered(s.client(etcdv3.ClientOptions{}, n.endpoint()))
	mustPut(s.T, n.admin(), "/s/1", "another")
	s.tells(r, runbookBeat+time.Second, "key taken")
	s.counts("Losses{key taken}", 1)
	s.counts("ServicesRegistered", 0)
	never(s.T, lostLease, "it fights", func() bool { return r.Err() == nil })
	s.does(n.admin().Delete(s.Context(), "/s/1"))
	s.isBack(r, runbookBeat+time.Second)
}

func keyChanged(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{}, n.endpoint())
	service := etcdv3.Service{Key: "/s/1", Value: "old", TTL: etcdv3.NewTTLOption(runbookBeat, 30*time.Second)}
	s.does(nil, c.Register(service))
	n.stop()
	restore := n.backUp()
	n.start()
	s.waits(outageOver, "etcd answers", func() bool { _, err := c.GetEntries("/s/"); return err == nil })
	service.Value = "new"
	r := etcdv3.NewRegistrar(c, service, &s.recorded)
	r.Register()
	s.isBack(r, outageOver)
	n.stop()
	restore()
	n.start()
	s.waits(outageOver, "the restored value is found", func() bool { return s.value("Losses{key changed}") == 1 })
	s.isBack(r, runbookBeat+time.Second)
	s.counts("Returns{key changed}", 1)
}

func leaseRevoked(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{}, n.endpoint())
	r := s.registered(c)
	s.does(n.admin().Revoke(s.Context(), clientv3.LeaseID(c.LeaseID())))
	s.waits(runbookBeat, "Err is not nil", func() bool { return r.Err() != nil })
	s.isBack(r, lostLease)
	s.counts("Losses{lease lost}", 1)
	s.neverSays("key was deleted")
}

// loggerBlocks has a logger take no line, until more are due than wait for it.
func loggerBlocks(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{}, n.endpoint())
	taken := make(chan struct{})
	take := sync.OnceFunc(func() { close(taken) })
	defer take()
	var blocks atomic.Bool
	logger := log.LoggerFunc(func(pairs ...any) error {
		if blocks.Load() {
			<-taken
		}
		return s.Log(pairs...)
	})
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: "v", TTL: etcdv3.NewTTLOption(runbookBeat, runbookTTL)}, logger)
	r.Register()
	blocks.Store(true)
	s.does(n.admin().Revoke(s.Context(), clientv3.LeaseID(c.LeaseID())))
	s.waits(runbookBeat, "Err is not nil", func() bool { return r.Err() != nil })
	s.isBack(r, lostLease)
	var calls sync.WaitGroup
	for range 300 {
		calls.Go(r.Register)
	}
	calls.Wait()
	take()
	s.logs(time.Second, `msg="log lines dropped" lines=N`)
	s.counts("Losses{lease lost}", 1)
	s.counts("Returns{lease lost}", 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = slices.DeleteFunc(s.lines, func(l logLine) bool { // what was dropped is compared with no metric
		return l.keys["msg"] == "registration lost" || l.keys["msg"] == "registered again"
	})
	s.values = nil
}

func anotherValue(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{}, n.endpoint())
	r := etcdv3.NewRegistrar(c, etcdv3.Service{Key: "/s/1", Value: "v", DeleteOptions: &etcdv3.DeleteOptions{PrevValue: "other"}}, &s.recorded)
	r.Register()
	r.Deregister()
	if err := r.Err(); err != nil {
		s.Error("it does not stay registered:", err)
	}
	s.counts("ServicesRegistered", 1)
}

func againWhileAway(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{HeaderTimeoutPerRequest: time.Second}, n.endpoint())
	r := s.registered(c)
	n.silence()
	r.Register()
	s.counts("ServicesRegistered", 1)
	n.speak()
	s.isBack(r, outageOver)
	r.Deregister()
}

func endWhileAway(s *scene) {
	n := newNode(s.T)
	c := s.client(etcdv3.ClientOptions{HeaderTimeoutPerRequest: time.Second}, n.endpoint())
	r := s.registered(c)
	n.silence()
	began := time.Now()
	r.Deregister()
	if took := time.Since(began); took > time.Second*patienceFactor*3/2+machine.since(began) {
		s.Error("it took", took)
	}
	s.counts("ServicesRegistered", 0)
	n.speak()
	s.waits(runbookTTL+2*time.Second, "the key goes with its TTL", func() bool { return len(values(s.T, n.admin(), "/s/")) == 0 })
}
