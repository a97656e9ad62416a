package gate

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
)

// people are who has an account at the provider.
type people []*storage.User

func (p people) GetUserByID(id string) *storage.User {
	for _, u := range p {
		if u.ID == id {
			return u
		}
	}
	return nil
}

func (p people) GetUserByUsername(name string) *storage.User {
	for _, u := range p {
		if u.Username == name {
			return u
		}
	}
	return nil
}

func (people) ExampleClientID() string { return "service" }

// provider is a real OpenID provider, with hooks that let it lie.
type provider struct {
	*testing.T
	server  *httptest.Server
	storage *storage.Storage

	mu           sync.Mutex
	handler      http.Handler
	changeForm   func(url.Values)     // of requests for tokens
	changeClaims func(map[string]any) // of ID tokens, signed anew with the provider's own key
	changeToken  func(string) string  // of ID tokens, as text
	broken       bool
	exchanges    int
}

func newProvider(t *testing.T) *provider {
	p := &provider{T: t}
	p.server = httptest.NewServer(p)
	t.Cleanup(p.server.Close)
	return p
}

func (p *provider) register(redirect string) {
	storage.RegisterClients(storage.WebClient("gate", "secret", redirect))
	p.storage = storage.NewStorage(people{
		{ID: "new", Username: "new", Password: "pw", FirstName: "Nia", LastName: "New", Email: "nia@example.com", EmailVerified: true},
		{ID: "ada", Username: "ada", Password: "pw", FirstName: "Ada", Email: "Ada@Example.com", EmailVerified: true},
		{ID: "liar", Username: "liar", Password: "pw", Email: operatorEmail, EmailVerified: false},
		{ID: "half", Username: "half", Password: "pw", Email: "half@example.com", EmailVerified: true},
	})
	handler := exampleop.SetupServer(p.server.URL, p.storage, nil, false)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handler = handler
}

// traded counts the requests for tokens.
func (p *provider) traded() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exchanges
}

// lie installs hooks until the subtest ends.
func (p *provider) lie(t *testing.T, form func(url.Values), claims func(map[string]any), token func(string) string) {
	set := func(f func(url.Values), c func(map[string]any), tok func(string) string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.changeForm, p.changeClaims, p.changeToken = f, c, tok
	}
	set(form, claims, token)
	t.Cleanup(func() { set(nil, nil, nil) })
}

func (p *provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	handler, form, claims, token, broken := p.handler, p.changeForm, p.changeClaims, p.changeToken, p.broken
	if strings.HasSuffix(r.URL.Path, "/token") {
		p.exchanges++
	}
	p.mu.Unlock()
	if broken {
		http.Error(w, "down", http.StatusBadGateway)
		return
	}
	if !strings.HasSuffix(r.URL.Path, "/token") || form == nil && claims == nil && token == nil {
		handler.ServeHTTP(w, r)
		return
	}
	if form != nil {
		body, _ := io.ReadAll(r.Body)
		values, _ := url.ParseQuery(string(body))
		form(values)
		r.Body = io.NopCloser(strings.NewReader(values.Encode()))
		r.ContentLength = int64(len(values.Encode()))
	}
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, r)
	var answer map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &answer); err != nil {
		p.Errorf("token endpoint: %v", err)
	}
	if raw, ok := answer["id_token"].(string); ok {
		if claims != nil {
			raw = p.resign(r, raw, claims)
		}
		if token != nil {
			raw = token(raw)
		}
		answer["id_token"] = raw
	}
	body, _ := json.Marshal(answer)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(rec.Code)
	_, _ = io.Copy(w, bytes.NewReader(body))
}

// resign signs changed claims with the provider's own key.
func (p *provider) resign(r *http.Request, raw string, change func(map[string]any)) string {
	claims := map[string]any{}
	text, _ := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[1])
	if err := json.Unmarshal(text, &claims); err != nil {
		p.Error(err)
	}
	change(claims)
	key, err := p.storage.SigningKey(r.Context())
	if err != nil {
		p.Error(err)
		return raw
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.SignatureAlgorithm(), Key: jose.JSONWebKey{Key: key.Key(), KeyID: key.ID()}}, nil)
	if err != nil {
		p.Error(err)
		return raw
	}
	signed, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		p.Error(err)
	}
	return signed
}

// visit logs in at the provider as a browser would and returns the URL it sends the browser back to.
func (p *provider) visit(b *bundle, c *http.Client, user string) string {
	p.Helper()
	start := b.do(c, "GET", "/auth/oidc/zitadel?next=/v1/after", "", "Accept", "text/html")
	if start.StatusCode != http.StatusSeeOther {
		p.Fatalf("start: %d %s", start.StatusCode, start.body)
	}
	at, _ := url.Parse(start.Header.Get("Location"))
	q := at.Query()
	if q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "" || q.Get("state") == "" || q.Get("nonce") == "" || q.Get("response_type") != "code" {
		p.Errorf("the request lacks PKCE, state or nonce: %s", at)
	}
	browser := &http.Client{Transport: &http.Transport{}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer browser.CloseIdleConnections()
	form, location := url.Values(nil), at
	for range 8 {
		var res *http.Response
		var err error
		if form != nil {
			res, err = browser.PostForm(location.String(), form)
		} else {
			res, err = browser.Get(location.String())
		}
		if err != nil {
			p.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		form = nil
		if res.StatusCode == http.StatusOK && strings.Contains(location.Path, "/login/username") {
			form = url.Values{"username": {user}, "password": {"pw"}, "id": {location.Query().Get("authRequestID")}}
			continue
		}
		next, err := res.Location()
		if err != nil {
			p.Fatalf("%s: %d %s", location, res.StatusCode, body)
		}
		if next.Host == b.addr {
			return next.RequestURI()
		}
		location = next
	}
	p.Fatal("the provider never sent the browser back")
	return ""
}

// oidcRoutes lets people log in at a provider; the upstream's URL is still to be filled in.
func oidcRoutes(issuer string) string {
	return defaultRoutes + `
sign_up: [customer]
oidc:
  - {name: zitadel, label: Zitadel, issuer: "` + issuer + `", client_id: gate, client_secret_env: TEST_OIDC_SECRET, scopes: [openid, email, profile, offline_access]}
`
}

func TestOIDC(t *testing.T) {
	t.Setenv("TEST_OIDC_SECRET", "secret")
	p := newProvider(t)
	b := setupRoutes(t, oidcRoutes(p.server.URL))
	p.register(b.url + "/auth/oidc/zitadel/callback")
	store := b.gate.Store()
	// An account whose address nobody has proven: the provider's proof must not open it to whoever set its password.
	if _, err := store.AddUser(t.Context(), NewUser{Email: "half@example.com", Roles: []string{"customer"}, Password: "set by a stranger"}); err != nil {
		t.Fatal(err)
	}

	t.Run("the login page offers it", func(t *testing.T) {
		if page := b.get("/auth/login?next=/v1/x"); !strings.Contains(page.body, `href="/auth/oidc/zitadel?next=%2fv1%2fx"`) || !strings.Contains(page.body, "Zitadel") {
			t.Errorf("%s", page.body)
		}
	})
	t.Run("a newcomer gets an account", func(t *testing.T) {
		c := b.client()
		res := b.do(c, "GET", p.visit(b, c, "new"), "")
		res.want(t, 303, "")
		if res.Header.Get("Location") != "/v1/after" {
			t.Errorf("sent to %q", res.Header.Get("Location"))
		}
		b.do(c, "GET", "/v1/a", "").want(t, 200, "")
		if claims := b.claims("shop"); claims.Email != "nia@example.com" || claims.Name != "Nia New" || !claims.HasRole("customer") || claims.HasRole("operator") {
			t.Errorf("claims %+v", claims)
		}
		b.wantAudited("nia@example.com", "login ok by self", "link_identity ok by provider zitadel", "add_user ok by provider zitadel")
		for _, path := range []string{"/auth/password", "/auth/factor"} { // what takes a password says that there is none
			if page := b.do(c, "GET", path, "", "Accept", "text/html"); page.StatusCode != 200 || !strings.Contains(page.body, "no password") || strings.Contains(page.body, "<form") {
				t.Errorf("%s: %d %s", path, page.StatusCode, page.body)
			}
		}
	})
	t.Run("coming again finds the same account", func(t *testing.T) {
		before, _ := store.FindUser(t.Context(), "nia@example.com")
		c := b.client()
		b.do(c, "GET", p.visit(b, c, "new"), "").want(t, 303, "")
		b.do(c, "GET", "/v1/a", "").want(t, 200, "")
		if claims := b.claims("shop"); claims.Subject != before.ID {
			t.Errorf("subject %s, want %s", claims.Subject, before.ID)
		}
	})
	t.Run("a verified address links to the account that has it", func(t *testing.T) {
		user, _ := store.FindUser(t.Context(), customerEmail)
		c := b.client()
		b.do(c, "GET", p.visit(b, c, "ada"), "").want(t, 303, "")
		b.do(c, "GET", "/v1/a", "").want(t, 200, "")
		if claims := b.claims("shop"); claims.Subject != user.ID {
			t.Errorf("subject %s, want %s", claims.Subject, user.ID)
		}
	})
	t.Run("an address that the provider has not verified links to nothing", func(t *testing.T) {
		c := b.client()
		b.do(c, "GET", p.visit(b, c, "liar"), "").want(t, 403, "forbidden")
		b.do(c, "GET", "/v1/a", "").want(t, 401, "unauthorized")
	})
	t.Run("an account that has not verified its address is not linked", func(t *testing.T) {
		c := b.client()
		b.do(c, "GET", p.visit(b, c, "half"), "").want(t, 403, "forbidden")
	})
	t.Run("a disabled account stays shut", func(t *testing.T) {
		if _, err := store.DisableUser(t.Context(), "nia@example.com"); err != nil {
			t.Fatal(err)
		}
		c := b.client()
		b.do(c, "GET", p.visit(b, c, "new"), "").want(t, 403, "forbidden")
		if _, err := store.EnableUser(t.Context(), "nia@example.com"); err != nil {
			t.Fatal(err)
		}
	})

	refused := func(t *testing.T, c *http.Client, callback string) {
		t.Helper()
		b.do(c, "GET", callback, "").want(t, 401, "bad_login")
		b.do(c, "GET", "/v1/a", "").want(t, 401, "unauthorized")
	}
	t.Run("wrong PKCE verifier", func(t *testing.T) {
		p.lie(t, func(f url.Values) { f.Set("code_verifier", strings.Repeat("x", 43)) }, nil, nil)
		c := b.client()
		refused(t, c, p.visit(b, c, "ada"))
	})
	for name, change := range map[string]func(map[string]any){
		"wrong audience":  func(c map[string]any) { c["aud"] = []string{"other"} },
		"wrong issuer":    func(c map[string]any) { c["iss"] = "https://evil.example" },
		"foreign nonce":   func(c map[string]any) { c["nonce"] = "other" },
		"no nonce":        func(c map[string]any) { delete(c, "nonce") },
		"expired":         func(c map[string]any) { c["exp"] = time.Now().Add(-time.Hour).Unix() },
		"another subject": func(c map[string]any) { c["sub"] = "liar" }, // the profile is still Ada's
	} {
		t.Run(name, func(t *testing.T) {
			p.lie(t, nil, change, nil)
			c := b.client()
			refused(t, c, p.visit(b, c, "ada"))
		})
	}
	for name, change := range map[string]func(string) string{
		"alg none": func(raw string) string {
			return base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + strings.Split(raw, ".")[1] + "."
		},
		"tampered":    func(raw string) string { return raw[:len(raw)-4] + "AAAA" },
		"no ID token": func(string) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			p.lie(t, nil, nil, change)
			c := b.client()
			refused(t, c, p.visit(b, c, "ada"))
		})
	}
	t.Run("a replayed code", func(t *testing.T) {
		c := b.client()
		callback := p.visit(b, c, "ada")
		flow := c.Jar.Cookies(nil)[0]
		b.do(c, "GET", callback, "").want(t, 303, "")
		thief := b.client()
		b.do(thief, "GET", callback, "", "Cookie", flow.Name+"="+flow.Value).want(t, 401, "bad_login")
	})
	t.Run("a code in another browser: the state is not its own", func(t *testing.T) {
		victim, attacker := b.client(), b.client()
		callback := p.visit(b, attacker, "new")
		before := p.traded()
		refused(t, victim, callback) // no flow at all
		p.visit(b, victim, "ada")
		refused(t, victim, callback) // a flow of its own
		if p.traded() != before {
			t.Error("the code was traded in spite of the wrong state")
		}
	})
	t.Run("the provider's refusal is passed on as a refusal", func(t *testing.T) {
		c := b.client()
		u, _ := url.Parse(p.visit(b, c, "ada"))
		refused(t, c, u.Path+"?error=access_denied&state="+u.Query().Get("state"))
	})
	t.Run("an unknown provider", func(t *testing.T) {
		b.get("/auth/oidc/other").want(t, 404, "not_found")
	})

	t.Run("a session goes on as long as the provider renews it", func(t *testing.T) {
		c := b.client()
		b.do(c, "GET", p.visit(b, c, "ada"), "").want(t, 303, "")
		due := func() {
			t.Helper()
			if _, err := b.gate.store.pool.Exec(t.Context(), `UPDATE gate.oidc_sessions SET check_at = now() - interval '1 second'`); err != nil {
				t.Fatal(err)
			}
			if err := b.gate.recheckProviders(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // the refresh token changes at each turn
			due()
			b.do(c, "GET", "/v1/a", "").want(t, 200, "")
		}
		p.mu.Lock()
		p.broken = true
		p.mu.Unlock()
		due()
		b.do(c, "GET", "/v1/a", "").want(t, 200, "")
		p.mu.Lock()
		p.broken = false
		p.mu.Unlock()
		if err := p.storage.TerminateSession(t.Context(), "ada", "gate"); err != nil {
			t.Fatal(err)
		}
		due()
		b.do(c, "GET", "/v1/a", "").want(t, 401, "bad_credential")
	})
}

func TestAProviderThatIsDownKeepsNobodyElseOut(t *testing.T) {
	t.Parallel()
	b := setupRoutes(t, oidcRoutes("http://127.0.0.1:1"))
	b.get("/auth/oidc/zitadel").want(t, 503, "unavailable")
	b.loggedIn(customerEmail, customerPassword)
}
