package etcdv3_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// member is a real etcd member that runs in this process, for one example or
// test: on free ports, in a temporary directory, without logs.
type member struct {
	endpoint      string // host:port
	ca, cert, key string // files for a client, empty without TLS
	dir           string
	etcd          *embed.Etcd
}

// startEtcd starts a member, which its caller stops.
func startEtcd() *member { return startMember(false) }

// startSecureEtcd starts a member that speaks TLS only, demands a certificate,
// and knows a user "service" with the password "secret" that may do anything.
func startSecureEtcd() *member {
	m := startMember(true)
	tls, err := transport.TLSInfo{CertFile: m.cert, KeyFile: m.key, TrustedCAFile: m.ca}.ClientConfig()
	must(err)
	cli, err := clientv3.New(clientv3.Config{Endpoints: []string{m.endpoint}, TLS: tls})
	must(err)
	defer cli.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, user := range []string{"root", "service"} {
		_, err = cli.UserAdd(ctx, user, "secret")
		must(err)
		_, err = cli.UserGrantRole(ctx, user, "root")
		must(err)
	}
	_, err = cli.AuthEnable(ctx)
	must(err)
	return m
}

func startMember(secure bool) *member {
	dir, err := os.MkdirTemp("", "etcd")
	must(err)
	m := &member{dir: dir}
	config := embed.NewConfig()
	config.Dir = filepath.Join(dir, "data")
	config.LogLevel, config.LogOutputs = "fatal", []string{os.DevNull}
	config.TickMs, config.ElectionMs = 10, 100 // it elects itself at once
	config.UnsafeNoFsync = true
	config.BcryptCost = 4 // the least
	config.ListenPeerUrls = anyPort("http")
	config.AdvertisePeerUrls = config.ListenPeerUrls
	config.ListenClientUrls = anyPort("http")
	if secure {
		m.writeCertificate()
		config.ListenClientUrls = anyPort("https")
		config.ClientTLSInfo = transport.TLSInfo{CertFile: m.cert, KeyFile: m.key, TrustedCAFile: m.ca, ClientCertAuth: true}
	}
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	m.etcd, err = embed.StartEtcd(config)
	must(err)
	<-m.etcd.Server.ReadyNotify()
	m.endpoint = m.etcd.Clients[0].Addr().String()
	return m
}

func anyPort(scheme string) []url.URL { return []url.URL{{Scheme: scheme, Host: "127.0.0.1:0"}} }

// stop ends the member, and removes what it has written.
func (m *member) stop() {
	m.etcd.Close()
	os.RemoveAll(m.dir)
}

// writeCertificate makes one certificate that is its own CA, and good for the
// member and its clients.
func (m *member) writeCertificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IsCA:         true, BasicConstraintsValid: true,
	}
	certDER, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	must(err)
	m.cert, m.key = filepath.Join(m.dir, "cert.pem"), filepath.Join(m.dir, "key.pem")
	m.ca = m.cert
	must(os.WriteFile(m.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certDER}), 0o600))
	must(os.WriteFile(m.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
}

// must ends the test binary: without etcd no example can run.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
