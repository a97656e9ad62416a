package identity

import (
	"context"
	"slices"
	"strings"
	"time"
)

// Header is the request header that carries the token from the gate to an upstream.
const Header = "Gate-Identity"

// DefaultIssuer is the issuer that a gate puts in its tokens unless it is configured otherwise.
const DefaultIssuer = "gate"

// Claims is who made a request, as the gate saw it.
type Claims struct {
	// Subject is the user's id, a UUID in text form. It never changes, unlike the e-mail address.
	Subject string
	// Email is the user's address, lower case. Name is what the user wants to be called; it may be empty.
	Email, Name string
	// Roles are the user's roles, such as "customer" or "operator".
	Roles []string
	// Scope is a space-separated list of what the credential may be used for; "*" stands for everything.
	Scope string
	// SessionID names the session or API key that was used.
	SessionID string
	// RequestID names the request that the token was made for, as the header X-Request-Id and the gate's log do. It is empty where
	// the gate lets requests share a token.
	RequestID string
	// Issuer and Audience are the gate and the upstream that the token is meant for.
	Issuer, Audience string
	// IssuedAt and Expiry bound the token's life, at most a minute.
	IssuedAt, Expiry time.Time
}

// HasRole reports whether the user has the role.
func (c Claims) HasRole(role string) bool { return slices.Contains(c.Roles, role) }

// HasScope reports whether the credential may be used for scope.
func (c Claims) HasScope(scope string) bool {
	granted := strings.Fields(c.Scope)
	return slices.Contains(granted, "*") || slices.Contains(granted, scope)
}

type contextKey struct{}

// NewContext returns a context that carries the claims, as Middleware does for the handlers behind it.
func NewContext(ctx context.Context, c Claims) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// FromContext returns the claims of the request being served. It reports false where there are none: outside of a
// request, or for an anonymous request that Optional let through.
func FromContext(ctx context.Context) (Claims, bool) {
	c, ok := ctx.Value(contextKey{}).(Claims)
	return c, ok
}
