package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// authority signs the certificates of the gates under test.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	mu   sync.Mutex
	made []string // serial numbers
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = a.sign(t, true)
	a.made = nil
	return a
}

// sign makes a certificate, its own if it is the authority's.
func (a *authority) sign(t testing.TB, isCA bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: serial, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	parent, signer := template, key
	if !isCA {
		parent, signer = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// write puts a new certificate and its key into a folder.
func (a *authority) write(t testing.TB, dir string) (certFile, keyFile string) {
	t.Helper()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	a.renew(t, certFile, keyFile)
	return certFile, keyFile
}

// renew replaces a certificate and its key.
func (a *authority) renew(t testing.TB, certFile, keyFile string) {
	t.Helper()
	cert, key := a.sign(t, false)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert.Raw}, keyFile: {Type: "PRIVATE KEY", Bytes: der}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.made = append(a.made, cert.SerialNumber.String())
}

// serials are the numbers of the certificates made so far.
func (a *authority) serials() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.made
}

// client trusts the authority, and speaks HTTP/1.1.
func (a *authority) client() *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	return &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
}

// serial is the number of the certificate that a gate serves.
func (p *process) serial(t testing.TB) string {
	t.Helper()
	conn, err := p.connect("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	handshake := conn.(*tls.Conn)
	if err := handshake.Handshake(); err != nil {
		t.Fatalf("the %s gate: %v", p.name, err)
	}
	return handshake.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

func replacedCertificate(t *testing.T, s *site) {
	own := newAuthority(t)
	certFile, keyFile := own.write(t, t.TempDir())
	p := s.start(t, "renewed", s.routes(t), "--public-url=https://127.0.0.1", "--ops-addr=", "--tls-cert="+certFile, "--tls-key="+keyFile)
	p.tls = own.client()
	hangup := func(text string, count int) {
		t.Helper()
		p.signal(t, syscall.SIGHUP)
		p.log.awaitCount(t, "routes reloaded", count)
		if text != "" {
			p.log.awaitCount(t, text, 1)
		}
	}
	if got := p.serial(t); got != own.serials()[0] {
		t.Fatalf("it serves %s, want %s", got, own.serials()[0])
	}
	kept := s.dial(t, p, s.address()) // a connection from before goes on
	kept.send(request("GET", "/open/"+s.id()))
	if answer, _ := kept.reply(); answer.StatusCode != 200 {
		t.Errorf("%d", answer.StatusCode)
	}
	own.renew(t, certFile, keyFile)
	hangup("", 1)
	for until := time.Now().Add(patience); p.serial(t) != own.serials()[1]; pause(t) {
		if time.Now().After(until) {
			t.Fatal("the new certificate is not served")
		}
	}
	kept.send(request("GET", "/open/"+s.id()))
	if answer, _ := kept.reply(); answer.StatusCode != 200 {
		t.Errorf("a connection from before: %d", answer.StatusCode)
	}
	good, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := newAuthority(t).write(t, t.TempDir())
	foreign, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	for i, bad := range [][]byte{foreign, []byte("no certificate"), nil, good[:len(good)/2]} { // the first does not fit the key
		if err := os.WriteFile(certFile, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		p.signal(t, syscall.SIGHUP)
		p.log.awaitCount(t, "keeping the old one", i+1)
		if got := p.serial(t); got != own.serials()[1] {
			t.Errorf("a broken certificate is served: %s", got)
		}
	}
	old := p.tls.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	conn, err := (&process{addr: p.addr, tls: old}).connect(s.address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.(*tls.Conn).Handshake(); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	plain := s.ask(t, &process{name: "plain to TLS", addr: p.addr}, s.address(), request("GET", "/open/"+s.id(), "Cookie: x=y"))
	if plain.StatusCode != 400 {
		t.Errorf("plain HTTP to the TLS port: %d", plain.StatusCode)
	}
}
