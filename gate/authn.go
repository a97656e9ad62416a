package gate

import (
	"errors"
	"net/http"
	"slices"
	"time"
)

// Kinds of credential.
const (
	kindSession = "session"
	kindKey     = "key"
)

// allScopes is the scope that stands for every other.
const allScopes = "*"

// Principal is who makes a request, by which credential. It is shared between requests and never changed.
type Principal struct {
	Subject     string // the user's id
	Email, Name string
	Roles       []string
	Scopes      []string
	Kind        string    // kindSession or kindKey
	Credential  string    // the session's or key's id
	Expires     time.Time // when the credential expires at the latest; zero: never
}

func (p *Principal) hasScopes(wanted []string) bool {
	if slices.Contains(p.Scopes, allScopes) {
		return true
	}
	return !slices.ContainsFunc(wanted, func(s string) bool { return !slices.Contains(p.Scopes, s) })
}

// An authenticator is one way to say who makes a request. It returns nil and no error when the request does not use that
// way, errBadCredential when it does with something that is not good, and any other error when it cannot tell.
type authenticator interface {
	authenticate(*http.Request) (*Principal, error)
}

var (
	errBadCredential = errors.New("the credential is unknown, expired or revoked")
	errAmbiguous     = errors.New("the request carries more than one credential")
)

// authenticate asks each way in turn. A request that uses two at once is refused: what a browser attaches by itself must
// not lend its weight to what a script added, nor the other way round.
func (g *Gate) authenticate(r *http.Request) (*Principal, error) {
	if g.ambiguous(r) {
		return nil, errAmbiguous
	}
	for _, a := range g.authenticators {
		if p, err := a.authenticate(r); p != nil || err != nil {
			return p, err
		}
	}
	return nil, nil
}

// ambiguous reports whether a request carries two sessions, or a session and a key.
func (g *Gate) ambiguous(r *http.Request) bool {
	cookies := g.cookies.count(r)
	return cookies > 1 || cookies == 1 && len(r.Header["Authorization"]) > 0
}
