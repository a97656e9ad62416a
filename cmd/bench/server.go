package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"millrace/gate"
)

// program builds a command of this module, once, and returns its path.
func (b *bed) program(ctx context.Context, name string) (string, error) {
	if b.dir == "" {
		var err error
		if b.dir, err = os.MkdirTemp("", "millrace-bench-*"); err != nil {
			return "", err
		}
	}
	path := filepath.Join(b.dir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "millrace/cmd/"+name).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build %s (run the bench inside Millrace's sources): %w: %s", name, err, out)
	}
	return path, nil
}

// process is a program that runs beside the bench. Its owner calls stop.
type process struct {
	name   string
	cmd    *exec.Cmd
	output tail
	ended  chan struct{}
	err    error // how it ended, once ended is closed
}

// startProcess runs a program with an environment that holds nothing that configures Millrace, the gate or Postgres but env.
func startProcess(ctx context.Context, path string, env []string, args ...string) (*process, error) {
	ctx = context.WithoutCancel(ctx) // its owner stops it
	p := &process{name: filepath.Base(path), cmd: exec.CommandContext(ctx, path, args...), ended: make(chan struct{})}
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MILLRACE_") && !strings.HasPrefix(e, "GATE_") && !strings.HasPrefix(e, "DATABASE_URL=") && !strings.HasPrefix(e, "PG") {
			p.cmd.Env = append(p.cmd.Env, e)
		}
	}
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks the process to end, and kills it if it has not after 20 s, which is an error.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not end when told to and was killed:\n%s", p.name, &p.output)
	}
	if p.err != nil {
		return fmt.Errorf("%s: %w:\n%s", p.name, p.err, &p.output)
	}
	return nil
}

// ready waits until a page answers 200.
func (p *process) ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if status, _, err := fetch(ctx, url); err == nil && status == http.StatusOK {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended at its start (%v):\n%s", p.name, p.cmd.ProcessState, &p.output)
		case <-ctx.Done():
			return fmt.Errorf("%s does not get ready: %w:\n%s", p.name, ctx.Err(), &p.output)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// fetch gets a page of this machine.
func fetch(ctx context.Context, url string) (int, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, nil, err
	}
	r.Close = true // one request is all
	resp, err := (&http.Client{Timeout: 10 * time.Minute}).Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	return resp.StatusCode, body, err
}

// tail keeps the end of what a process says.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// Write keeps the last of p.
func (t *tail) Write(p []byte) (int, error) {
	const kept = 16 << 10
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text = append(t.text, p...); len(t.text) > 2*kept {
		t.text = bytes.Clone(t.text[len(t.text)-kept:])
	}
	return len(p), nil
}

// String is what was kept.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// serveConfig says how to run a millrace serve.
type serveConfig struct {
	databaseURL string
	addr        string // "" for any
	jwksURL     string
	flags       []string
}

// server is a millrace serve.
type server struct {
	*process
	addr, ops string // host:port of the API, and of /readyz, /metrics and /debug/pprof/
}

// serve runs a millrace serve and waits until it is ready.
func (b *bed) serve(ctx context.Context, c serveConfig) (*server, error) {
	path, err := b.program(ctx, "millrace")
	if err != nil {
		return nil, err
	}
	s := &server{addr: c.addr}
	if s.addr == "" {
		if s.addr, err = freeAddress(ctx); err != nil {
			return nil, err
		}
	}
	if s.ops, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	args := append([]string{"serve", "--addr=" + s.addr, "--ops-addr=" + s.ops, "--pprof", "--jwks-url=" + c.jwksURL, "--log-level=error"}, c.flags...)
	if s.process, err = startProcess(ctx, path, []string{"DATABASE_URL=" + c.databaseURL}, args...); err != nil {
		return nil, err
	}
	if err := s.ready(ctx, "http://"+s.ops+"/readyz"); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// profile takes a CPU profile of the server for a time and writes it to a file.
func (s *server) profile(ctx context.Context, file string, d time.Duration) error {
	status, body, err := fetch(ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.ops, max(int(d.Seconds()), 1)))
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if status != http.StatusOK {
		return fmt.Errorf("profile: status %d: %s", status, body)
	}
	return os.WriteFile(file, body, 0o600)
}

// gateServer is a gate serve in front of an address.
type gateServer struct {
	*process
	addr string   // host:port
	keys []string // API keys, of a customer each
}

func (g *gateServer) jwksURL() string { return "http://" + g.addr + "/.well-known/jwks.json" }

// millraceReuse is for how long requests to Millrace share a token, as in the routes that it comes with.
const millraceReuse = 20 * time.Second

const gateRoutes = `
upstreams:
  millrace: {url: "http://%s"%s}
routes:
  - {path: /v1/, upstream: millrace, allow: [customer, operator], stream: true, max_body: 64KiB}
`

// gate runs a gate serve without limits on rates, with customers who have a key each, in front of upstream. Its tables are in
// databaseURL. Requests of a customer share an identity token for as long as reuse says, 0 for never.
func (b *bed) gate(ctx context.Context, databaseURL, upstream string, reuse time.Duration, customers int) (*gateServer, error) {
	path, err := b.program(ctx, "gate")
	if err != nil {
		return nil, err
	}
	g := &gateServer{}
	if g.keys, err = gateKeys(ctx, databaseURL, customers); err != nil {
		return nil, err
	}
	if g.addr, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	ops, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	sharing := ""
	if reuse > 0 {
		sharing = ", reuse_tokens: " + reuse.String()
	}
	routes := filepath.Join(b.dir, "routes.yaml")
	if err := os.WriteFile(routes, fmt.Appendf(nil, gateRoutes, upstream, sharing), 0o600); err != nil {
		return nil, err
	}
	g.process, err = startProcess(ctx, path, []string{"GATE_DATABASE_URL=" + databaseURL, "GATE_ADDRESS_RATE=0", "GATE_ACCOUNT_RATE=0", "GATE_MAX_CONNS_PER_ADDR=0",
		"GATE_LOG_LEVEL=ERROR", "GATE_SECRET_FILE=" + filepath.Join(b.dir, "gate.secret")}, "serve", "--addr="+g.addr, "--ops-addr="+ops, "--config="+routes, "--plain-cookies")
	if err != nil {
		return nil, err
	}
	if err := g.ready(ctx, "http://"+ops+"/readyz"); err != nil {
		return nil, errors.Join(err, g.stop())
	}
	return g, nil
}

// gateKeys makes customers at a gate's database, and a key for each.
func gateKeys(ctx context.Context, databaseURL string, customers int) ([]string, error) {
	if err := gate.Migrate(ctx, databaseURL); err != nil {
		return nil, err
	}
	users, err := gate.OpenStore(ctx, databaseURL)
	if err != nil {
		return nil, err
	}
	defer users.Close()
	keys := make([]string, customers)
	for i := range keys {
		email := fmt.Sprintf("customer-%d@example.com", i)
		keys[i] = gate.NewKeyToken()
		if _, err := users.EnsureUser(ctx, gate.NewUser{Email: email, Name: "Bench", Password: gate.NewKeyToken(), Roles: []string{"customer"}, Verified: true}); err != nil {
			return nil, err
		}
		if _, err := users.EnsureKey(ctx, gate.NewKey{Email: email, Name: "bench"}, keys[i]); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
