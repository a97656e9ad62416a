package gate

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestAttackOversizedHeaders(t *testing.T) {
	t.Parallel()
	b := setup(t)
	status, _ := b.raw("GET /open/a HTTP/1.1\r\nHost: x\r\nX-Big: " + strings.Repeat("a", 64<<10) + "\r\n\r\n")
	if !strings.Contains(status, "431") {
		t.Errorf("one big header: %q", status)
	}
	var many strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&many, "X-%d: aaaaaaaa\r\n", i)
	}
	if status, _ := b.raw("GET /open/a HTTP/1.1\r\nHost: x\r\n" + many.String() + "\r\n"); !strings.Contains(status, "431") {
		t.Errorf("many headers: %q", status)
	}
	if b.upstream.count() != 0 {
		t.Error("it reached the upstream")
	}
}

// untilClosed sends bytes and returns all that comes back until the gate closes the connection; an error says that it did not in time.
func (b *bundle) untilClosed(sent string, limit time.Duration) (string, error) {
	b.Helper()
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, sent)
	_ = conn.SetReadDeadline(time.Now().Add(limit))
	text, err := io.ReadAll(conn)
	return string(text), err
}

func TestAttackSlowloris(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.HeaderTimeout, c.IdleTimeout = 300*time.Millisecond, 300*time.Millisecond })
	for name, start := range map[string]string{"half a header": "GET /open/a HTTP/1.1\r\nHost: x\r\nX-Slow: ", "nothing at all": "", "idle after a request": "GET /open/a HTTP/1.1\r\nHost: x\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := b.untilClosed(start, 10*time.Second); err != nil {
				t.Errorf("the connection was kept: %v", err)
			}
		})
	}
	for name, length := range map[string]int{"a small body that drips": 100, "a large body that drips": 100 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slow := setupRoutes(t, `
routes:
  - {path: /, upstream: "%s", allow: [public], timeout: 400ms}
`)
			text, err := slow.untilClosed(fmt.Sprintf("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\nab", length), 10*time.Second)
			if err != nil || !strings.HasPrefix(text, "HTTP/1.1 408") || !strings.Contains(text, "body_too_slow") {
				t.Errorf("%s %v", text, err)
			}
		})
	}
}

// A refused request whose body never comes holds neither its connection nor the end of the process.
func TestAttackBodiesThatNeverCome(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, tc := range map[string]struct{ request, status string }{
		"no route":        {"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", "404"},
		"no credential":   {"POST /v1/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\nab", "401"},
		"in chunks":       {"POST /v1/orders HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "401"},
		"a bad path":      {"POST /a/../b HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", "400"},
		"too large":       {"POST /open/a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n", "413"},
		"from elsewhere":  {"POST /auth/login HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\nContent-Length: 60000\r\n\r\n", "403"},
		"of an own page":  {"POST /auth/nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\n", "404"},
		"of a login":      {"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 60\r\n\r\nab", "408"},
		"and it is small": {"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n", "404"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text, err := b.untilClosed(tc.request, 20*time.Second)
			if err != nil || !strings.HasPrefix(text, "HTTP/1.1 "+tc.status) {
				t.Errorf("%s %v", text, err)
			}
		})
	}
}

func TestAttackManyIdleConnections(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.MaxConnsPerAddress, c.MaxConns = 5, 8 })
	// The whole of 127/8 is ours: other clients come from other addresses of it.
	dial := func(from string) (net.Conn, bool) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := d.Dial("tcp", b.addr)
		if err != nil {
			return nil, false
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := io.WriteString(conn, "GET /open/a HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return conn, false
		}
		n, _ := conn.Read(make([]byte, 4096))
		return conn, n > 0
	}
	var first net.Conn
	for i := range 5 {
		conn, ok := dial("127.0.0.1")
		if !ok {
			t.Fatalf("connection %d was refused", i+1)
		}
		first = conn
	}
	if _, ok := dial("127.0.0.1"); ok {
		t.Error("a sixth connection from one address was served")
	}
	for i := range 3 {
		if _, ok := dial("127.0.0.2"); !ok {
			t.Errorf("connection %d from another address was refused", i+1)
		}
	}
	if _, ok := dial("127.0.0.3"); ok {
		t.Error("a ninth connection was served")
	}
	first.Close()
	deadline := time.Now().Add(5 * time.Second)
	for {
		if _, ok := dial("127.0.0.3"); ok {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a place that became free was not given away")
		}
	}
}

func TestAttackBodiesOverTheLimit(t *testing.T) {
	t.Parallel()
	b := setup(t)
	big := strings.Repeat("x", 64<<10+1)
	auth := []string{"Authorization", bearer(b.customerKey)}
	b.do(b.client(), "POST", "/v1/a", big, auth...).want(t, 413, "body_too_large")
	if b.upstream.count() != 0 {
		t.Error("it reached the upstream")
	}
	chunked := fmt.Sprintf("POST /v1/a HTTP/1.1\r\nHost: %s\r\nConnection: close\r\nAuthorization: Bearer %s\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", b.addr, b.customerKey, len(big), big)
	if status, rest := b.raw(chunked); !strings.Contains(status, "413") {
		t.Errorf("chunked: %s %s", status, rest)
	}
	b.do(b.client(), "POST", "/v1/a", big[1:], auth...).want(t, 200, "")
}
