package gate

import (
	"crypto/rand"
	"testing"
	"time"
)

// Where an upstream lets requests share tokens, one is used again for a while, and never for anyone or anything else, nor past its
// credential's end.
func TestATokenIsReusedForItsOwnCredentialAlone(t *testing.T) {
	t.Parallel()
	s := setup(t).gate.signer
	const reuse = 20 * time.Second
	now := time.Now()
	s = &signer{issuer: s.issuer, issued: s.issued, now: func() time.Time { return now }}
	s.ring.Store(setup(t).gate.signer.ring.Load())
	ada := func() *Principal {
		return &Principal{Subject: "u1", Email: "ada@example.com", Name: "Ada", Roles: []string{"customer"}, Scopes: []string{"*"}, Credential: "s1"}
	}
	token := func(p *Principal, audience string) string {
		t.Helper()
		text, err := s.identity(p, &Upstream{Audience: audience, ReuseTokens: Duration(reuse)}, rand.Text())
		if err != nil {
			t.Fatal(err)
		}
		return text.text
	}
	first := token(ada(), "shop")
	if token(ada(), "shop") != first {
		t.Error("the same credential was given another token at once")
	}
	for name, change := range map[string]func(*Principal){
		"subject": func(p *Principal) { p.Subject = "u2" }, "email": func(p *Principal) { p.Email = "x@example.com" },
		"name": func(p *Principal) { p.Name = "Eve" }, "roles": func(p *Principal) { p.Roles = []string{"customer", "operator"} },
		"scopes": func(p *Principal) { p.Scopes = []string{"read"} }, "credential": func(p *Principal) { p.Credential = "s2" },
	} {
		p := ada()
		change(p)
		if token(p, "shop") == first {
			t.Errorf("another %s was given the same token", name)
		}
	}
	if token(ada(), "reports") == first {
		t.Error("another audience was given the same token")
	}
	now = now.Add(reuse)
	if token(ada(), "shop") == first {
		t.Error("the token was reused for too long")
	}
	p := ada()
	p.Expires = now.Add(5 * time.Second)
	p.Credential = "short"
	short := token(p, "shop")
	now = now.Add(6 * time.Second)
	p.Expires = now.Add(5 * time.Second)
	if token(p, "shop") == short {
		t.Error("the token outlived its credential")
	}
}
