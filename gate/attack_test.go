package gate

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/gate/identity"
)

// spellings of a header that some server takes for the same.
func spellings(name string) []string {
	return []string{
		name, strings.ToLower(name), strings.ToUpper(name), strings.ReplaceAll(name, "-", "_"), strings.ToLower(strings.ReplaceAll(name, "-", "_")),
		strings.ReplaceAll(name, "-", "."), strings.Replace(name, "-", "_", 1), strings.ReplaceAll(name, "-", "~"),
	}
}

func TestAttackHeaderSpoofingInAllSpellings(t *testing.T) {
	t.Parallel()
	b := setup(t)
	names := []string{
		"Gate-Identity", "Gate-Anything", "X-Gate-User", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-User", "X-Forwarded-Prefix", "X-Real-Ip",
		"X-Request-Id", "Remote-User", "X-Remote-User", "X-Auth-Request-Email", "X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "True-Client-Ip", "Proxy-Authorization",
	}
	for _, path := range []string{"/open/a", "/v1/a"} {
		var spoofed strings.Builder
		for _, name := range names {
			for _, s := range spellings(name) {
				fmt.Fprintf(&spoofed, "%s: spoofed\r\n", s)
			}
		}
		spoofed.WriteString("Forwarded: for=spoofed\r\nforwarded: for=spoofed\r\nFORWARDED: for=spoofed\r\n")
		status, rest := b.raw("GET " + path + " HTTP/1.1\r\nHost: " + b.addr + "\r\nConnection: close\r\nAuthorization: Bearer " + b.customerKey + "\r\n" + spoofed.String() + "\r\n")
		if status != "HTTP/1.1 200 OK" {
			t.Fatalf("%s %s", status, rest)
		}
		for name, values := range b.upstream.last(t).Header {
			if strings.Contains(strings.Join(values, " "), "spoofed") {
				t.Errorf("%s: %v reached the upstream", name, values)
			}
		}
		if c := b.claims("shop"); c.Email != customerEmail {
			t.Errorf("claims %+v", c)
		}
		if got := b.upstream.last(t).Header["X-Forwarded-For"]; !slices.Equal(got, []string{"127.0.0.1"}) {
			t.Errorf("X-Forwarded-For %v", got)
		}
	}
}

func TestAttackConnectionHeaderNamesOurs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, value := range []string{"Gate-Identity", "close, Gate-Identity, X-Forwarded-For", "gate-identity"} {
		status, rest := b.raw("GET /v1/a HTTP/1.1\r\nHost: " + b.addr + "\r\nConnection: " + value + "\r\nConnection: close\r\nAuthorization: Bearer " + b.customerKey + "\r\n\r\n")
		if status != "HTTP/1.1 200 OK" {
			t.Fatalf("%s %s", status, rest)
		}
		if c := b.claims("shop"); c.Email != customerEmail {
			t.Errorf("claims %+v", c)
		}
		if got := b.upstream.last(t).Header.Get("X-Forwarded-For"); got != "127.0.0.1" {
			t.Errorf("X-Forwarded-For %q", got)
		}
	}
}

func TestAttackTrailersCarryAnIdentity(t *testing.T) {
	t.Parallel()
	b := setup(t)
	status, rest := b.raw("POST /open/a HTTP/1.1\r\nHost: " + b.addr + "\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: Gate-Identity\r\n\r\n" +
		"2\r\nhi\r\n0\r\nGate-Identity: spoofed\r\n\r\n")
	if status != "HTTP/1.1 200 OK" {
		t.Fatalf("%s %s", status, rest)
	}
	seen := b.upstream.last(t)
	if len(seen.Trailer) > 0 || seen.Header.Get(identity.Header) != "" {
		t.Errorf("trailer %v, header %v", seen.Trailer, seen.Header)
	}
}

func TestAttackForgedForwardingIsBelievedFromTrustedProxiesAlone(t *testing.T) {
	t.Parallel()
	forged := []string{"X-Forwarded-For", "203.0.113.9, 198.51.100.7, 127.0.0.1", "X-Forwarded-Proto", "https"}
	b := setup(t)
	b.get("/open/a", forged...).want(t, 200, "")
	if h := b.upstream.last(t).Header; h.Get("X-Forwarded-For") != "127.0.0.1" || h.Get("X-Forwarded-Proto") != "http" {
		t.Errorf("believed: %v", h)
	}
	trusting := setup(t, func(c *Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	trusting.get("/open/a", forged...).want(t, 200, "")
	// The last address that no trusted proxy stands behind; what the client wrote before it is not believed.
	if h := trusting.upstream.last(t).Header; h.Get("X-Forwarded-For") != "198.51.100.7" || h.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("not believed: %v", h)
	}
	trusting.get("/open/a", "X-Forwarded-For", "junk, 198.51.100.7").want(t, 200, "")
	if h := trusting.upstream.last(t).Header; h.Get("X-Forwarded-For") != "198.51.100.7" {
		t.Errorf("%v", h)
	}
}

func TestAttackKeyAndCookieTogether(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.loggedIn(customerEmail, customerPassword)
	b.do(c, "GET", "/v1/a", "", "Authorization", bearer(b.operatorKey)).want(t, 400, "ambiguous_credentials")
	b.do(c, "GET", "/open/a", "", "Authorization", bearer(b.operatorKey)).want(t, 400, "ambiguous_credentials")
	b.get("/v1/a", "Authorization", bearer(b.customerKey), "Authorization", bearer(b.operatorKey)).want(t, 401, "bad_credential")
}

func TestAttackCookieTossing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	attacker := b.loggedIn(operatorEmail, operatorPassword).Jar.Cookies(nil)[0]
	victim := b.loggedIn(customerEmail, customerPassword).Jar.Cookies(nil)[0]
	both := attacker.Name + "=" + attacker.Value + "; " + victim.Name + "=" + victim.Value
	b.get("/v1/a", "Cookie", both).want(t, 400, "ambiguous_credentials")
	b.get("/v1/a", "Cookie", victim.Name+"="+victim.Value, "Cookie", attacker.Name+"="+attacker.Value).want(t, 400, "ambiguous_credentials")
	b.get("/auth/account", "Cookie", both).want(t, 400, "ambiguous_credentials")
	b.do(b.client(), "POST", "/auth/login", "", "Cookie", both).want(t, 401, "")
	secure := setup(t, func(c *Config) { c.PlainCookies = false })
	// A subdomain can set a cookie without the prefix, but not one with it.
	session := secure.login(secure.client(), customerEmail, customerPassword).Cookies()[0]
	secure.get("/v1/a", "Cookie", "gate_session="+session.Value).want(t, 401, "unauthorized")
	secure.get("/v1/a", "Cookie", session.Name+"="+session.Value).want(t, 200, "")
}

func TestAttackSessionFixation(t *testing.T) {
	t.Parallel()
	b := setup(t)
	t.Run("a session from before the login dies with it", func(t *testing.T) {
		attacker := b.loggedIn(operatorEmail, operatorPassword)
		planted := attacker.Jar.Cookies(nil)[0]
		victim := b.client()
		victim.Jar.SetCookies(nil, []*http.Cookie{planted})
		b.login(victim, customerEmail, customerPassword).want(t, 303, "")
		if got := victim.Jar.Cookies(nil)[0]; got.Value == planted.Value {
			t.Error("the session kept its id")
		}
		b.do(attacker, "GET", "/v1/a", "").want(t, 401, "bad_credential")
	})
	t.Run("a made-up session is not adopted", func(t *testing.T) {
		victim := b.client()
		victim.Jar.SetCookies(nil, []*http.Cookie{{Name: "gate_session", Value: strings.Repeat("A", sessionTokenLen)}})
		b.login(victim, customerEmail, customerPassword).want(t, 303, "")
		if got := victim.Jar.Cookies(nil)[0]; strings.HasPrefix(got.Value, "AAAA") {
			t.Error("the made-up session was adopted")
		}
	})
	t.Run("an upstream cannot set the gate's cookies", func(t *testing.T) {
		b.upstream.serve(func(w http.ResponseWriter, _ *http.Request) {
			for _, name := range []string{"gate_session", "GATE_SESSION", "__Host-gate_session", "__Secure-gate_session", "gate_oidc", " gate_session"} {
				w.Header().Add("Set-Cookie", name+"=planted; Path=/")
			}
			w.Header().Add("Set-Cookie", "theme=dark")
		})
		defer b.upstream.serve(nil)
		res := b.get("/open/a")
		if got := res.Header["Set-Cookie"]; !slices.Equal(got, []string{"theme=dark"}) {
			t.Errorf("set: %q", got)
		}
	})
}

func TestAttackCSRF(t *testing.T) {
	t.Parallel()
	b := setup(t)
	own := "http://" + b.addr
	for _, tc := range []struct {
		name    string
		headers []string
		allowed bool
	}{
		{"same origin", []string{"Sec-Fetch-Site", "same-origin", "Origin", own}, true},
		{"same origin, old browser", []string{"Origin", own}, true},
		{"no browser", nil, true},
		{"cross-site", []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, false},
		{"cross-site without an origin", []string{"Sec-Fetch-Site", "cross-site"}, false},
		{"same site, another host", []string{"Sec-Fetch-Site", "same-site", "Origin", "http://other.localhost"}, false},
		{"null origin", []string{"Origin", "null"}, false},
		{"foreign origin, old browser", []string{"Origin", "https://evil.example"}, false},
		{"our host as a prefix", []string{"Origin", own + ".evil.example"}, false},
		{"our host as user", []string{"Origin", own + "@evil.example"}, false},
		{"another port", []string{"Origin", "http://127.0.0.1:1"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := b.loggedIn(customerEmail, customerPassword)
			for _, method := range []string{"POST", "PUT", "DELETE", "PATCH"} {
				before := b.upstream.count()
				res := b.do(c, method, "/v1/orders", "{}", tc.headers...)
				if tc.allowed {
					res.want(t, 200, "")
				} else {
					res.want(t, 403, "cross_site")
				}
				if reached := b.upstream.count() > before; reached != tc.allowed {
					t.Errorf("%s reached the upstream: %t", method, reached)
				}
			}
			want := map[bool]int{true: 303, false: 403}[tc.allowed]
			b.post(b.client(), "/auth/login", url.Values{"email": {customerEmail}, "password": {customerPassword}}, tc.headers...).want(t, want, "")
			b.post(c, "/auth/logout", nil, tc.headers...).want(t, want, "")
			// A key is not sent by a browser of itself, so it may come from anywhere.
			b.do(b.client(), "POST", "/v1/orders", "{}", append([]string{"Authorization", bearer(b.customerKey)}, tc.headers...)...).want(t, 200, "")
		})
	}
}

func TestAttackCrossSiteWebSocket(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.upstream.serve(ticking(t))
	c := noTimeout(b.loggedIn(customerEmail, customerPassword))
	for origin, allowed := range map[string]bool{"http://" + b.addr: true, "https://evil.example": false, "null": false} {
		conn, res, err := websocket.Dial(t.Context(), b.url+"/v1/socket", &websocket.DialOptions{HTTPClient: c, HTTPHeader: http.Header{"Origin": {origin}}}) //nolint:bodyclose // a WebSocket has no body
		if (err == nil) != allowed {
			t.Errorf("origin %s: %v", origin, err)
		}
		if err == nil {
			_ = conn.CloseNow()
		} else if res == nil || res.StatusCode != 403 {
			t.Errorf("origin %s: %+v", origin, res)
		}
	}
}

func TestAttackUpgradeToHTTP2PastTheGate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.raw("GET /v1/a HTTP/1.1\r\nHost: " + b.addr + "\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nAuthorization: Bearer " + b.customerKey + "\r\n\r\n")
	if h := b.upstream.last(t).Header; h.Get("Upgrade") != "" || h.Get("Http2-Settings") != "" || strings.Contains(strings.ToLower(h.Get("Connection")), "upgrade") {
		t.Errorf("the upgrade reached the upstream: %v", h)
	}
}

func TestAttackOpenRedirect(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, next := range []string{
		"//evil.example", `/\evil.example`, `\/evil.example`, "https://evil.example", "/%0d%0aLocation:%20https://evil.example", "/\r\nSet-Cookie: a=b", "/%2f%2fevil.example",
		"https://" + b.addr + "@evil.example", "/\t/evil.example", "javascript:alert(1)", "///evil.example", "/.//evil.example", "/%5cevil.example", "http:evil.example",
	} {
		res := b.post(b.client(), "/auth/login", url.Values{"email": {customerEmail}, "password": {customerPassword}, "next": {next}})
		if got := res.Header.Get("Location"); res.StatusCode != 303 || got != "/" {
			t.Errorf("%q leads to %q (%d)", next, got, res.StatusCode)
		}
		page := b.get("/auth/login?next=" + url.QueryEscape(next))
		if strings.Contains(page.body, "evil.example") || strings.Contains(page.body, "alert(1)") {
			t.Errorf("%q is in the login page", next)
		}
	}
}

func TestAttackUserEnumerationByTime(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.DrainTimeout = 30 * time.Second })
	// Expensive enough that a check left out would show, on whatever machine.
	b.gate.store.hasher = newHasher(argonParams{memory: 8 << 10, time: 1, threads: 1})
	if err := b.gate.Store().SetPassword(t.Context(), customerEmail, customerPassword); err != nil {
		t.Fatal(err)
	}
	if _, err := b.gate.Store().AddUser(t.Context(), NewUser{Email: "keyless@example.com"}); err != nil {
		t.Fatal(err)
	}
	const rounds = 40
	took := map[string][]time.Duration{}
	for range rounds {
		for _, email := range []string{customerEmail, "unknown@example.com", "keyless@example.com", "not an address"} {
			started := time.Now()
			if _, err := b.gate.store.checkPassword(t.Context(), email, "wrong password"); !isBadCredential(err) {
				t.Fatal(err)
			}
			took[email] = append(took[email], time.Since(started))
		}
	}
	// The chance that a random sample of one is slower than one of the other: 0.5 if they are alike, 1 if a hash is left out.
	for email, others := range took {
		slower := 0.0
		for _, a := range took[customerEmail] {
			for _, o := range others {
				if a > o {
					slower++
				} else if a == o {
					slower += 0.5
				}
			}
		}
		if chance := slower / rounds / rounds; chance > 0.9 || chance < 0.1 {
			t.Errorf("a known user is slower than %q with probability %.2f", email, chance)
		}
	}
}

func TestAttackPasswordGuessing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	t.Run("one account, all at once", func(t *testing.T) {
		var mu sync.Mutex
		counts := map[int]int{}
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				res := b.login(b.client(), operatorEmail, fmt.Sprint("guess number ", i))
				mu.Lock()
				defer mu.Unlock()
				counts[res.StatusCode]++
			})
		}
		wg.Wait()
		if counts[401] > throttleAccount.free+2 || counts[429] < 50 {
			t.Errorf("answers: %v", counts)
		}
		res := b.login(b.client(), operatorEmail, operatorPassword)
		res.want(t, 429, "rate_limited")
		if res.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		b.loggedIn(customerEmail, customerPassword)
	})
	t.Run("an unknown account is locked alike", func(t *testing.T) {
		locked := false
		for range throttleAccount.free + 2 {
			locked = locked || b.login(b.client(), "unknown@example.com", "guess number x").StatusCode == 429
		}
		if !locked {
			t.Error("not locked")
		}
	})
	t.Run("the lock holds on every process", func(t *testing.T) {
		b.another().login(b.client(), "unknown@example.com", "guess number x")
		other := b.another()
		other.login(other.client(), "unknown@example.com", "guess number x").want(t, 429, "rate_limited")
	})
	t.Run("the wait grows and ends", func(t *testing.T) {
		for failures, want := range map[int]time.Duration{5: 0, 6: 2 * time.Second, 7: 4 * time.Second, 10: 32 * time.Second, 100: 15 * time.Minute} {
			got := throttleAccount.penalty(failures)
			if want == 0 && got != nil || want > 0 && (got == nil || *got != want) {
				t.Errorf("after %d: %v, want %v", failures, got, want)
			}
		}
		if _, err := b.gate.store.pool.Exec(t.Context(), `UPDATE gate.throttles SET blocked_until = now() - interval '1 second'`); err != nil {
			t.Fatal(err)
		}
		b.loggedIn(operatorEmail, operatorPassword)
		b.login(b.client(), operatorEmail, "wrong password").want(t, 401, "bad_login")
		b.loggedIn(operatorEmail, operatorPassword) // a success starts afresh
	})
}

func TestAttackPasswordSpraying(t *testing.T) {
	t.Parallel()
	b := setup(t)
	locked := 0
	for i := range throttleAddress.free + 10 {
		if b.login(b.client(), fmt.Sprintf("user%d@example.com", i), "Summer2026!").StatusCode == 429 {
			locked++
		}
	}
	if locked == 0 {
		t.Error("60 accounts were tried from one address without a stop")
	}
}

func TestAttackKeyGuessing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, _ := parseKeyToken(b.customerKey)
	limited := 0
	for range 60 {
		other := NewKeyToken()
		guess := keyPrefix + id + other[len(keyPrefix)+keyIDLen:] // the public half is right
		switch res := b.get("/v1/a", "Authorization", bearer(guess)); res.StatusCode {
		case 429:
			limited++
		case 401:
		default:
			t.Fatalf("%d %s", res.StatusCode, res.body)
		}
	}
	// Nor does it keep those out whose session merely ended: they are sent to the login page as before.
	for range 60 {
		b.get("/v1/a", "Cookie", "gate_session="+strings.Repeat("A", sessionTokenLen)).want(t, 401, "bad_credential")
		b.get("/open/a", "Cookie", "gate_session="+strings.Repeat("A", sessionTokenLen)).want(t, 200, "")
	}
	if limited < 20 {
		t.Errorf("%d of 60 guesses were limited", limited)
	}
	b.get("/v1/a", "Authorization", bearer(b.customerKey)).want(t, 200, "")
}

func TestAttackLoginRate(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.LoginRate = Rate{Requests: 3, Per: Duration(time.Hour), Burst: 3} })
	for range 3 {
		b.login(b.client(), "x@example.com", "wrong password").want(t, 401, "bad_login")
	}
	b.login(b.client(), "x@example.com", "wrong password").want(t, 429, "rate_limited")
	page := b.login(b.client(), "x@example.com", "wrong password", "Accept", "text/html")
	if page.StatusCode != 429 || page.Header.Get("Retry-After") == "" || !strings.Contains(page.body, "too many attempts") {
		t.Errorf("%d %s", page.StatusCode, page.body)
	}
}

func TestAttackHashingAsDenialOfService(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.gate.store.hasher = newHasher(argonParams{memory: 16 << 10, time: 2, threads: 1})
	b.gate.store.hasher.queue = 8
	statuses := make(chan int, 60)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			statuses <- b.login(b.client(), fmt.Sprintf("storm%d@example.com", i), strings.Repeat("x", 500)).StatusCode
		})
	}
	b.get("/v1/a", "Authorization", bearer(b.customerKey)).want(t, 200, "") // the storm does not stop what is proxied
	wg.Wait()
	close(statuses)
	counts := map[int]int{}
	for s := range statuses {
		counts[s]++
	}
	if counts[503] == 0 || counts[503]+counts[401]+counts[429] != 60 {
		t.Errorf("answers: %v", counts)
	}
	b.do(b.client(), "POST", "/auth/login", "email=a@example.com&password="+strings.Repeat("x", maxForm), "Content-Type", "application/x-www-form-urlencoded").want(t, 422, "invalid")
}

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

func TestAttackSlowloris(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.HeaderTimeout, c.IdleTimeout = 300*time.Millisecond, 300*time.Millisecond })
	for name, start := range map[string]string{"half a header": "GET /open/a HTTP/1.1\r\nHost: x\r\nX-Slow: ", "nothing at all": "", "idle after a request": "GET /open/a HTTP/1.1\r\nHost: x\r\n\r\n"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", b.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, start)
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.ReadAll(conn); err != nil {
				t.Errorf("the connection was kept: %v", err)
			}
		})
	}
	t.Run("a body that drips", func(t *testing.T) {
		t.Parallel()
		slow := setupRoutes(t, `
routes:
  - {path: /, upstream: "%s", allow: [public], timeout: 400ms}
`)
		conn, err := net.Dial("tcp", slow.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nab")
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		text, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(text), "HTTP/1.1 408") || !strings.Contains(string(text), "body_too_slow") {
			t.Errorf("%s %v", text, err)
		}
	})
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

func TestAttackLogInjection(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.login(b.client(), "a@example.com\n{\"level\":\"INFO\",\"msg\":\"forged\"}", "x\ny")
	b.get("/v1/a\u2028b", "User-Agent", "x\tforged", "Authorization", "Bearer forged").want(t, 401, "")
	b.raw("GET /v1/%0aforged HTTP/1.1\r\nHost: forged\r\nConnection: close\r\nX-Request-Id: forged\r\n\r\n")
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.logs.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("not one entry: %q", line)
		}
		if strings.Contains(line, "forged") {
			t.Errorf("a client wrote into the log: %q", line)
		}
	}
}

func TestAttackHostHeader(t *testing.T) {
	t.Parallel()
	b := setupRoutes(t, `
routes:
  - {host: shop.example, path: /, upstream: "%[1]s", allow: [public]}
  - {host: admin.example, path: /, upstream: "%[1]s", allow: [operator]}
`)
	for host, status := range map[string]string{
		"shop.example": "200", "SHOP.example:80": "200", "shop.example.": "200", "admin.example": "401", "ADMIN.EXAMPLE": "401", "admin.example.": "401", "admin.example:8080": "401",
		"evil.example": "404", "shop.example@admin.example": "400", "shop.example/../": "400", "": "400", "a b": "400", strings.Repeat("a", 300): "400",
	} {
		line, rest := b.raw("GET /x HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
		if !strings.Contains(line, status) {
			t.Errorf("host %q: %s %s, want %s", host, line, rest, status)
		}
	}
	if line, _ := b.raw("GET /x HTTP/1.1\r\nHost: shop.example\r\nHost: admin.example\r\nConnection: close\r\n\r\n"); !strings.Contains(line, "400") {
		t.Errorf("two hosts: %s", line)
	}
	if line, _ := b.raw("GET http://admin.example/x HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"); !strings.Contains(line, "400") {
		t.Errorf("absolute target: %s", line)
	}
	b.get("/x", "Host", "shop.example", "X-Forwarded-Host", "admin.example", "X-Original-URL", "/y").want(t, 200, "")
	if seen := b.upstream.last(t); seen.Host != "shop.example" || seen.Header.Get("X-Forwarded-Host") != "shop.example" || seen.RequestURI != "/x" {
		t.Errorf("%s %v %s", seen.Host, seen.Header, seen.RequestURI)
	}
}

func TestAttackIdentityForAnotherUpstream(t *testing.T) {
	t.Parallel()
	b := setupRoutes(t, `
upstreams:
  shop: {url: "%[1]s"}
  reports: {url: "%[1]s"}
routes:
  - {path: /shop/, upstream: shop, allow: [customer]}
  - {path: /reports/, upstream: reports, allow: [customer]}
`)
	b.get("/reports/x", "Authorization", bearer(b.customerKey)).want(t, 200, "")
	b.claims("reports")
	v, err := identity.NewVerifier(identity.Config{JWKSURL: b.url + jwksPath, Audience: "shop", HTTPClient: b.client()})
	if err != nil {
		t.Fatal(err)
	}
	token := b.upstream.last(t).Header.Get(identity.Header)
	if _, err := v.Verify(t.Context(), token); err == nil {
		t.Error("shop accepts an identity that was made out to reports")
	}
	// Nor does the gate take its own identities for credentials.
	b.get("/shop/x", "Authorization", "Bearer "+token).want(t, 401, "bad_credential")
	b.get("/shop/x", identity.Header, token).want(t, 401, "unauthorized")
}

func TestASlowUpstreamIsGivenUp(t *testing.T) {
	t.Parallel()
	b := setupRoutes(t, `
routes:
  - {path: /, upstream: "%s", allow: [public], timeout: 200ms}
  - {path: /gone/, upstream: "http://127.0.0.1:1", allow: [public]}
`)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	b.upstream.serve(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	b.get("/a").want(t, 504, "upstream_timeout")
	res := b.get("/gone/a")
	res.want(t, 502, "upstream_failed")
	if strings.Contains(res.body, "127.0.0.1") {
		t.Errorf("the cause reached the client: %s", res.body)
	}
}

func TestHalfAnAnswerIsNotTakenForAWholeOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.upstream.serve(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	res, err := b.client().Get(b.url + "/open/a")
	if err == nil {
		_, err = io.ReadAll(res.Body)
		res.Body.Close()
	}
	if err == nil {
		t.Error("the client did not notice")
	}
}

func TestTheCacheForgetsAndDoesNotMixUp(t *testing.T) {
	t.Parallel()
	c := newCredentialCache(100)
	now := time.Now()
	c.now = func() time.Time { return now }
	loads := 0
	load := func(_ context.Context, h credentialHash) (*Principal, error) { //nolint:unparam // the cache wants it so
		loads++
		return &Principal{Credential: string(h[:1]), Subject: "u"}, nil
	}
	a, z := sha256.Sum256([]byte("a")), sha256.Sum256([]byte("z"))
	for range 3 {
		if p, err := c.get(t.Context(), a, load); err != nil || p.Credential != string(a[:1]) {
			t.Fatal(p, err)
		}
		if p, err := c.get(t.Context(), z, load); err != nil || p.Credential != string(z[:1]) {
			t.Fatal(p, err)
		}
	}
	if loads != 2 {
		t.Errorf("%d loads", loads)
	}
	c.forget(revocation{Credential: string(a[:1])})
	_, _ = c.get(t.Context(), a, load)
	_, _ = c.get(t.Context(), z, load)
	if loads != 3 {
		t.Errorf("%d loads after one was forgotten", loads)
	}
	now = now.Add(cacheRenew) // nobody waits, but it is loaded anew
	for range 3 {
		if _, err := c.get(t.Context(), z, load); err != nil {
			t.Fatal(err)
		}
		c.close()
	}
	if loads != 4 {
		t.Errorf("%d loads after one was due", loads)
	}
	loads = 3
	now = now.Add(cacheTTL)
	_, _ = c.get(t.Context(), a, load)
	if loads != 4 {
		t.Errorf("%d loads after the time to live", loads)
	}
	// What was read before a revocation must not be remembered after it.
	stale := func(ctx context.Context, h credentialHash) (*Principal, error) {
		p, err := load(ctx, h)
		c.forget(revocation{Credential: p.Credential})
		return p, err
	}
	now = now.Add(cacheTTL)
	_, _ = c.get(t.Context(), z, stale)
	before := loads
	_, _ = c.get(t.Context(), z, load)
	if loads != before+1 {
		t.Error("a revoked credential was remembered")
	}
}
