package gate

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"millrace/db/dbtest"
	"millrace/gate/identity"
)

func TestMain(m *testing.M) {
	if len(os.Args) == 2 {
		playHelper(os.Args[1])
	}
	dbtest.Main(m, dbtest.NoLeaks())
}

var migrated = dbtest.Template{Name: "gate", Version: SchemaVersion(), Migrate: Migrate}

const (
	customerEmail    = "ada@example.com"
	customerPassword = "correct horse battery"
	operatorEmail    = "ops@example.com"
	operatorPassword = "a different staple"
)

// bundle is a running gate on a real socket with an upstream that records what reaches it.
type bundle struct {
	testing.TB
	gate        *Gate
	databaseURL string
	addr        string
	url         string
	upstream    *recorder
	customerKey string
	operatorKey string
	logs        *syncBuffer
	stop        func() error
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// defaultRoutes has an open and two guarded parts; %s is the upstream's URL.
const defaultRoutes = `
upstreams:
  shop: {url: "%s", audience: shop}
routes:
  - {path: /open/, upstream: shop, allow: [public], stream: true}
  - {path: "/{$}", upstream: shop, allow: [public]}
  - {path: /v1/, upstream: shop, allow: [customer, operator], stream: true, max_body: 64KiB}
  - {path: /v1/products, methods: [GET], upstream: shop, allow: [public]}
  - {path: /admin/, upstream: shop, allow: [operator]}
  - {path: /scoped/, upstream: shop, allow: [customer], scopes: ["orders:read"]}
`

type option func(*Config)

func setup(t testing.TB, options ...option) *bundle {
	t.Helper()
	return setupRoutes(t, defaultRoutes, options...)
}

func setupRoutes(t testing.TB, routesYAML string, options ...option) *bundle {
	t.Helper()
	up := newRecorder(t)
	if strings.ContainsRune(routesYAML, 0x25) { // there is a place for the upstream
		routesYAML = fmt.Sprintf(routesYAML, up.server.URL)
	}
	b := &bundle{TB: t, upstream: up, databaseURL: dbtest.New(t, migrated), logs: &syncBuffer{}}
	b.start(routesYAML, options...)
	b.seed()
	return b
}

func (b *bundle) start(routesYAML string, options ...option) {
	b.Helper()
	routes, err := ParseRoutes([]byte(routesYAML))
	if err != nil {
		b.Fatalf("routes: %v", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.addr = ln.Addr().String()
	b.url = "http://" + b.addr
	cfg := Config{
		DatabaseURL: b.databaseURL, Routes: routes, Secret: bytes.Repeat([]byte{7}, SecretLen), PublicURL: b.url, PlainCookies: true,
		LoginRate: Rate{Requests: 10_000, Per: Duration(time.Second), Burst: 10_000}, DrainTimeout: 5 * time.Second,
		Logger: slog.New(slog.NewJSONHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, o := range options {
		o(&cfg)
	}
	g, err := New(b.Context(), cfg)
	if err != nil {
		ln.Close()
		b.Fatalf("New: %v", err)
	}
	// Cheap hashes: what they cost is not what most tests are about.
	g.store.hasher = newHasher(argonParams{memory: 64, time: 1, threads: 1})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, ln) }()
	b.gate = g
	var once sync.Once
	var stopErr error
	b.stop = func() error {
		once.Do(func() {
			cancel()
			stopErr = <-done
			g.Close()
		})
		return stopErr
	}
	b.Cleanup(func() {
		if err := b.stop(); err != nil {
			b.Errorf("Serve: %v", err)
		}
	})
}

func (b *bundle) seed() {
	b.Helper()
	ctx := b.Context()
	for _, u := range []NewUser{
		{Email: customerEmail, Name: "Ada", Password: customerPassword, Roles: []string{"customer"}, Verified: true},
		{Email: operatorEmail, Name: "Ops", Password: operatorPassword, Roles: []string{"operator"}, Verified: true},
	} {
		if _, err := b.gate.Store().EnsureUser(ctx, u); err != nil {
			b.Fatal(err)
		}
	}
	b.customerKey = b.newKey(NewKey{Email: customerEmail})
	b.operatorKey = b.newKey(NewKey{Email: operatorEmail})
}

func (b *bundle) newKey(n NewKey) string {
	b.Helper()
	_, token, err := b.gate.Store().CreateKey(b.Context(), n)
	if err != nil {
		b.Fatal(err)
	}
	return token
}

// client returns a browser-like client with a jar of its own that follows no redirect.
func (b *bundle) client() *http.Client {
	jar := newJar()
	transport := &http.Transport{}
	b.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Jar: jar, Transport: transport, Timeout: 20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type answer struct {
	*http.Response
	body string
}

// do sends a request; headers are name, value pairs.
func (b *bundle) do(c *http.Client, method, path string, body string, headers ...string) answer {
	b.Helper()
	req, err := http.NewRequestWithContext(b.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Add(headers[i], headers[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		b.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		b.Fatalf("%s %s: read the answer: %v", method, path, err)
	}
	return answer{res, string(text)}
}

func (b *bundle) get(path string, headers ...string) answer {
	b.Helper()
	return b.do(b.client(), http.MethodGet, path, "", headers...)
}

func bearer(key string) string { return "Bearer " + key }

// login logs a client in by the login form.
func (b *bundle) login(c *http.Client, email, password string, headers ...string) answer {
	b.Helper()
	form := url.Values{"email": {email}, "password": {password}}
	return b.post(c, "/auth/login", form, headers...)
}

func (b *bundle) post(c *http.Client, path string, form url.Values, headers ...string) answer {
	b.Helper()
	return b.do(c, http.MethodPost, path, form.Encode(), append([]string{"Content-Type", "application/x-www-form-urlencoded"}, headers...)...)
}

// loggedIn returns a client with a session.
func (b *bundle) loggedIn(email, password string) *http.Client {
	b.Helper()
	c := b.client()
	if res := b.login(c, email, password); res.StatusCode != http.StatusSeeOther {
		b.Fatalf("login: %d %s", res.StatusCode, res.body)
	}
	return c
}

func (a answer) want(t testing.TB, status int, code string) {
	t.Helper()
	if a.StatusCode != status || code != "" && !strings.Contains(a.body, `"code":"`+code+`"`) {
		t.Errorf("%s %s: got %d %s, want %d with code %q", a.Request.Method, a.Request.URL.Path, a.StatusCode, a.body, status, code)
	}
}

// recorder is an upstream that keeps what it saw and checks identities like a real one.
type recorder struct {
	server   *httptest.Server
	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
	handle   http.HandlerFunc
}

func newRecorder(t testing.TB) *recorder {
	t.Helper()
	r := &recorder{}
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		handle := r.handle
		r.mu.Unlock()
		if handle != nil {
			r.record(req, "")
			handle(w, req)
			return
		}
		body, _ := io.ReadAll(req.Body)
		r.record(req, string(body))
		fmt.Fprintf(w, "upstream %s %s", req.Method, req.URL.EscapedPath())
	}))
	t.Cleanup(r.server.Close)
	return r
}

func (r *recorder) record(req *http.Request, body string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, req)
	r.bodies = append(r.bodies, body)
}

func (r *recorder) serve(h http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handle = h
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.requests)
}

// last returns the request that came last.
func (r *recorder) last(t testing.TB) *http.Request {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.requests) == 0 {
		t.Fatal("nothing reached the upstream")
	}
	return r.requests[len(r.requests)-1]
}

// claims verifies the identity that came with the last request.
func (b *bundle) claims(audience string) identity.Claims {
	b.Helper()
	v, err := identity.NewVerifier(identity.Config{JWKSURL: b.url + jwksPath, Audience: audience, HTTPClient: b.client()})
	if err != nil {
		b.Fatal(err)
	}
	c, err := v.Verify(b.Context(), b.upstream.last(b).Header.Get(identity.Header))
	if err != nil {
		b.Fatalf("the upstream refuses the identity: %v", err)
	}
	return c
}

// raw sends bytes as they are and returns the status line and everything else that came back.
func (b *bundle) raw(request string) (statusLine, rest string) {
	b.Helper()
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(15 * time.Second)); err != nil {
		b.Fatal(err)
	}
	// The server may close before it read everything.
	_, _ = io.WriteString(conn, request)
	reader := bufio.NewReader(conn)
	statusLine, err = reader.ReadString('\n')
	if err != nil && statusLine == "" {
		return "", ""
	}
	all, _ := io.ReadAll(reader)
	return strings.TrimSpace(statusLine), string(all)
}

// jar keeps cookies by name alone, Secure or not, as a browser does for one site.
type jar struct {
	mu      sync.Mutex
	cookies map[string]*http.Cookie
}

func newJar() *jar { return &jar{cookies: map[string]*http.Cookie{}} }

func (j *jar) SetCookies(_ *url.URL, cookies []*http.Cookie) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range cookies {
		if c.MaxAge < 0 {
			delete(j.cookies, c.Name)
			continue
		}
		j.cookies[c.Name] = c
	}
}

func (j *jar) Cookies(*url.URL) (out []*http.Cookie) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, c := range j.cookies {
		out = append(out, &http.Cookie{Name: c.Name, Value: c.Value})
	}
	return out
}

// testContext is a context that outlives the test's own, for servers that drain when it ends.
func testContext(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	t.Cleanup(cancel)
	return ctx, cancel
}
