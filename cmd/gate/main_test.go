package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"millrace/db/dbtest"
	"millrace/gate"
)

// TestMain runs the tests, or what a gate under test starts beside itself: this very program.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "hash-passwords" {
		main()
		return
	}
	dbtest.Main(m, dbtest.NoLeaks())
}

var (
	migrated = dbtest.Template{Name: "gate", Version: gate.SchemaVersion(), Migrate: gate.Migrate}
	empty    = dbtest.Template{Name: "empty", Version: "1", Migrate: func(context.Context, string) error { return nil }}
)

// command runs the program with what it reads, and returns what it printed.
func command(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	var out, errOut bytes.Buffer
	err := run(t.Context(), strings.NewReader(stdin), &out, &errOut, args...)
	return out.String(), err
}

func must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := command(t, stdin, args...)
	if err != nil {
		t.Fatalf("gate %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(out)
}

func TestMigrateUserKeyAndServe(t *testing.T) { //nolint:paralleltest // it sends SIGHUP to its own process
	url := dbtest.New(t, empty)
	db := "--database-url=" + url
	if _, err := command(t, "", "user", "add", db, "ada@example.com"); err == nil || !strings.Contains(err.Error(), "gate migrate") {
		t.Errorf("before migrate: %v", err)
	}
	must(t, "", "migrate", db)
	must(t, "", "migrate", db)
	must(t, "correct horse battery\n", "user", "add", db, "ada@example.com", "--role=customer", "--name=Ada", "--password-stdin", "--verified")
	if _, err := command(t, "", "user", "add", db, "ADA@example.com"); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("the same user again: %v", err)
	}
	key := must(t, "", "key", "create", db, "ada@example.com", "--name=test", "--expires=1h")
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }))
	defer upstream.Close()
	config := writeFile(t, "gate.yaml", "routes:\n- path: /a/\n  upstream: "+upstream.URL+"\n  allow: [customer]\n")
	s := startServe(t, db, "--config="+config)
	s.expect(t, "/a/x", key, 200)
	s.expect(t, "/b/x", key, 404)
	s.expect(t, "/a/x", "", 401)

	t.Run("SIGHUP reads the routes again", func(t *testing.T) {
		if err := os.WriteFile(config, []byte("routes:\n- path: /b/\n  upstream: "+upstream.URL+"\n  allow: [customer]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.hangup(t, "routes reloaded")
		s.expect(t, "/b/x", key, 200)
		s.expect(t, "/a/x", key, 404)
	})
	t.Run("SIGHUP with a faulty file changes nothing", func(t *testing.T) {
		if err := os.WriteFile(config, []byte("routes: ["), 0o600); err != nil {
			t.Fatal(err)
		}
		s.hangup(t, "keeping the old routes")
		s.expect(t, "/b/x", key, 200)
	})
	t.Run("passwords are hashed beside the gate", func(t *testing.T) {
		res, err := http.DefaultTransport.RoundTrip(loginRequest(t, s.addr, "ada@example.com", "correct horse battery"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusSeeOther {
			t.Errorf("login: status %d", res.StatusCode)
		}
		if body := fetch(t, "http://"+s.ops+"/metrics", "", 200); !strings.Contains(body, "gate_hash_helper_failures_total 0") {
			t.Errorf("a helper failed: %s", body)
		}
		if runtime.GOOS == "linux" && helpersOf(t) != 1 {
			t.Errorf("%d helpers", helpersOf(t))
		}
	})
	t.Run("health and metrics", func(t *testing.T) {
		for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ready", "/metrics": `gate_requests_total{code="unauthorized"`} {
			if body := fetch(t, "http://"+s.ops+path, "", 200); !strings.Contains(body, want) {
				t.Errorf("%s: %s", path, body)
			}
		}
	})
	t.Run("a revoked key stops working in the running gate", func(t *testing.T) {
		must(t, "", "key", "revoke", db, key[3:19])
		s.eventually(t, key, 401)
	})
	t.Run("roles and disabling reach the running gate", func(t *testing.T) {
		second := must(t, "", "key", "create", db, "ada@example.com")
		s.expect(t, "/b/x", second, 200)
		must(t, "", "user", "role", db, "ada@example.com", "operator")
		s.eventually(t, second, 403)
		must(t, "", "user", "role", db, "ada@example.com", "operator", "customer")
		s.eventually(t, second, 200)
		must(t, "", "user", "disable", db, "ada@example.com")
		s.eventually(t, second, 401)
		must(t, "", "user", "enable", db, "ada@example.com")
		s.eventually(t, second, 200)
		if out := must(t, "", "key", "list", db, "ada@example.com"); strings.Count(out, "\n") != 1 || strings.Contains(out, second) {
			t.Errorf("keys: %s", out)
		}
	})
	t.Run("the audit log has it all", func(t *testing.T) {
		out := must(t, "", "audit", db, "ada@example.com")
		for _, want := range []string{"add_user", "create_key", "set_roles", "disable_user", "enable_user", "by command line"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %s in\n%s", want, out)
			}
		}
	})
	s.stop(t)
	if runtime.GOOS == "linux" && helpersOf(t) != 0 {
		t.Error("a helper outlived its gate")
	}
}

func loginRequest(t *testing.T, addr, email, password string) *http.Request {
	t.Helper()
	form := url.Values{"email": {email}, "password": {password}}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+addr+"/auth/login", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Close = true
	return r
}

// helpersOf counts the processes that hash passwords for this one.
func helpersOf(t *testing.T) (n int) {
	t.Helper()
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range lists {
		pids, _ := os.ReadFile(list) // a thread may have ended
		for pid := range strings.FieldsSeq(string(pids)) {
			if line, _ := os.ReadFile("/proc/" + pid + "/cmdline"); strings.HasSuffix(string(line), "\x00hash-passwords\x00") {
				n++
			}
		}
	}
	return n
}

func TestBadUseIsExplained(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t, migrated)
	db := "--database-url=" + url
	good := writeFile(t, "good.yaml", "routes:\n- {path: /, upstream: 'http://127.0.0.1:1', allow: [public]}\n")
	bad := writeFile(t, "bad.yaml", "routes:\n- {path: /, upstream: 'http://127.0.0.1:1'}\n- {path: x, upstream: y, allow: [public]}\n")
	secret := "--secret=" + base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, tc := range []struct {
		name string
		args []string
		want []string
	}{
		{"no command", nil, []string{"expected one of"}},
		{"unknown flag", []string{"serve", "--fast"}, []string{"unknown flag --fast"}},
		{"no database", []string{"migrate"}, []string{"--database-url"}},
		{"unreachable database", []string{"migrate", "--database-url=postgres://x@127.0.0.1:1/x"}, []string{"migrate"}},
		{"faulty routes", []string{"check", "--config=" + bad}, []string{"route 1 (/): allow must list", "route 2 (x)", "neither listed"}},
		{"missing routes", []string{"check", "--config=/does/not/exist"}, []string{"read the routes file"}},
		{"no secret", []string{"serve", db, "--config=" + good}, []string{"GATE_SECRET"}},
		{"short secret", []string{"serve", db, "--config=" + good, "--secret=abc"}, []string{"32 random bytes"}},
		{"public URL needed", []string{"serve", db, "--config=" + good, secret, "--addr=0.0.0.0:0"}, []string{"GATE_PUBLIC_URL"}},
		{"plain cookies on the net", []string{"serve", db, "--config=" + good, secret, "--public-url=https://shop.example.com", "--plain-cookies"}, []string{"loopback"}},
		{"certificate without key", []string{"serve", db, "--config=" + good, secret, "--tls-cert=x"}, []string{"--tls-key"}},
		{"mail without a sender", []string{"serve", db, "--config=" + good, secret, "--mail-host=localhost"}, []string{"sender"}},
		{"forward-auth for nobody", []string{"serve", db, "--config=" + good, secret, "--forward-auth"}, []string{"trusted proxies"}},
		{"proxy that is no network", []string{"serve", db, "--config=" + good, secret, "--trusted-proxies=10.0.0.1"}, []string{"10.0.0.0/8"}},
		{"bad address", []string{"user", "add", db, "nobody"}, []string{"name@example.com"}},
		{"bad role", []string{"user", "add", db, "a@example.com", "--role=Big Boss"}, []string{"is not a role"}},
		{"short password", []string{"user", "add", db, "a@example.com", "--password-stdin"}, []string{"at least 10"}},
		{"no such user", []string{"key", "create", db, "a@example.com"}, []string{"user: not found"}},
		{"no such key", []string{"key", "revoke", db, "abc"}, []string{"not found"}},
		{"roles forgotten", []string{"user", "role", db, "a@example.com"}, []string{"--none"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := command(t, "short\n", tc.args...)
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want it to say %q", err, want)
				}
			}
		})
	}
	if out := must(t, "", "routes", "--config="+good); out != "/ any method -> http://127.0.0.1:1 (public)" {
		t.Errorf("routes: %q", out)
	}
	must(t, "", "check", "--config="+good)
	if out := must(t, "", "serve", "--help"); !strings.Contains(out, "GATE_SESSION_IDLE") || !strings.Contains(out, "12h") {
		t.Errorf("help: %s", out)
	}
}

// server is a `gate serve` that runs in this process.
type server struct {
	addr, ops string
	logs      *logWatch
	cancel    context.CancelFunc
	done      chan error
}

func startServe(t *testing.T, args ...string) *server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w := &logWatch{wake: make(chan struct{}, 1)}
	s := &server{logs: w, cancel: cancel, done: make(chan error, 1), ops: freeAddr(t)}
	args = append([]string{"serve", "--addr=127.0.0.1:0", "--public-url=http://127.0.0.1", "--plain-cookies", "--ops-addr=" + s.ops,
		"--secret-file=" + filepath.Join(t.TempDir(), "secret")}, args...)
	go func() {
		err := run(ctx, strings.NewReader(""), io.Discard, w, args...)
		s.done <- err
	}()
	t.Cleanup(cancel)
	var line struct{ Addr string }
	if err := json.Unmarshal([]byte(s.await(t, "gate is listening")), &line); err != nil {
		t.Fatal(err)
	}
	s.addr = line.Addr
	for { // it serves before it hears of revocations, and says that it is ready once it does
		if status, _ := try(t, "http://"+s.ops+"/readyz", ""); status == http.StatusOK {
			return s
		}
		select {
		case err := <-s.done:
			t.Fatalf("serve ended: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// await waits for the next line of the log with text.
func (s *server) await(t *testing.T, text string) string {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		if line, ok := s.logs.find(text); ok {
			return line
		}
		select {
		case <-s.logs.wake:
		case err := <-s.done:
			s.done <- err
			if line, ok := s.logs.find(text); ok {
				return line
			}
			t.Fatalf("serve ended (%v) without logging %q", err, text)
		case <-deadline:
			t.Fatalf("20 s without logging %q", text)
		}
	}
}

// logWatch keeps what the program logs.
type logWatch struct {
	mu   sync.Mutex
	text string
	wake chan struct{}
}

func (l *logWatch) Write(p []byte) (int, error) {
	l.mu.Lock()
	l.text += string(p)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return len(p), nil
}

// find returns the first line with text and forgets what came before its end.
func (l *logWatch) find(text string) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.text
	for rest != "" {
		line, after, _ := strings.Cut(rest, "\n")
		if strings.Contains(line, text) {
			l.text = after
			return line, true
		}
		rest = after
	}
	return "", false
}

// freeAddr returns an address that was free a moment ago.
func freeAddr(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func (s *server) hangup(t *testing.T, text string) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.await(t, text)
}

func (s *server) stop(t *testing.T) {
	t.Helper()
	s.cancel()
	s.await(t, "drained")
	if err := <-s.done; err != nil {
		t.Errorf("serve: %v", err)
	}
}

func (s *server) expect(t *testing.T, path, key string, status int) {
	t.Helper()
	fetch(t, "http://"+s.addr+path, key, status)
}

func (s *server) eventually(t *testing.T, key string, status int) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		got, _ := try(t, "http://"+s.addr+"/b/x", key)
		if got == status {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %d, want %d", got, status)
		}
	}
}

func fetch(t *testing.T, url, key string, status int) string {
	t.Helper()
	got, body := try(t, url, key)
	if got != status {
		t.Errorf("%s: %d %s, want %d", url, got, body, status)
	}
	return body
}

func try(t *testing.T, url, key string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
