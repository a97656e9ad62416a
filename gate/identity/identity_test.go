package identity_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/goleak"

	"millrace/gate/identity"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issuer plays the gate: it signs tokens and publishes its keys.
type issuer struct {
	t       *testing.T
	server  *httptest.Server
	private ed25519.PrivateKey
	kid     string
	fetches atomic.Int64
	broken  atomic.Bool
	mu      sync.Mutex
	jwks    jose.JSONWebKeySet
}

func newIssuer(t *testing.T) *issuer {
	i := &issuer{t: t}
	i.rotate("key-1")
	i.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		i.fetches.Add(1)
		if i.broken.Load() {
			http.Error(w, "down", http.StatusInternalServerError)
			return
		}
		i.mu.Lock()
		defer i.mu.Unlock()
		_ = json.NewEncoder(w).Encode(i.jwks)
	}))
	t.Cleanup(i.server.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return i
}

func (i *issuer) rotate(kid string) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.private, i.kid = private, kid
	i.jwks.Keys = append(i.jwks.Keys, jose.JSONWebKey{Key: public, KeyID: kid, Algorithm: "EdDSA", Use: "sig"})
}

func (i *issuer) verifier(change ...func(*identity.Config)) *identity.Verifier {
	i.t.Helper()
	client := &http.Client{Transport: &http.Transport{}, Timeout: 5 * time.Second}
	i.t.Cleanup(client.CloseIdleConnections)
	cfg := identity.Config{JWKSURL: i.server.URL, Audience: "shop", HTTPClient: client}
	for _, c := range change {
		c(&cfg)
	}
	v, err := identity.NewVerifier(cfg)
	if err != nil {
		i.t.Fatal(err)
	}
	return v
}

type claims map[string]any

func good() claims {
	now := time.Now().Unix()
	return claims{"iss": "gate", "aud": "shop", "sub": "u1", "email": "a@b.c", "name": "A", "roles": []string{"customer"}, "scope": "*", "sid": "s1",
		"iat": now, "nbf": now, "exp": now + 60}
}

func (c claims) with(key string, value any) claims {
	if value == nil {
		delete(c, key)
		return c
	}
	c[key] = value
	return c
}

func (i *issuer) sign(c claims) string {
	i.t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: i.private, KeyID: i.kid}}, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	token, err := jwt.Signed(s).Claims(map[string]any(c)).Serialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return token
}

func b64(v any) string {
	text, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(text)
}

func TestOnlyTokensOfTheGateForThisServicePass(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	v := i.verifier()
	now := time.Now().Unix()
	valid := i.sign(good())
	parts := strings.Split(valid, ".")
	public := i.private.Public().(ed25519.PublicKey)
	hs256 := func(header claims) string {
		signed := b64(header) + "." + b64(good())
		mac := hmac.New(sha256.New, public)
		mac.Write([]byte(signed))
		return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	_, stranger, _ := ed25519.GenerateKey(rand.Reader)
	strange := &issuer{t: t, private: stranger, kid: i.kid}

	for _, tc := range []struct {
		name, token string
		want        error
	}{
		{"valid", valid, nil},
		{"missing", "", identity.ErrMissing},
		{"expired", i.sign(good().with("iat", now-120).with("nbf", now-120).with("exp", now-60)), identity.ErrInvalid},
		{"expired within the leeway", i.sign(good().with("iat", now-62).with("nbf", now-62).with("exp", now-2)), nil},
		{"without exp", i.sign(good().with("exp", nil)), identity.ErrInvalid},
		{"without iat", i.sign(good().with("iat", nil)), identity.ErrInvalid},
		{"valid for too long", i.sign(good().with("exp", now+3600)), identity.ErrInvalid},
		{"issued in the future", i.sign(good().with("iat", now+30).with("exp", now+60)), identity.ErrInvalid},
		{"not valid yet", i.sign(good().with("nbf", now+30)), identity.ErrInvalid},
		{"foreign audience", i.sign(good().with("aud", "reports")), identity.ErrInvalid},
		{"several audiences", i.sign(good().with("aud", []string{"shop", "reports"})), identity.ErrInvalid},
		{"no audience", i.sign(good().with("aud", nil)), identity.ErrInvalid},
		{"foreign issuer", i.sign(good().with("iss", "other")), identity.ErrInvalid},
		{"no subject", i.sign(good().with("sub", "")), identity.ErrInvalid},
		{"tampered payload", parts[0] + "." + b64(good().with("sub", "u2")) + "." + parts[2], identity.ErrInvalid},
		{"tampered signature", parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64)), identity.ErrInvalid},
		{"no signature", parts[0] + "." + parts[1] + ".", identity.ErrInvalid},
		{"alg none", b64(claims{"alg": "none", "kid": i.kid}) + "." + b64(good()) + ".", identity.ErrInvalid},
		{"alg None", b64(claims{"alg": "None", "kid": i.kid}) + "." + b64(good()) + ".", identity.ErrInvalid},
		{"HS256 with the public key", hs256(claims{"alg": "HS256", "kid": i.kid, "typ": "JWT"}), identity.ErrInvalid},
		{"HS256 signature under alg EdDSA", hs256(claims{"alg": "EdDSA", "kid": i.kid}), identity.ErrInvalid},
		{"signed by a stranger under our kid", strange.sign(good()), identity.ErrInvalid},
		{"key embedded in the token", embedded(t, stranger), identity.ErrInvalid},
		{"unknown kid", (&issuer{t: t, private: i.private, kid: "other"}).sign(good()), identity.ErrInvalid},
		{"no kid", (&issuer{t: t, private: i.private}).sign(good()), identity.ErrInvalid},
		{"garbage", "garbage", identity.ErrInvalid},
		{"huge", strings.Repeat("a", 1<<20), identity.ErrInvalid},
		{"JSON serialisation", `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, identity.ErrInvalid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := v.Verify(t.Context(), tc.token)
			if !errors.Is(err, tc.want) {
				t.Fatalf("got %v, want %v", err, tc.want)
			}
			if err == nil && (c.Subject != "u1" || c.Email != "a@b.c" || !c.HasRole("customer") || c.HasRole("operator") || c.SessionID != "s1" || c.Audience != "shop") {
				t.Errorf("claims %+v", c)
			}
		})
	}
}

// embedded makes a token that brings the key it is signed with.
func embedded(t *testing.T, key ed25519.PrivateKey) string {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, &jose.SignerOptions{EmbedJWK: true})
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(s).Claims(map[string]any(good())).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestANewKeyIsFetchedAtABoundedRate(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	now := time.Now()
	v := i.verifier(func(c *identity.Config) { c.Now = func() time.Time { return now } })
	verify := func() error { _, err := v.Verify(t.Context(), i.sign(good())); return err }
	if err := verify(); err != nil || i.fetches.Load() != 1 {
		t.Fatalf("%v after %d fetches", err, i.fetches.Load())
	}
	i.rotate("key-2")
	for range 50 {
		_ = verify()
	}
	if n := i.fetches.Load(); n != 1 {
		t.Errorf("%d fetches within the interval", n)
	}
	now = now.Add(3 * time.Second)
	if err := verify(); err != nil || i.fetches.Load() != 2 {
		t.Errorf("%v after %d fetches", err, i.fetches.Load())
	}
}

func TestKnownKeysOutliveAGateThatIsDownButNotForever(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	start := time.Now()
	now := start
	v := i.verifier(func(c *identity.Config) { c.Now = func() time.Time { return now } })
	token := func() string {
		at := now.Unix()
		return i.sign(good().with("iat", at).with("nbf", at).with("exp", at+60))
	}
	i.broken.Store(true)
	if _, err := v.Verify(t.Context(), token()); !errors.Is(err, identity.ErrUnavailable) {
		t.Fatalf("without any keys: %v", err)
	}
	i.broken.Store(false)
	now = start.Add(10 * time.Second)
	if _, err := v.Verify(t.Context(), token()); err != nil {
		t.Fatal(err)
	}
	i.broken.Store(true)
	now = start.Add(30 * time.Minute)
	if _, err := v.Verify(t.Context(), token()); err != nil {
		t.Errorf("30 minutes on: %v", err)
	}
	now = start.Add(2 * time.Hour)
	if _, err := v.Verify(t.Context(), token()); !errors.Is(err, identity.ErrUnavailable) {
		t.Errorf("2 hours on: %v", err)
	}
}

func TestAWithdrawnKeyStopsBeingTrusted(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	now := time.Now()
	v := i.verifier(func(c *identity.Config) { c.Now = func() time.Time { return now } })
	if _, err := v.Verify(t.Context(), i.sign(good())); err != nil {
		t.Fatal(err)
	}
	i.mu.Lock()
	i.jwks.Keys = nil
	i.mu.Unlock()
	now = now.Add(11 * time.Minute)
	at := now.Unix()
	if _, err := v.Verify(t.Context(), i.sign(good().with("iat", at).with("nbf", at).with("exp", at+60))); !errors.Is(err, identity.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// A token that was seen before is not checked from scratch, which must let nothing through that a new one would not.
func TestAKnownTokenIsRefusedForWhatChangedSince(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*issuer, *time.Time){
		"time has passed": func(_ *issuer, now *time.Time) { *now = now.Add(66 * time.Second) },
		"its key was withdrawn": func(i *issuer, now *time.Time) {
			i.jwks.Keys = nil
			*now = now.Add(11 * time.Minute)
		},
		"another key has the same id": func(i *issuer, now *time.Time) {
			public, _, _ := ed25519.GenerateKey(rand.Reader)
			i.jwks.Keys = []jose.JSONWebKey{{Key: public, KeyID: i.kid, Algorithm: "EdDSA", Use: "sig"}}
			*now = now.Add(11 * time.Minute)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			i := newIssuer(t)
			now := time.Now()
			v := i.verifier(func(c *identity.Config) {
				c.Now = func() time.Time { return now }
				c.MaxLifetime = time.Hour
			})
			life := 60
			if name != "time has passed" {
				life = 3000 // so that it is the key alone that decides
			}
			token := i.sign(good().with("exp", now.Unix()+int64(life)))
			for range 2 {
				c, err := v.Verify(t.Context(), token)
				if err != nil || c.Subject != "u1" {
					t.Fatal(c, err)
				}
			}
			i.mu.Lock()
			change(i, &now)
			i.mu.Unlock()
			if _, err := v.Verify(t.Context(), token); !errors.Is(err, identity.ErrInvalid) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestMiddleware(t *testing.T) {
	t.Parallel()
	i := newIssuer(t)
	v := i.verifier()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, ok := identity.FromContext(r.Context())
		fmt.Fprintf(w, "%s %t", c.Subject, ok)
	})
	valid := i.sign(good())
	for _, tc := range []struct {
		name     string
		optional bool
		tokens   []string
		status   int
		body     string
	}{
		{"required and given", false, []string{valid}, 200, "u1 true"},
		{"required and missing", false, nil, 401, `"code":"unauthorized"`},
		{"required and empty", false, []string{""}, 401, `"code":"unauthorized"`},
		{"given twice", false, []string{valid, valid}, 401, `"code":"unauthorized"`},
		{"optional and missing", true, nil, 200, " false"},
		{"optional and given", true, []string{valid}, 200, "u1 true"},
		{"optional and wrong", true, []string{valid + "x"}, 401, `"code":"unauthorized"`},
		{"optional and empty", true, []string{""}, 401, `"code":"unauthorized"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := v.Middleware(handler)
			if tc.optional {
				h = v.Optional(handler)
			}
			r := httptest.NewRequest("GET", "/", nil)
			for _, token := range tc.tokens {
				r.Header.Add(identity.Header, token)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.body) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if strings.Contains(w.Body.String(), "go-jose") {
				t.Error("the cause reached the client")
			}
		})
	}
}

func TestNewVerifierSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	for _, cfg := range []identity.Config{{}, {JWKSURL: "http://gate"}, {Audience: "shop"}, {JWKSURL: "gate", Audience: "shop"}, {JWKSURL: "file:///x", Audience: "shop"}} {
		if _, err := identity.NewVerifier(cfg); err == nil {
			t.Errorf("accepted %+v", cfg)
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add("a.b.c")
	f.Add(b64(claims{"alg": "EdDSA", "kid": "key-1"}) + "." + b64(good()) + ".AAAA")
	public, _, _ := ed25519.GenerateKey(rand.Reader)
	jwks, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: "key-1"}}})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(jwks) }))
	f.Cleanup(server.Close)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	v, err := identity.NewVerifier(identity.Config{JWKSURL: server.URL, Audience: "shop", HTTPClient: client})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if c, err := v.Verify(t.Context(), token); err == nil {
			t.Fatalf("%q was taken for %+v", token, c)
		}
	})
}
