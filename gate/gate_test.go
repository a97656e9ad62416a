package gate

import (
	"bufio"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"millrace/gate/identity"
)

func TestAnAPIKeyReachesTheUpstreamAsASignedIdentity(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.get("/v1/orders?limit=3", "Authorization", bearer(b.customerKey), "Accept", "application/json").want(t, 200, "")
	seen := b.upstream.last(t)
	c := b.claims("shop")
	if c.Email != customerEmail || c.Name != "Ada" || !c.HasRole("customer") || c.HasRole("operator") || !c.HasScope("anything") || c.Subject == "" {
		t.Errorf("claims are %+v", c)
	}
	if life := c.Expiry.Sub(c.IssuedAt); life > time.Minute || life <= 0 {
		t.Errorf("the identity lives for %s", life)
	}
	if id := seen.Header.Get("X-Request-Id"); id == "" || c.RequestID != id {
		t.Errorf("the identity is for request %q, and the request has the id %q", c.RequestID, id)
	}
	if seen.Header.Get("Authorization") != "" {
		t.Error("the API key reached the upstream")
	}
	if seen.RequestURI != "/v1/orders?limit=3" || seen.Host != b.addr || seen.Header.Get("X-Forwarded-For") != "127.0.0.1" || seen.Header.Get("X-Forwarded-Proto") != "http" {
		t.Errorf("the upstream saw %s %s %v", seen.RequestURI, seen.Host, seen.Header)
	}
}

func TestWhoMayPass(t *testing.T) {
	t.Parallel()
	b := setup(t)
	scoped := b.newKey(NewKey{Email: customerEmail, Scopes: []string{"orders:read"}})
	unscoped := b.newKey(NewKey{Email: customerEmail, Scopes: []string{"orders:write"}})
	for _, tc := range []struct {
		name, method, path, key string
		status                  int
		code                    string
	}{
		{"public route, nobody", "GET", "/open/a", "", 200, ""},
		{"public root, nobody", "GET", "/", "", 200, ""},
		{"exact public path, nobody", "GET", "/v1/products", "", 200, ""},
		{"HEAD counts as GET", "HEAD", "/v1/products", "", 200, ""},
		{"other method on that path is refused, not passed to a shorter route", "POST", "/v1/products", b.operatorKey, 405, "method_not_allowed"},
		{"below the exact path the prefix counts", "GET", "/v1/products/1", "", 401, "unauthorized"},
		{"guarded route, nobody", "GET", "/v1/orders", "", 401, "unauthorized"},
		{"guarded route, customer", "GET", "/v1/orders", b.customerKey, 200, ""},
		{"operators' route, customer", "GET", "/admin/x", b.customerKey, 403, "forbidden"},
		{"operators' route, operator", "GET", "/admin/x", b.operatorKey, 200, ""},
		{"scoped route, key with all scopes", "GET", "/scoped/x", b.customerKey, 200, ""},
		{"scoped route, key with the scope", "GET", "/scoped/x", scoped, 200, ""},
		{"scoped route, key without", "GET", "/scoped/x", unscoped, 403, "insufficient_scope"},
		{"no route", "GET", "/nowhere", b.operatorKey, 404, "not_found"},
		{"prefix without its slash", "GET", "/v1", b.operatorKey, 404, "not_found"},
		{"a made-up key, even on a public route", "GET", "/open/a", NewKeyToken(), 401, "bad_credential"},
		{"something that is no key", "GET", "/open/a", "hello", 401, "bad_credential"},
		{"gate's own unknown page", "GET", "/auth/nothing", "", 404, "not_found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := b.upstream.count()
			var headers []string
			if tc.key != "" {
				headers = []string{"Authorization", bearer(tc.key)}
			}
			res := b.do(b.client(), tc.method, tc.path, "", headers...)
			res.want(t, tc.status, tc.code)
			if reached := b.upstream.count() > before; reached != (tc.status == 200) {
				t.Errorf("reached the upstream: %t", reached)
			}
		})
	}
}

func TestEachRequestHasAnIdentityOfItsOwnUnlessItsUpstreamSharesThem(t *testing.T) {
	t.Parallel()
	b := setupRoutes(t, `
upstreams:
  each: {url: "%[1]s"}
  shared: {url: "%[1]s", reuse_tokens: 20s}
routes:
  - {path: /each/, upstream: each, allow: [customer]}
  - {path: /shared/, upstream: shared, allow: [customer]}
`)
	ask := func(upstream string) (token, id string) {
		b.get("/"+upstream+"/a", "Authorization", bearer(b.customerKey)).want(t, 200, "")
		return b.upstream.last(t).Header.Get(identity.Header), b.claims(upstream).RequestID
	}
	first, id := ask("each")
	second, other := ask("each")
	if first == second || id == other || id == "" || other == "" {
		t.Errorf("two requests have the identities of %q and %q", id, other)
	}
	first, id = ask("shared")
	second, other = ask("shared")
	if first != second || id != "" || other != "" {
		t.Errorf("two requests that share an identity have those of %q and %q", id, other)
	}
}

func TestAnAnonymousRequestOnAPublicRouteCarriesNoIdentity(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.get("/open/a").want(t, 200, "")
	if got := b.upstream.last(t).Header.Values(identity.Header); len(got) > 0 {
		t.Errorf("identity %q", got)
	}
	b.get("/open/a", "Authorization", bearer(b.customerKey)).want(t, 200, "")
	if c := b.claims("shop"); c.Email != customerEmail {
		t.Errorf("claims %+v", c)
	}
}

func TestLoginTradesThePasswordForASession(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.client()
	res := b.post(c, "/auth/login", url.Values{"email": {" ADA@example.com "}, "password": {customerPassword}, "next": {"/v1/orders?page=2"}})
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/v1/orders?page=2" {
		t.Fatalf("login: %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	cookie := res.Cookies()[0]
	if cookie.Name != "gate_session" || cookie.Secure || !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/" || cookie.Domain != "" {
		t.Errorf("cookie is %+v", cookie)
	}
	b.do(c, "GET", "/v1/orders", "", "Cookie", "theme=dark").want(t, 200, "")
	seen := b.upstream.last(t)
	if got := seen.Header.Get("Cookie"); got != "theme=dark" {
		t.Errorf("the upstream saw the cookies %q", got)
	}
	if claims := b.claims("shop"); claims.Email != customerEmail {
		t.Errorf("claims %+v", claims)
	}
	if res := b.do(c, "GET", "/auth/session", ""); res.StatusCode != 200 || !strings.Contains(res.body, customerEmail) {
		t.Errorf("session: %d %s", res.StatusCode, res.body)
	}
	stolen := cookie.Name + "=" + cookie.Value
	if res := b.post(c, "/auth/logout", nil); res.StatusCode != http.StatusSeeOther {
		t.Fatalf("logout: %d %s", res.StatusCode, res.body)
	}
	b.get("/v1/orders", "Cookie", stolen).want(t, 401, "bad_credential")
}

func TestLoginRefusesWrongPasswordsAndUnknownUsersAlike(t *testing.T) {
	t.Parallel()
	b := setup(t)
	wrong := b.login(b.client(), customerEmail, "wrong password")
	unknown := b.login(b.client(), "nobody@example.com", "wrong password")
	wrong.want(t, 401, "bad_login")
	unknown.want(t, 401, "bad_login")
	page := b.login(b.client(), customerEmail, "wrong password", "Accept", "text/html")
	if page.StatusCode != 401 || !strings.Contains(page.body, `role="alert"`) || strings.Contains(page.body, "wrong password") {
		t.Errorf("page: %d %s", page.StatusCode, page.body)
	}
}

func TestABrowserIsSentToTheLoginPageAndAProgramIsTold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, path := range []string{"/admin/x", "/auth/nothing", "/auth/password"} { // a person is told in HTML, with the status that a program gets
		c := b.loggedIn(customerEmail, customerPassword)
		res, program := b.post(c, path, nil, "Accept", "text/html"), b.post(c, path, nil)
		if res.StatusCode != program.StatusCode || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") || strings.HasPrefix(program.Header.Get("Content-Type"), "text/html") {
			t.Errorf("%s: %d %s, a program %d %s", path, res.StatusCode, res.Header.Get("Content-Type"), program.StatusCode, program.Header.Get("Content-Type"))
		}
	}
	b.get("/admin/x", "Accept", "text/html, */*", "Authorization", bearer(b.customerKey)).want(t, 403, "forbidden") // as some libraries ask
	late := b.post(b.client(), "/auth/password", nil, "Accept", "text/html")
	if late.StatusCode != 401 || !strings.Contains(late.body, "Log in again") || strings.Contains(late.body, "API key") {
		t.Errorf("a form sent after the session ended: %d %s", late.StatusCode, late.body)
	}
	res := b.get("/v1/orders?a=1", "Accept", "text/html,application/xhtml+xml")
	if res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/auth/login?next=%2Fv1%2Forders%3Fa%3D1" {
		t.Errorf("browser: %d %q", res.StatusCode, res.Header.Get("Location"))
	}
	page := b.get(res.Header.Get("Location"), "Accept", "text/html")
	if page.StatusCode != 200 || !strings.Contains(page.body, `name="next" value="/v1/orders?a=1"`) || page.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("login page: %d %s", page.StatusCode, page.body)
	}
	res = b.get("/v1/orders", "Accept", "application/json")
	res.want(t, 401, "unauthorized")
	if ct := res.Header.Get("Content-Type"); ct != "application/problem+json" {
		t.Errorf("content type %q", ct)
	}
}

func TestSecureCookiesByDefaultAndPlainOnesOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.PlainCookies = false })
	cookie := b.login(b.client(), customerEmail, customerPassword).Cookies()[0]
	if cookie.Name != "__Host-gate_session" || !cookie.Secure || !cookie.HttpOnly || cookie.Path != "/" || cookie.Domain != "" {
		t.Errorf("cookie is %+v", cookie)
	}
	for _, publicURL := range []string{"https://shop.example.com", "http://10.0.0.7:8080"} {
		cfg := b.gate.cfg
		cfg.PublicURL, cfg.PlainCookies = publicURL, true
		if err := cfg.check(); err == nil {
			t.Errorf("cookies without Secure were accepted for %s", publicURL)
		}
	}
}

func TestEventsPassUnbuffered(t *testing.T) {
	t.Parallel()
	b := setup(t)
	step := make(chan string)
	b.upstream.serve(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for event := range step {
			fmt.Fprintf(w, "data: %s\n\n", event)
			_ = http.NewResponseController(w).Flush()
		}
	})
	req, _ := http.NewRequestWithContext(t.Context(), "GET", b.url+"/v1/stream", nil)
	req.Header.Set("Authorization", bearer(b.customerKey))
	go func() { step <- "0" }()
	res, err := b.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for i := range 3 {
		if i > 0 {
			step <- fmt.Sprint(i) // the upstream says no more until this event was asked for
		}
		if !lines.Scan() || lines.Text() != fmt.Sprintf("data: %d", i) || !lines.Scan() {
			t.Fatalf("event %d: %q %v", i, lines.Text(), lines.Err())
		}
	}
	close(step)
	if lines.Scan() {
		t.Errorf("after the end: %q", lines.Text())
	}
}

func TestReloadReplacesTheRoutes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.get("/new/", "Authorization", bearer(b.customerKey)).want(t, 404, "not_found")
	routes, err := ParseRoutes(fmt.Appendf(nil, "routes:\n- path: /new/\n  upstream: %s\n  allow: [customer]\n", b.upstream.server.URL))
	if err != nil {
		t.Fatal(err)
	}
	b.gate.Reload(routes)
	b.get("/new/", "Authorization", bearer(b.customerKey)).want(t, 200, "")
	b.get("/v1/orders", "Authorization", bearer(b.customerKey)).want(t, 404, "not_found")
	if c := b.claims(strings.TrimPrefix(b.upstream.server.URL, "http://")); c.Email != customerEmail {
		t.Errorf("claims %+v", c)
	}
}

func TestSeedingTwiceChangesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.gate.Store()
	u := NewUser{Email: "seed@example.com", Name: "Seed", Password: "first password", Roles: []string{"customer"}}
	first, err := s.EnsureUser(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	key := NewKeyToken()
	for range 2 {
		again, err := s.EnsureUser(t.Context(), u)
		if err != nil || again.ID != first.ID {
			t.Fatalf("%+v %v", again, err)
		}
		if _, err := s.EnsureKey(t.Context(), NewKey{Email: u.Email, Name: "demo"}, key); err != nil {
			t.Fatal(err)
		}
	}
	keys, err := s.ListKeys(t.Context(), u.Email)
	if err != nil || len(keys) != 1 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	b.get("/v1/a", "Authorization", bearer(key)).want(t, 200, "")
	u.Password = "second password"
	if _, err := s.EnsureUser(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	b.login(b.client(), u.Email, "first password").want(t, 401, "bad_login")
	b.login(b.client(), u.Email, "second password").want(t, 303, "")
}

func TestRevokedKeysAndDisabledUsersAreShutOut(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.gate.Store()
	check := func(key string, status int) {
		t.Helper()
		deadline := time.Now().Add(5 * time.Second)
		for {
			res := b.get("/v1/a", "Authorization", bearer(key))
			if res.StatusCode == status {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("still %d after 5 s, want %d", res.StatusCode, status)
			}
		}
	}
	check(b.customerKey, 200)
	id, _ := parseKeyToken(b.customerKey)
	if err := s.RevokeKey(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	check(b.customerKey, 401)
	other := b.newKey(NewKey{Email: customerEmail})
	browser := b.loggedIn(customerEmail, customerPassword)
	check(other, 200)
	if _, err := s.DisableUser(t.Context(), customerEmail); err != nil {
		t.Fatal(err)
	}
	check(other, 401)
	b.do(browser, "GET", "/v1/a", "").want(t, 401, "bad_credential")
	b.login(b.client(), customerEmail, customerPassword).want(t, 401, "bad_login")
}

func TestKeysAreStoredAsHashesOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.client()
	token := b.login(c, customerEmail, customerPassword).Cookies()[0].Value
	var dump string
	err := b.gate.store.pool.QueryRow(t.Context(), `SELECT (SELECT json_agg(u) FROM gate.users u)::text || (SELECT json_agg(k) FROM gate.api_keys k)::text ||
		(SELECT json_agg(s) FROM gate.sessions s)::text || (SELECT json_agg(s) FROM gate.signing_keys s)::text`).Scan(&dump)
	if err != nil {
		t.Fatal(err)
	}
	for what, secret := range map[string]string{"password": customerPassword, "key": b.customerKey[len(keyPrefix)+keyIDLen+1:], "session": token} {
		if strings.Contains(dump, secret) {
			t.Errorf("the %s is in the database", what)
		}
		if strings.Contains(b.logs.String(), secret) {
			t.Errorf("the %s is in the log", what)
		}
	}
}
