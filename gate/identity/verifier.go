package identity

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// maxToken bounds a token's size in bytes before any of it is decoded.
const maxToken = 8 << 10

// Errors of Verify. ErrMissing: there was no token. ErrInvalid: there was one and it must not be trusted.
// ErrUnavailable: the gate's keys could not be fetched, so nothing can be said; the caller may try again.
var (
	ErrMissing     = errors.New("no identity token: call this service through its gate")
	ErrInvalid     = errors.New("the identity token is not valid")
	ErrUnavailable = errors.New("the gate's keys are not available")
)

// Config says whose tokens a Verifier trusts. JWKSURL and Audience are required.
type Config struct {
	// JWKSURL is where the gate publishes its keys, for example http://127.0.0.1:8080/.well-known/jwks.json.
	JWKSURL string
	// Issuer that tokens must name. Default DefaultIssuer.
	Issuer string
	// Audience is this service's name in the gate's configuration. A token for another upstream is refused.
	Audience string
	// HTTPClient fetches the keys. Default: a client of its own with a limit of 5 s.
	HTTPClient *http.Client
	// Leeway is how far the clocks of the gate and this service may differ. Default 5 s.
	Leeway time.Duration
	// MaxLifetime is the longest life, from iat to exp, that a token may have. Default 60 s.
	MaxLifetime time.Duration
	// RefetchInterval is the least time between two fetches of the keys, whatever tokens come in. Default 2 s.
	RefetchInterval time.Duration
	// RefreshAfter is the age at which the keys are fetched anew even when no unknown one was asked for, so that a
	// withdrawn key stops being trusted. Default 10 min. Keys that cannot be refreshed for an hour are no longer trusted.
	RefreshAfter time.Duration
	// Now is the clock. Default time.Now.
	Now func() time.Time
}

// Verifier checks tokens. It is safe for concurrent use and starts no goroutine.
type Verifier struct {
	cfg    Config
	keys   *keySet
	recent recent
}

// NewVerifier checks the configuration. It fetches nothing yet: a service may start before its gate.
func NewVerifier(cfg Config) (*Verifier, error) {
	u, err := url.Parse(cfg.JWKSURL)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("identity: JWKSURL %q must be an http or https URL", cfg.JWKSURL)
	}
	if cfg.Audience == "" {
		return nil, errors.New("identity: Audience is required: the name of this service in the gate's configuration")
	}
	if cfg.Issuer == "" {
		cfg.Issuer = DefaultIssuer
	}
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = &http.Client{Timeout: 5 * time.Second}
	}
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{{&cfg.Leeway, 5 * time.Second}, {&cfg.MaxLifetime, time.Minute}, {&cfg.RefetchInterval, 2 * time.Second}, {&cfg.RefreshAfter, 10 * time.Minute}} {
		if *d.value <= 0 {
			*d.value = d.def
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Verifier{cfg: cfg, keys: &keySet{cfg: cfg}}, nil
}

// tokenClaims is the token's payload on the wire.
type tokenClaims struct {
	Issuer    string           `json:"iss"`
	Audience  jwt.Audience     `json:"aud"`
	Subject   string           `json:"sub"`
	Email     string           `json:"email"`
	Name      string           `json:"name"`
	Roles     []string         `json:"roles"`
	Scope     string           `json:"scope"`
	SessionID string           `json:"sid"`
	RequestID string           `json:"rid"`
	IssuedAt  *jwt.NumericDate `json:"iat"`
	NotBefore *jwt.NumericDate `json:"nbf"`
	Expiry    *jwt.NumericDate `json:"exp"`
}

// Verify checks a token and returns its claims. The error is, or wraps, ErrMissing, ErrInvalid or ErrUnavailable; its text
// is for a log and not for a client.
func (v *Verifier) Verify(ctx context.Context, token string) (Claims, error) {
	if token == "" {
		return Claims{}, ErrMissing
	}
	if len(token) > maxToken {
		return Claims{}, fmt.Errorf("%w: %d bytes are too many", ErrInvalid, len(token))
	}
	if known, ok := v.recent.find(token); ok {
		key, err := v.keys.find(ctx, known.keyID)
		if err != nil {
			return Claims{}, err
		}
		if known.key.Equal(key) {
			return v.check(known.claims)
		}
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(parsed.Headers) != 1 || parsed.Headers[0].KeyID == "" {
		return Claims{}, fmt.Errorf("%w: it names no key", ErrInvalid)
	}
	key, err := v.keys.find(ctx, parsed.Headers[0].KeyID)
	if err != nil {
		return Claims{}, err
	}
	var t tokenClaims
	if err := parsed.Claims(key, &t); err != nil {
		return Claims{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	claims, err := v.check(t)
	if err == nil && t.RequestID == "" { // one that names a request is not used again
		v.recent.remember(token, verified{parsed.Headers[0].KeyID, key, t})
	}
	return claims, err
}

// check applies the rules on claims whose signature holds.
func (v *Verifier) check(t tokenClaims) (Claims, error) {
	now := v.cfg.Now()
	refuse := func(why string) (Claims, error) { return Claims{}, fmt.Errorf("%w: %s", ErrInvalid, why) }
	switch {
	case t.Issuer != v.cfg.Issuer:
		return refuse("foreign issuer")
	case len(t.Audience) != 1 || t.Audience[0] != v.cfg.Audience:
		return refuse("foreign audience")
	case t.Subject == "":
		return refuse("no subject")
	case t.Expiry == nil || t.IssuedAt == nil:
		return refuse("no expiry or no time of issue")
	case t.Expiry.Time().Sub(t.IssuedAt.Time()) > v.cfg.MaxLifetime:
		return refuse("valid for too long")
	case !now.Before(t.Expiry.Time().Add(v.cfg.Leeway)):
		return refuse("expired")
	case now.Add(v.cfg.Leeway).Before(t.IssuedAt.Time()):
		return refuse("issued in the future")
	case t.NotBefore != nil && now.Add(v.cfg.Leeway).Before(t.NotBefore.Time()):
		return refuse("not valid yet")
	}
	return Claims{
		Subject: t.Subject, Email: t.Email, Name: t.Name, Roles: t.Roles, Scope: t.Scope,
		SessionID: t.SessionID, RequestID: t.RequestID, Issuer: t.Issuer, Audience: t.Audience[0],
		IssuedAt: t.IssuedAt.Time(), Expiry: t.Expiry.Time(),
	}, nil
}
