package gate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"millrace/gate/identity"
)

func TestRateLimitsTellTheClientWhatIsLeft(t *testing.T) {
	t.Parallel()
	b := setupRoutes(t, `
routes:
  - {path: /slow/, upstream: "%[1]s", allow: [public], rate: {requests: 3, per: 1h}}
  - {path: /mine/, upstream: "%[1]s", allow: [customer, operator], rate: {requests: 2, per: 1h, by: account}}
  - {path: /free/, upstream: "%[1]s", allow: [public]}
`)
	for left := 2; left >= 0; left-- {
		res := b.get("/slow/a")
		res.want(t, 200, "")
		if got, want := res.Header.Get("RateLimit"), fmt.Sprintf(`"route";r=%d;`, left); !strings.HasPrefix(got, want) {
			t.Errorf("RateLimit %q, want %q", got, want)
		}
		if got := res.Header.Get("RateLimit-Policy"); got != `"route";q=3;w=3600` {
			t.Errorf("RateLimit-Policy %q", got)
		}
	}
	res := b.get("/slow/a")
	res.want(t, 429, "rate_limited")
	if res.Header.Get("Retry-After") == "" || !strings.HasPrefix(res.Header.Get("RateLimit"), `"route";r=0;`) {
		t.Errorf("%v", res.Header)
	}
	b.get("/free/a").want(t, 200, "")
	for range 2 {
		b.get("/mine/a", "Authorization", bearer(b.customerKey)).want(t, 200, "")
	}
	b.get("/mine/a", "Authorization", bearer(b.newKey(NewKey{Email: customerEmail}))).want(t, 429, "rate_limited") // another key, the same account
	b.get("/mine/a", "Authorization", bearer(b.operatorKey)).want(t, 200, "")
}

func TestRateLimitsByAddressAndAccount(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) {
		c.AddressRate, c.AccountRate = Rate{Requests: 6, Per: Duration(time.Hour), Burst: 6}, Rate{Requests: 2, Per: Duration(time.Hour), Burst: 2}
	})
	for _, want := range []int{200, 200, 429, 429} {
		b.get("/v1/a", "Authorization", bearer(b.customerKey)).want(t, want, "")
	}
	b.get("/v1/a", "Authorization", bearer(b.operatorKey)).want(t, 200, "")
	b.get("/open/a").want(t, 200, "")
	b.get("/open/a").want(t, 429, "rate_limited")
	b.get("/auth/login").want(t, 429, "rate_limited")
}

func TestWhatIsRefusedAtOnceCountsToo(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.AddressRate = Rate{Requests: 3, Per: Duration(time.Hour), Burst: 3} })
	for _, want := range []string{"400", "400", "400", "429"} {
		if status, _ := b.raw("GET /open/../admin/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); !strings.Contains(status, want) {
			t.Errorf("got %s, want %s", status, want)
		}
	}
}

func TestSigningKeysRotateWithOverlap(t *testing.T) {
	t.Parallel()
	b := setup(t)
	client := b.client()
	v, err := identity.NewVerifier(identity.Config{JWKSURL: b.url + jwksPath, Audience: "shop", HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	token := func() string {
		t.Helper()
		b.get("/v1/a", "Authorization", bearer(b.customerKey)).want(t, 200, "")
		return b.upstream.last(t).Header.Get(identity.Header)
	}
	published := func() int { return strings.Count(b.get(jwksPath).body, `"kid"`) }
	age := func(interval string) {
		t.Helper()
		if _, err := b.gate.store.pool.Exec(t.Context(), `UPDATE gate.signing_keys SET active_at = active_at - $1::interval`, interval); err != nil {
			t.Fatal(err)
		}
		if err := b.gate.signer.refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	first := token()
	if published() != 1 {
		t.Fatalf("%d keys", published())
	}
	age("31 days") // the next key is due: published, but not used yet
	if published() != 2 || keyID(token()) != keyID(first) {
		t.Errorf("%d keys; signs with the old one: %t", published(), keyID(token()) == keyID(first))
	}
	age("11 minutes") // it signs now; the old one is still published, for tokens under way
	second := token()
	if published() != 2 || keyID(second) == keyID(first) {
		t.Errorf("%d keys; signs with the new one: %t", published(), keyID(second) != keyID(first))
	}
	for _, tok := range []string{first, second} {
		if _, err := v.Verify(t.Context(), tok); err != nil {
			t.Errorf("the upstream refuses: %v", err)
		}
	}
	age("11 minutes")
	if published() != 1 {
		t.Errorf("%d keys", published())
	}
	// Another process signs with the same keys.
	other := b.another()
	other.get("/v1/a", "Authorization", bearer(b.customerKey)).want(t, 200, "")
	if got := keyID(b.upstream.last(t).Header.Get(identity.Header)); got != keyID(second) {
		t.Errorf("the other process signs with %s", got)
	}
}

func keyID(token string) string { return strings.Split(token, ".")[0] }

func TestAnotherSecretIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	cfg := b.gate.cfg
	cfg.Secret = bytes.Repeat([]byte{8}, SecretLen)
	if _, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

func TestSecretFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	first, err := LoadOrCreateSecret(path)
	if err != nil || len(first) != SecretLen {
		t.Fatal(first, err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	again, err := LoadOrCreateSecret(path)
	if err != nil || !bytes.Equal(first, again) {
		t.Error(again, err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateSecret(path); err == nil {
		t.Error("a short secret was accepted")
	}
}

// certificate writes a self-signed certificate with a serial number.
func certificate(t *testing.T, dir string, serial int64) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

func TestTLSWithHTTP2AndACertificateThatChanges(t *testing.T) {
	t.Parallel()
	b := setup(t)
	dir := t.TempDir()
	certFile, keyFile := certificate(t, dir, 1)
	cert, err := LoadCertificate(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := b.gate.cfg
	cfg.PublicURL, cfg.PlainCookies = "https://"+ln.Addr().String(), false
	g, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := testContext(t)
	done := make(chan error, 1)
	go func() { done <- g.ServeTLS(ctx, ln, cert.TLSConfig()) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		g.Close()
	}()
	type seen struct {
		status, proto int
		serial        int64
	}
	get := func() seen {
		t.Helper()
		transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		defer transport.CloseIdleConnections()
		req, _ := http.NewRequestWithContext(t.Context(), "GET", "https://"+ln.Addr().String()+"/v1/a", nil)
		req.Header.Set("Authorization", bearer(b.customerKey))
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		return seen{res.StatusCode, res.ProtoMajor, res.TLS.PeerCertificates[0].SerialNumber.Int64()}
	}
	if got := get(); got != (seen{200, 2, 1}) {
		t.Errorf("status, protocol and certificate are %v", got)
	}
	if got := b.upstream.last(t).Header.Get("X-Forwarded-Proto"); got != "https" {
		t.Errorf("X-Forwarded-Proto %q", got)
	}
	certificate(t, dir, 2)
	if err := cert.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := get().serial; got != 2 {
		t.Errorf("certificate %d after the reload", got)
	}
	if err := os.WriteFile(certFile, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cert.Reload(); err == nil {
		t.Error("rubbish was accepted")
	}
	if got := get().serial; got != 2 {
		t.Errorf("certificate %d after a bad reload", got)
	}
}

func TestMetricsCountWhatHappens(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.get("/v1/a", "Authorization", bearer(b.customerKey)).want(t, 200, "")
	b.get("/v1/a").want(t, 401, "")
	b.login(b.client(), customerEmail, "wrong password")
	families, err := b.gate.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, f := range families {
		for _, m := range f.GetMetric() {
			text += fmt.Sprintln(f.GetName(), m.String())
		}
	}
	for _, want := range []string{"gate_requests_total", `"unauthorized"`, "gate_request_duration_seconds", "gate_streams_open", `"refused"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
}
