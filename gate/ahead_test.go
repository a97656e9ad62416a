package gate

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// aheadSigner is a gate's signer with a clock of the test's own.
func aheadSigner(t *testing.T) (s *signer, advance func(time.Duration)) {
	t.Helper()
	g := setup(t).gate
	var mu sync.Mutex
	now := time.Now()
	s = &signer{issuer: g.signer.issuer, ahead: newAhead(), now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}}
	s.ring.Store(g.signer.ring.Load())
	return s, func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(d)
	}
}

func ada() *Principal {
	return &Principal{Subject: "u1", Email: "ada@example.com", Name: "Ada", Roles: []string{"customer"}, Scopes: []string{"*"}, Credential: "s1"}
}

func decodeClaims(t *testing.T, token string) (c identityClaims) {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(payload, &c))
	return c
}

// ask is a request: it has a token made out, and then the next one.
func ask(t *testing.T, s *signer, p *Principal, to *Upstream) (token identityToken, ownID string) {
	t.Helper()
	ownID = newRequestID()
	token, err := s.identity(p, to, ownID)
	require.NoError(t, err)
	if token.next {
		s.signNext(p, to)
	}
	return token, ownID
}

// Who asks often finds the token signed; it names the request that it is given to, and no other.
func TestTheTokenOfWhoAsksOftenIsSignedAhead(t *testing.T) {
	t.Parallel()
	s, advance := aheadSigner(t)
	to := &Upstream{Audience: "shop"}
	var ids []string
	for i := range 5 {
		token, own := ask(t, s, ada(), to)
		require.Equal(t, i < 2, token.request == own, "request %d", i)
		claims := decodeClaims(t, token.text)
		require.Equal(t, token.request, claims.RequestID)
		require.NotContains(t, ids, token.request)
		ids = append(ids, token.request)
		advance(time.Second)
	}
	advance(maxAhead)
	token, own := ask(t, s, ada(), to)
	require.Equal(t, own, token.request, "a token waited for longer than it may")
	require.False(t, token.next, "the next token of one who asks seldom was to be signed")
}

func TestATokenThatIsSignedAheadIsForItsOwnCredentialAlone(t *testing.T) {
	t.Parallel()
	s, advance := aheadSigner(t)
	to := &Upstream{Audience: "shop"}
	for range 3 {
		ask(t, s, ada(), to)
	}
	for name, change := range map[string]func(p *Principal){
		"subject": func(p *Principal) { p.Subject = "u2" }, "email": func(p *Principal) { p.Email = "x@example.com" },
		"name": func(p *Principal) { p.Name = "Eve" }, "roles": func(p *Principal) { p.Roles = []string{"customer", "operator"} },
		"scopes": func(p *Principal) { p.Scopes = []string{"read"} }, "credential": func(p *Principal) { p.Credential = "s2" },
		"end": func(p *Principal) { p.Expires = s.now().Add(time.Minute) },
	} {
		p := ada()
		change(p)
		token, own := ask(t, s, p, to)
		require.Equal(t, own, token.request, "another %s was given the token", name)
	}
	token, own := ask(t, s, ada(), &Upstream{Audience: "reports"})
	require.Equal(t, own, token.request, "another audience was given the token")

	p := ada()
	p.Credential, p.Expires = "short", s.now().Add(5*time.Second)
	for range 3 {
		ask(t, s, p, to)
	}
	advance(2 * time.Second)
	token, own = ask(t, s, p, to)
	require.NotEqual(t, own, token.request)
	require.LessOrEqual(t, decodeClaims(t, token.text).Expiry, p.Expires.Unix(), "the token outlives its credential")
}

// However many ask at once, each request has a token of its own.
func TestATokenIsGivenOutOnce(t *testing.T) {
	t.Parallel()
	s, _ := aheadSigner(t)
	to := &Upstream{Audience: "shop"}
	var mu sync.Mutex
	var texts []string
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				token, err := s.identity(ada(), to, newRequestID())
				if err != nil {
					t.Error(err)
					return
				}
				if token.next {
					s.signNext(ada(), to)
				}
				mu.Lock()
				texts = append(texts, token.text)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	token, own := ask(t, s, ada(), to)
	require.NotEqual(t, own, token.request, "nothing was signed ahead")
	texts = append(texts, token.text)
	slices.Sort(texts)
	require.Len(t, slices.Compact(texts), 801)
}
