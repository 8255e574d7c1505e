package etcdv3_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kitsd/etcdv3/internal/alone"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
)

// TestMain removes what startEtcd has built, and fails if a goroutine is left.
func TestMain(m *testing.M) {
	code := m.Run()
	if err := os.RemoveAll(programs); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, "goroutines are left:", err)
		code = 1
	}
	os.Exit(code)
}

// programs is the directory of the program of a member.
var programs string

// etcdProgram builds the program of a member once, from the module of the tests:
// so this module requires nothing of etcd's server.
var etcdProgram = sync.OnceValues(func() (string, error) {
	alone.Hold()
	var err error
	if programs, err = os.MkdirTemp("", "etcd-program"); err != nil {
		return "", err
	}
	program := filepath.Join(programs, "etcd")
	output, err := exec.Command("go", "build", "-C", "tests", "-o", program, "./cmd/etcd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build tests/cmd/etcd: %w\n%s", err, output)
	}
	return program, nil
})

// member is a real etcd member, in a process of its own, with an empty store.
type member struct {
	endpoint      string // host:port
	ca, cert, key string // files for a client, empty without TLS
	process       *exec.Cmd
	stdin         io.Closer
}

// startEtcd starts a member with the flags of tests/cmd/etcd. Its caller stops
// it. Without etcd nothing here can run, so an error is a panic.
func startEtcd(flags ...string) *member {
	program, err := etcdProgram()
	must(err)
	m := &member{process: exec.Command(program, flags...)}
	m.process.Stderr = os.Stderr
	m.stdin, err = m.process.StdinPipe()
	must(err)
	stdout, err := m.process.StdoutPipe()
	must(err)
	must(m.process.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		panic(errors.Join(err, m.process.Wait()))
	}
	m.endpoint = strings.TrimSpace(line)
	return m
}

// startSecureEtcd starts a member that speaks TLS only, demands a certificate,
// and knows a user "service" with the password "secret" that may do anything.
func startSecureEtcd() *member {
	cert, key := writeCertificate()
	m := startEtcd("-ca", cert, "-cert", cert, "-key", key)
	m.ca, m.cert, m.key = cert, cert, key
	pair, err := tls.LoadX509KeyPair(cert, key)
	must(err)
	root, err := x509.ParseCertificate(pair.Certificate[0])
	must(err)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"https://" + m.endpoint}, TLS: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots},
	})
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

// writeCertificate writes a certificate that is its own CA, and good for the
// member and its clients, beside the program.
func writeCertificate() (certFile, keyFile string) {
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
	_, err = etcdProgram() // makes the directory
	must(err)
	certFile, keyFile = filepath.Join(programs, "cert.pem"), filepath.Join(programs, "key.pem")
	must(os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certDER}), 0o600))
	must(os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	return certFile, keyFile
}

// stop ends the member, and what it has stored.
func (m *member) stop() {
	must(m.stdin.Close())
	must(m.process.Wait())
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
