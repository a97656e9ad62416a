package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/gate/identity"
)

const keySet = "/.well-known/jwks.json"

// verifier checks identities as an upstream does, by the keys of the running gate.
func (s *site) verifier(t testing.TB, audience string, now func() time.Time) *identity.Verifier {
	t.Helper()
	v, err := identity.NewVerifier(identity.Config{
		JWKSURL: "http://" + s.plain.addr + keySet, Audience: audience, Now: now,
		HTTPClient: &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// reader returns what verifies the identity that came with a request as of when it came.
func (s *site) reader(t testing.TB) func(r taped, audience string) (identity.Claims, error) {
	t.Helper()
	var at time.Time
	verifiers := map[string]*identity.Verifier{}
	for _, audience := range []string{"shop", "reports"} {
		verifiers[audience] = s.verifier(t, audience, func() time.Time { return at })
	}
	return func(r taped, audience string) (identity.Claims, error) {
		tokens := r.header("gate-identity")
		if len(tokens) != 1 {
			return identity.Claims{}, fmt.Errorf("%d identities", len(tokens))
		}
		at = r.at
		return verifiers[audience].Verify(t.Context(), tokens[0])
	}
}

type object = map[string]any

// token writes a JWT and signs it.
func token(header, claims object, sign func([]byte) []byte) string {
	part := func(o object) string {
		text, err := json.Marshal(o)
		if err != nil {
			panic(err) // maps of plain values
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	text := part(header) + "." + part(claims)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(text)))
}

// part decodes one part of a JWT.
func part(t testing.TB, token string, i int) (o object) {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[i])
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		t.Fatalf("part %d of %q: %v", i, token, err)
	}
	return o
}

// with returns a copy of an object with other values; nil leaves one out.
func with(o object, pairs ...any) object {
	o = maps.Clone(o)
	for i := 0; i < len(pairs); i += 2 {
		if name := pairs[i].(string); pairs[i+1] == nil {
			delete(o, name)
		} else {
			o[name] = pairs[i+1]
		}
	}
	return o
}

// signingKey takes the gate's own key, as a thief of database and secret could: with it, each claim can be tried on its own.
func (s *site) signingKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	var sealed []byte
	if err := conn.QueryRow(t.Context(), `SELECT sealed_seed FROM gate.signing_keys`).Scan(&sealed); err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(s.secret)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := aead.Open(nil, nil, sealed, []byte("signing key"))
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

func forgedTokens(t *testing.T, s *site) {
	customer := s.key(t, s.user(t, "customer"))
	identityOf := func(path string) string {
		id := s.id()
		s.ask(t, s.plain, s.address(), request("GET", path+id, bearer(customer))).want(t, 200, "")
		return strings.Join(s.upstream.once(t, id).header("gate-identity"), "")
	}
	real, foreign := identityOf("/guarded/"), identityOf("/reports/")
	header, claims := part(t, real, 0), part(t, real, 1)
	signature := strings.Split(real, ".")[2]
	public, private := s.signingKey(t).Public().(ed25519.PublicKey), s.signingKey(t)
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	ownPublic, own, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	jwk := object{"kty": "OKP", "crv": "Ed25519", "kid": "own", "x": base64.RawURLEncoding.EncodeToString(ownPublic)}
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		t.Error("somebody fetched keys from where a token said")
		_ = json.NewEncoder(w).Encode(object{"keys": []object{jwk}})
	}))
	defer evil.Close()
	gates := func(b []byte) []byte { return ed25519.Sign(private, b) }
	mine := func(b []byte) []byte { return ed25519.Sign(own, b) }
	nobody := func([]byte) []byte { return nil }
	mac := func(key []byte) func([]byte) []byte {
		return func(b []byte) []byte {
			h := hmac.New(sha256.New, key)
			h.Write(b)
			return h.Sum(nil)
		}
	}
	operator := with(claims, "roles", []string{"operator"})
	now := float64(time.Now().Unix())
	forged := map[string]string{
		"made out to another upstream":            foreign,
		"alg none":                                token(with(header, "alg", "none"), operator, nobody),
		"alg None":                                token(with(header, "alg", "None"), operator, nobody),
		"alg nOnE with the old signature":         strings.TrimSuffix(token(with(header, "alg", "nOnE"), operator, nobody), ".") + "." + signature,
		"no alg":                                  token(with(header, "alg", nil), operator, nobody),
		"no signature":                            strings.TrimSuffix(real, signature),
		"no third part":                           strings.TrimSuffix(real, "."+signature),
		"HS256 with the public key":               token(with(header, "alg", "HS256"), operator, mac(public)),
		"HS256 with the public key as text":       token(with(header, "alg", "HS256"), operator, mac([]byte(base64.RawURLEncoding.EncodeToString(public)))),
		"HS256 with the public key as DER":        token(with(header, "alg", "HS256"), operator, mac(der)),
		"HS256 with the public key as PEM":        token(with(header, "alg", "HS256"), operator, mac(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))),
		"HS256 with an empty key":                 token(with(header, "alg", "HS256"), operator, mac(nil)),
		"other claims under the old signature":    strings.TrimSuffix(token(header, operator, nobody), ".") + "." + signature,
		"one bit of the signature":                real[:len(real)-3] + map[bool]string{true: "B", false: "A"}[real[len(real)-3] == 'A'] + real[len(real)-2:],
		"another's key under the gate's id":       token(header, operator, mine),
		"another's key in the header":             token(with(header, "jwk", jwk, "kid", "own"), operator, mine),
		"another's key at an address":             token(with(header, "jku", evil.URL+keySet, "x5u", evil.URL, "kid", "own"), operator, mine),
		"a key id that is a path":                 token(with(header, "kid", "../../../../dev/null"), operator, mac(nil)),
		"a key id that is SQL":                    token(with(header, "kid", "' UNION SELECT 'own"), operator, mine),
		"no key id":                               token(with(header, "kid", nil), operator, gates),
		"an unknown critical header":              token(with(header, "crit", []string{"b64"}, "b64", false), operator, gates),
		"no expiry":                               token(header, with(operator, "exp", nil), gates),
		"expiry as text":                          token(header, with(operator, "exp", "9999999999"), gates),
		"expired":                                 token(header, with(operator, "iat", now-300, "nbf", now-300, "exp", now-240), gates),
		"good for a year":                         token(header, with(operator, "exp", now+365*86400), gates),
		"issued tomorrow":                         token(header, with(operator, "iat", now+86400, "nbf", now+86400, "exp", now+86460), gates),
		"no time of issue":                        token(header, with(operator, "iat", nil), gates),
		"no audience":                             token(header, with(operator, "aud", nil), gates),
		"another audience beside the right one":   token(header, with(operator, "aud", []string{"shop", "reports"}), gates),
		"another issuer":                          token(header, with(operator, "iss", "evil"), gates),
		"no subject":                              token(header, with(operator, "sub", nil), gates),
		"no identity at all":                      token(header, object{}, gates),
		"two tokens in one":                       real + "," + real,
		"a token in quotes":                       `"` + real + `"`,
		"a token of a megabyte, or what fits":     real + strings.Repeat("A", 20_000),
		"the same token with a dot more":          real + ".",
		"JSON serialisation instead of a compact": `{"payload":"` + strings.Split(real, ".")[1] + `","signatures":[{"protected":"` + strings.Split(real, ".")[0] + `","signature":"` + signature + `"}]}`,
	}
	service := httptest.NewServer(s.verifier(t, "shop", time.Now).Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := identity.FromContext(r.Context())
		_, _ = w.Write([]byte("roles " + strings.Join(c.Roles, ","))) // the client notices what it misses
	})))
	defer service.Close()
	upstream := &process{name: "service", addr: service.Listener.Addr().String()}
	for name, good := range map[string]string{"roles customer": real, "roles operator": token(header, operator, gates)} {
		if answer := s.ask(t, upstream, s.address(), request("GET", "/", identity.Header+": "+good)); answer.text != name {
			t.Fatalf("the service refuses what the gate signs, so its refusals prove nothing: %d %s", answer.StatusCode, answer.text)
		}
	}
	if life := claims["exp"].(float64) - claims["iat"].(float64); life > 60 {
		t.Errorf("the gate's identities are good for %v s", life)
	}
	for _, spare := range []string{identity.Header, "gate_identity"} {
		s.ask(t, upstream, s.address(), request("GET", "/", spare+": "+foreign, identity.Header+": "+foreign)).want(t, 401, "unauthorized")
	}
	s.ask(t, upstream, s.address(), request("GET", "/", identity.Header+": "+real, identity.Header+": "+real)).want(t, 401, "unauthorized")
	forged["the gate's own, replayed"] = real // the service takes it, the gate must not
	all := atOnce{T: t}
	defer all.Wait()
	for name, token := range forged {
		all.run(name, func(t *testing.T) {
			if token != real {
				s.ask(t, upstream, s.address(), request("GET", "/", identity.Header+": "+token)).want(t, 401, "unauthorized")
			}
			for _, p := range s.gates() {
				from, open := s.address(), s.id()
				s.ask(t, p, from, request("GET", "/guarded/"+s.id(), "Authorization: Bearer "+token)).want(t, 401, "bad_credential")
				s.ask(t, p, from, request("GET", "/operator/"+s.id(), identity.Header+": "+token)).want(t, 401, "unauthorized")
				s.ask(t, p, from, request("GET", "/operator/"+s.id(), identity.Header+": "+token, bearer(customer))).want(t, 403, "forbidden")
				s.ask(t, p, from, request("GET", "/open/"+open, identity.Header+": "+token)).want(t, 200, "")
				if got := s.upstream.once(t, open).header("gate-identity"); got != nil {
					t.Errorf("an open path passed it on: %q", got)
				}
				if answer := s.ask(t, p, from, request("GET", "/guarded/"+s.id(), p.cookie(token))); answer.StatusCode != 401 {
					t.Errorf("as a session: %d %s", answer.StatusCode, answer.text)
				}
			}
		})
	}
}
