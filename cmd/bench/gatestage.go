package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/gate"
)

// gateStage is what a gate is measured between: users who log in, an upstream, and bare proxies to hold it against, which are processes
// of their own.
type gateStage struct {
	databaseURL  string
	upstream     *neighbour
	bare, pooled *neighbour   // proxies, the second with a pool of buffers, as the gate has
	emails       []string     // of users whose password is stagePassword
	from         atomic.Int64 // addresses that logins came from so far
}

const stagePassword = "correct horse battery staple"

// neighbour is a besideCmd.
type neighbour struct {
	*process
	addr string // host:port
}

// newGateStage starts a stage with so many users.
func newGateStage(ctx context.Context, b *bed, users int) (s *gateStage, err error) {
	s = &gateStage{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.databaseURL, err = b.database(ctx, 1); err != nil {
		return s, err
	}
	if err := s.addUsers(ctx, users); err != nil {
		return s, err
	}
	if s.upstream, err = b.beside(ctx); err != nil {
		return s, err
	}
	if s.bare, err = b.beside(ctx, "--forward="+s.upstream.addr); err != nil {
		return s, err
	}
	s.pooled, err = b.beside(ctx, "--forward="+s.upstream.addr, "--pool")
	return s, err
}

func (s *gateStage) close() (err error) {
	for _, n := range []*neighbour{s.pooled, s.bare, s.upstream} {
		if n != nil {
			err = errors.Join(err, n.stop())
		}
	}
	return err
}

func (s *gateStage) addUsers(ctx context.Context, n int) error {
	if err := gate.Migrate(ctx, s.databaseURL); err != nil {
		return err
	}
	store, err := gate.OpenStore(ctx, s.databaseURL)
	if err != nil {
		return err
	}
	defer store.Close()
	for i := range n {
		email := fmt.Sprintf("login-%d@example.com", i)
		if _, err := store.AddUser(ctx, gate.NewUser{Email: email, Name: "Bench", Password: stagePassword, Roles: []string{"customer"}, Verified: true}); err != nil {
			return err
		}
		s.emails = append(s.emails, email)
	}
	return nil
}

// cached is how many keys, and how many sessions, requests are made with.
const cached = 16

// withGate runs a gate that has served nothing yet for as long as f takes. Identity tokens are shared by requests for as long as reuse
// says; 0: each request has its own, as is the default.
func (s *gateStage) withGate(ctx context.Context, b *bed, reuse time.Duration, f func(*gateServer) error) error {
	g, err := b.gate(ctx, s.databaseURL, s.upstream.addr, reuse, cached)
	if err != nil {
		return err
	}
	return errors.Join(f(g), g.stop())
}

// streams are idle streams through the gate.
func (g *gateServer) streams(n int) watch {
	// The gate drops identities that clients claim to have; what lets them in is the key, in the header after it.
	token := func(i int) string { return "none\r\nAuthorization: Bearer " + g.keys[i%len(g.keys)] }
	return watch{addr: g.addr, streams: n, path: func(int) string { return idlePath }, token: token, got: func(int, []byte) {}}
}

// logIn returns cookies of sessions.
func (s *gateStage) logIn(ctx context.Context, g *gateServer) ([]string, error) {
	cookies := make([]string, min(cached, len(s.emails)))
	for i := range cookies {
		status, cookie, err := s.login(ctx, g, s.emails[i], stagePassword)
		if err != nil {
			return nil, err
		}
		if cookies[i] = cookie; cookie == "" {
			return nil, fmt.Errorf("no session for the right password: status %d", status)
		}
	}
	return cookies, nil
}

// login sends a password from an address of this machine that none was sent from before, so that limits by address play no part. The
// cookie is "" unless it was the right one.
func (s *gateStage) login(ctx context.Context, g *gateServer, email, password string) (status int, cookie string, err error) {
	n := s.from.Add(1)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, byte(1+n>>16), byte(n>>8), byte(n))}}
	transport := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}
	form := url.Values{"email": {email}, "password": {password}}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+g.addr+"/auth/login", strings.NewReader(form.Encode()))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusSeeOther && len(resp.Cookies()) > 0 {
		cookie = resp.Cookies()[0].Name + "=" + resp.Cookies()[0].Value
	}
	return resp.StatusCode, cookie, nil
}

// logins is what became of a storm of them.
type logins struct {
	took              time.Duration
	in, refused, busy int64 // right and wrong passwords, and those that were not checked since too many waited
}

// storm has every user log in again and again for a time, one attempt of each under way at any moment, every other one with a wrong
// password. Since a success clears an account's failures, none gets locked.
func (s *gateStage) storm(ctx context.Context, g *gateServer, d time.Duration) (logins, error) {
	begun := time.Now()
	errs := make([]error, len(s.emails))
	var in, refused, busy atomic.Int64
	var wg sync.WaitGroup
	for i, email := range s.emails {
		wg.Go(func() {
			for n := i; time.Since(begun) < d && errs[i] == nil; n++ {
				password, count, want := stagePassword, &in, http.StatusSeeOther
				if n%2 == 1 {
					password, count, want = "wrong "+stagePassword, &refused, http.StatusUnauthorized
				}
				status, _, err := s.login(ctx, g, email, password)
				switch {
				case err != nil:
					errs[i] = fmt.Errorf("log in: %w", err)
				case status == want:
					count.Add(1)
				case status == http.StatusServiceUnavailable:
					busy.Add(1)
				default:
					errs[i] = fmt.Errorf("a login that should get %d got %d", want, status)
				}
			}
		})
	}
	wg.Wait()
	return logins{time.Since(begun), in.Load(), refused.Load(), busy.Load()}, errors.Join(errs...)
}

// beside starts a besideCmd and waits until it answers.
func (b *bed) beside(ctx context.Context, flags ...string) (*neighbour, error) {
	program, err := b.program(ctx, "bench")
	if err != nil {
		return nil, err
	}
	n := &neighbour{}
	if n.addr, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	if n.process, err = startProcess(ctx, program, nil, append([]string{"beside", "--addr=" + n.addr}, flags...)...); err != nil {
		return nil, err
	}
	if err := n.ready(ctx, "http://"+n.addr+pagePath); err != nil {
		return nil, errors.Join(err, n.stop())
	}
	return n, nil
}

// besideCmd is a process beside a gate that is measured: its upstream, or a bare proxy in front of that.
type besideCmd struct {
	Addr    string `required:""`
	Forward string // host:port; "": be the upstream
	Pool    bool   // use the buffers of bodies again
}

// What the upstream serves: a page of pageSize bytes, also to who posts postSize bytes first, and streams of nothing but heartbeats.
const (
	pagePath  = "/v1/page"
	idlePath  = "/v1/idle"
	pageSize  = 1024
	postSize  = 300
	heartbeat = 10 * time.Second
)

// Run serves until it is told to end.
func (c *besideCmd) Run(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Addr)
	if err != nil {
		return err
	}
	handler := upstreamPages()
	if c.Forward != "" {
		target := &url.URL{Scheme: "http", Host: c.Forward}
		proxy := &httputil.ReverseProxy{
			Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
			Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}, // Go's default keeps only two connections
		}
		if c.Pool {
			proxy.BufferPool = &bodyBuffers{sync.Pool{New: func() any { return new([32 << 10]byte) }}}
		}
		handler = proxy
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case <-ctx.Done():
		if err := errors.Join(server.Close(), <-ended); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	case err := <-ended:
		return err
	}
}

// bodyBuffers lends buffers to a proxy.
type bodyBuffers struct{ pool sync.Pool }

// Get is called by the proxy.
func (p *bodyBuffers) Get() []byte { return p.pool.Get().(*[32 << 10]byte)[:] }

// Put is called by the proxy.
func (p *bodyBuffers) Put(b []byte) { p.pool.Put((*[32 << 10]byte)(b)) }

func upstreamPages() http.Handler {
	page := []byte(`{"text":"` + strings.Repeat("a", pageSize-len(`{"text":""}`)) + `"}`)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pagePath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(page) // a client that went away misses nothing
	})
	mux.HandleFunc("POST "+pagePath, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, postSize+1))
		if err != nil || len(body) != postSize {
			http.Error(w, "not the body that was sent", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(page) // likewise
	})
	mux.HandleFunc("GET "+idlePath, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		beat := time.NewTimer(rand.N(heartbeat)) //nolint:gosec // those opened together do not beat together
		defer beat.Stop()
		for {
			if _, err := w.Write([]byte(":\n\n")); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-beat.C:
				beat.Reset(heartbeat)
			}
		}
	})
	return mux
}
