package gate

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// OIDCProvider is somewhere else where people can log in. Name, Issuer and ClientID are required.
type OIDCProvider struct {
	Name            string   `yaml:"name"`              // in the gate's paths; the redirect URL is /auth/oidc/NAME/callback
	Label           string   `yaml:"label"`             // on the login page; default: the name
	Issuer          string   `yaml:"issuer"`            // https URL, http on a loopback address alone
	ClientID        string   `yaml:"client_id"`         // of this gate at the provider
	ClientSecretEnv string   `yaml:"client_secret_env"` // environment variable that holds the secret; default: a public client
	Scopes          []string `yaml:"scopes"`            // default: openid, email, profile
	Recheck         Duration `yaml:"recheck"`           // how often a session is renewed at the provider, when it gives refresh tokens; default 15m
}

func (p *OIDCProvider) check(others []OIDCProvider) error {
	if !roleName(p.Name) || strings.ContainsAny(p.Name, ":") {
		return invalid("the name must be 1 to 64 of a-z, 0-9, '_', '-' and '.'")
	}
	if slices.ContainsFunc(others, func(o OIDCProvider) bool { return o.Name == p.Name }) {
		return invalid("another provider has the same name")
	}
	u, err := url.Parse(p.Issuer)
	if err != nil || u.Host == "" || u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return invalid("issuer %q must be an https URL", p.Issuer)
	}
	if p.ClientID == "" {
		return invalid("client_id is required")
	}
	p.Label = cmp.Or(p.Label, p.Name)
	p.Recheck = cmp.Or(p.Recheck, Duration(15*time.Minute))
	if len(p.Scopes) == 0 {
		p.Scopes = []string{oidc.ScopeOpenID, "email", "profile"}
	}
	if !slices.Contains(p.Scopes, oidc.ScopeOpenID) {
		return invalid("scopes must contain openid")
	}
	return nil
}

// oidcClient talks to one provider.
type oidcClient struct {
	config   OIDCProvider
	provider *oidc.Provider
	verifier *oidc.IDTokenVerifier
	oauth    oauth2.Config
}

// oidcClients finds out about each provider when it is first needed, so that the gate starts without them.
type oidcClients struct {
	http *http.Client
	mu   sync.Mutex
	byID map[string]*oidcClient
}

func newOIDCClients() *oidcClients {
	return &oidcClients{http: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{Proxy: http.ProxyFromEnvironment}}, byID: map[string]*oidcClient{}}
}

// context makes the libraries use the client with its limit.
func (c *oidcClients) context(ctx context.Context) context.Context {
	return oidc.ClientContext(ctx, c.http)
}

func (g *Gate) oidcClient(ctx context.Context, name string) (*oidcClient, *denial) {
	providers := g.routes.Load().table.OIDC
	i := slices.IndexFunc(providers, func(p OIDCProvider) bool { return p.Name == name })
	if i < 0 {
		return nil, denyNoRoute
	}
	p := providers[i]
	id := p.Issuer + " " + p.ClientID + " " + p.Name
	g.oidc.mu.Lock()
	known := g.oidc.byID[id]
	g.oidc.mu.Unlock()
	if known != nil {
		return known, nil
	}
	// The provider keeps its context for fetching keys later on, so it must not be the request's.
	provider, err := oidc.NewProvider(g.oidc.context(context.WithoutCancel(ctx)), p.Issuer)
	if err != nil {
		return nil, denyUnavailable.because(fmt.Errorf("ask provider %s about itself: %w", name, err))
	}
	client := &oidcClient{
		config: p, provider: provider, verifier: provider.Verifier(&oidc.Config{ClientID: p.ClientID}),
		oauth: oauth2.Config{
			ClientID: p.ClientID, ClientSecret: os.Getenv(p.ClientSecretEnv), Endpoint: provider.Endpoint(), Scopes: p.Scopes,
			RedirectURL: strings.TrimSuffix(g.cfg.PublicURL, "/") + "/auth/oidc/" + p.Name + "/callback",
		},
	}
	g.oidc.mu.Lock()
	defer g.oidc.mu.Unlock()
	g.oidc.byID[id] = client
	return client, nil
}

// oidcFlow is what the browser carries, sealed, while its user is at the provider.
type oidcFlow struct {
	Provider string    `json:"provider"`
	State    string    `json:"state"`
	Nonce    string    `json:"nonce"`
	Verifier string    `json:"verifier"` // of PKCE
	Next     string    `json:"next"`
	Expires  time.Time `json:"expires"`
}

const (
	flowPurpose = "oidc flow"
	flowLife    = 10 * time.Minute
)

func (c cookieJar) flowCookie(value string, maxAge int) *http.Cookie {
	cookie := c.cookie(value, maxAge) //nolint:gosec // as for the session cookie
	cookie.Name = strings.TrimSuffix(c.name(), "session") + "oidc"
	return cookie
}

// oidcStart sends the browser to the provider.
func (g *Gate) oidcStart(x *exchange) *denial {
	client, d := g.oidcClient(x.r.Context(), x.r.PathValue("provider"))
	if d != nil {
		return d
	}
	flow := oidcFlow{
		Provider: client.config.Name, State: rand.Text(), Nonce: rand.Text(), Verifier: oauth2.GenerateVerifier(),
		Next: localTarget(x.r.URL.Query().Get("next"), "/"), Expires: g.now().Add(flowLife),
	}
	text, err := json.Marshal(flow)
	if err != nil {
		return denyInternal.because(err)
	}
	http.SetCookie(x.w, g.cookies.flowCookie(base64.RawURLEncoding.EncodeToString(g.vault.seal(flowPurpose, text)), int(flowLife.Seconds())))
	x.w.Header().Set("Location", client.oauth.AuthCodeURL(flow.State, oidc.Nonce(flow.Nonce), oauth2.S256ChallengeOption(flow.Verifier)))
	x.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// flow reads what oidcStart left in the browser, and removes it: it is good for one return.
func (g *Gate) flow(x *exchange, provider string) (oidcFlow, bool) {
	cookies := x.r.CookiesNamed(g.cookies.flowCookie("", 0).Name)
	http.SetCookie(x.w, g.cookies.flowCookie("", -1))
	var flow oidcFlow
	if len(cookies) != 1 {
		return flow, false
	}
	box, err := base64.RawURLEncoding.DecodeString(cookies[0].Value)
	if err != nil {
		return flow, false
	}
	text, err := g.vault.open(flowPurpose, box)
	if err != nil || json.Unmarshal(text, &flow) != nil {
		return flow, false
	}
	state := x.r.URL.Query().Get("state")
	return flow, flow.Provider == provider && g.now().Before(flow.Expires) &&
		subtle.ConstantTimeCompare([]byte(state), []byte(flow.State)) == 1
}

// oidcCallback logs in who comes back from the provider.
func (g *Gate) oidcCallback(x *exchange) *denial {
	client, d := g.oidcClient(x.r.Context(), x.r.PathValue("provider"))
	if d != nil {
		return d
	}
	action := "login at " + client.config.Name
	flow, ok := g.flow(x, client.config.Name)
	if !ok {
		x.note(action, "refused", "", "state")
		return x.loginFailed("", "/", denyLogin.saying("this login was not started here, or took too long: start again"))
	}
	query := x.r.URL.Query()
	if query.Get("error") != "" {
		x.note(action, "refused", "", "provider")
		return x.loginFailed("", flow.Next, denyLogin.saying("%s did not log you in", client.config.Label))
	}
	who, token, err := client.exchange(g.oidc.context(x.r.Context()), query.Get("code"), flow)
	if err != nil {
		x.note(action, "refused", "", "token")
		return x.loginFailed("", flow.Next, denyLogin.saying("%s did not log you in", client.config.Label).because(err))
	}
	user, err := g.store.linkExternal(withActor(x.r.Context(), "provider "+client.config.Name, x.client.String()), who, g.routes.Load().table.SignUp)
	switch {
	case errors.Is(err, errNoAccount):
		x.note(action, "refused", "", err.Error())
		return x.loginFailed("", flow.Next, denyRole.saying("there is no account for you here that %s may log in to", client.config.Label))
	case err != nil:
		return denyUnavailable.because(err)
	}
	return g.finishLogin(x, user, localTarget(flow.Next, "/"), "", origin{Method: client.config.Name, Provider: client.config.Name, Refresh: token.RefreshToken})
}

// external is who someone is at a provider.
type external struct {
	Issuer, Subject string
	Email, Name     string
	EmailVerified   bool
}

// exchange trades the code for tokens and checks them: signature, issuer, audience, expiry, nonce.
func (c *oidcClient) exchange(ctx context.Context, code string, flow oidcFlow) (external, *oauth2.Token, error) {
	fail := func(what string, err error) (external, *oauth2.Token, error) {
		return external{}, nil, fmt.Errorf("%s: %w", what, err)
	}
	token, err := c.oauth.Exchange(ctx, code, oauth2.VerifierOption(flow.Verifier))
	if err != nil {
		return fail("trade the code", err)
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok {
		return fail("trade the code", errors.New("there is no ID token in the answer"))
	}
	id, err := c.verifier.Verify(ctx, raw)
	if err != nil {
		return fail("verify the ID token", err)
	}
	if subtle.ConstantTimeCompare([]byte(id.Nonce), []byte(flow.Nonce)) != 1 {
		return fail("verify the ID token", errors.New("foreign nonce"))
	}
	var claims profile
	if err := id.Claims(&claims); err != nil {
		return fail("read the ID token", err)
	}
	if claims.Email == "" && c.provider.UserInfoEndpoint() != "" {
		info, err := c.provider.UserInfo(ctx, oauth2.StaticTokenSource(token))
		if err != nil {
			return fail("ask for the profile", err)
		}
		if info.Subject != id.Subject {
			return fail("ask for the profile", errors.New("it is somebody else's"))
		}
		if err := info.Claims(&claims); err != nil {
			return fail("read the profile", err)
		}
	}
	return external{Issuer: id.Issuer, Subject: id.Subject, Email: claims.Email, Name: claims.Name, EmailVerified: bool(claims.EmailVerified)}, token, nil
}

// profile is what providers say of people.
type profile struct {
	Email         string `json:"email"`
	EmailVerified truth  `json:"email_verified"`
	Name          string `json:"name"`
}

// truth is a boolean; some providers write it as a string.
type truth bool

// UnmarshalJSON accepts true and "true", and takes all else for false.
func (t *truth) UnmarshalJSON(text []byte) error {
	*t = truth(strings.Trim(string(text), `"`) == "true")
	return nil
}
