package gate

import (
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"
)

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
	t.Run("nor after the body, nor have them removed", func(t *testing.T) {
		for name, announced := range map[string]string{"announced": "", "as it comes": http.TrailerPrefix} {
			b.upstream.serve(func(w http.ResponseWriter, _ *http.Request) {
				if announced == "" {
					w.Header().Set("Trailer", "Set-Cookie, Gate-Identity, Checksum")
				}
				w.Header().Set("Clear-Site-Data", `"cookies"`)
				_, _ = io.WriteString(w, "a body")
				_ = http.NewResponseController(w).Flush()
				w.Header().Set(announced+"Set-Cookie", "gate_session=planted")
				w.Header().Set(announced+"Gate-Identity", "planted")
				w.Header().Set(announced+"Checksum", "fine")
			})
			_, rest := b.raw("GET /open/a HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: close\r\n\r\n")
			if strings.Contains(rest, "planted") || strings.Contains(rest, "Clear-Site-Data") || !strings.Contains(rest, "Checksum: fine") || !strings.Contains(rest, "a body") {
				t.Errorf("%s: %s", name, rest)
			}
		}
		b.upstream.serve(nil)
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
