package gate

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"millrace/gate/identity"
)

const jwksPath = "/.well-known/jwks.json"

// Config is what a Gate needs. DatabaseURL, Routes, Secret and PublicURL are required.
type Config struct {
	// DatabaseURL of a Postgres that Migrate has prepared.
	DatabaseURL string
	// Routes as read by ParseRoutes; Reload replaces them.
	Routes *Routes
	// Secret seals what is stored in readable form; see LoadOrCreateSecret.
	Secret []byte
	// PublicURL is where browsers reach the gate, such as https://shop.example.com. It is used in links and redirects.
	PublicURL string
	// PlainCookies drops "Secure" and the "__Host-" prefix from the session cookie. It is for plain HTTP on a loopback
	// address; New refuses it for any other PublicURL.
	PlainCookies bool
	// Issuer of identity tokens. Default identity.DefaultIssuer.
	Issuer string
	// SessionIdle and SessionLifetime end a session that was not used for so long, or is so old. Defaults 12 h, 7 days.
	SessionIdle, SessionLifetime time.Duration
	// KeyRotation is how often the signing key changes. Default 30 days.
	KeyRotation time.Duration
	// TrustedProxies may say in X-Forwarded-For, -Proto and -Host on whose behalf they ask. Default: nobody may.
	TrustedProxies []netip.Prefix
	// ForwardAuth serves /auth/verify to trusted proxies that ask before they pass a request on.
	ForwardAuth bool
	// AddressRate and AccountRate limit requests of one client address, and of one user. Default: no limit.
	AddressRate, AccountRate Rate
	// LoginRate limits attempts to log in from one address. Default 20 in a minute.
	LoginRate Rate
	// HashHelper is a program, and its arguments, that calls HashPasswords on its standard input and output: passwords are then hashed in
	// processes of low priority instead of this one, so that logins do not slow requests down. They get no environment but GOMAXPROCS.
	// Default: this process hashes.
	HashHelper []string
	// Mail sends the links for sign-up and new passwords. Default: no mail, and no such pages.
	Mail *Mail
	// MaxConns and MaxConnsPerAddress bound the open connections, in all and from one address (trusted proxies excepted).
	// Default: no limit.
	MaxConns, MaxConnsPerAddress int
	// HeaderTimeout bounds how long a client may take to send a request's header. Default 10 s.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection may be kept without a request. Default 90 s.
	IdleTimeout time.Duration
	// DrainTimeout is how long requests may go on after Serve was told to stop. Default 15 s.
	DrainTimeout time.Duration
	// Logger for events. Default slog.Default().
	Logger *slog.Logger
}

// Gate is a running gate. Handler serves requests; Run keeps it up to date with the database and the other processes.
type Gate struct {
	cfg            Config
	log            *slog.Logger
	store          *Store
	signer         *signer
	vault          vault
	cookies        cookieJar
	cache          *credentialCache
	authenticators []authenticator
	csrf           *http.CrossOriginProtection
	routes         atomic.Pointer[routing]
	own            http.Handler
	transport      *transport
	streams        *streams
	byAddress      *limiter
	byAccount      *limiter
	logins         *limiter
	badCredentials *limiter
	metrics        *metrics
	listening      atomic.Bool
	mailWake       chan struct{}
	oidc           *oidcClients
	now            func() time.Time
	closeOnce      sync.Once
}

// New checks the configuration, connects to the database and loads or makes the signing keys. The caller closes the gate.
func New(ctx context.Context, cfg Config) (*Gate, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	v, err := newVault(cfg.Secret)
	if err != nil {
		return nil, err
	}
	store, err := OpenStore(ctx, cfg.DatabaseURL)
	if err != nil {
		return nil, err
	}
	g := &Gate{
		cfg: cfg, log: cfg.Logger, store: store, vault: v, cookies: cookieJar{plain: cfg.PlainCookies},
		cache: newCredentialCache(100_000), csrf: http.NewCrossOriginProtection(), transport: newTransport(), streams: newStreams(),
		byAddress: newLimiter("address", cfg.AddressRate), byAccount: newLimiter("account", cfg.AccountRate),
		logins:         newLimiter("login", cfg.LoginRate),
		badCredentials: newLimiter("credentials", Rate{Requests: 60, Per: Duration(time.Minute), Burst: 30}),
		mailWake:       make(chan struct{}, 1),
		oidc:           newOIDCClients(),
		now:            time.Now,
	}
	g.authenticators = []authenticator{
		&keyAuthenticator{store: store, cache: g.cache},
		&sessionAuthenticator{store: store, cache: g.cache, cookies: g.cookies, idle: cfg.SessionIdle},
	}
	if g.signer, err = newSigner(ctx, store, v, cfg.Issuer, cfg.KeyRotation); err != nil {
		store.Close()
		return nil, err
	}
	g.metrics = newMetrics(g)
	if len(cfg.HashHelper) > 0 {
		store.hasher.helpers = newHelpers(cfg.HashHelper)
		store.hasher.failed = g.hashHelperFailed
	}
	g.own = g.ownHandler()
	g.Reload(cfg.Routes)
	return g, nil
}

func (c *Config) check() error {
	u, err := url.Parse(c.PublicURL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return invalid("the gate's public URL %q must look like https://shop.example.com", c.PublicURL)
	}
	if c.PlainCookies && !isLoopback(u.Hostname()) {
		return invalid("cookies without Secure are for a loopback address only, and the public URL is %s", c.PublicURL)
	}
	if c.Routes == nil {
		return invalid("the gate needs routes")
	}
	c.Issuer = cmp.Or(c.Issuer, identity.DefaultIssuer)
	c.SessionIdle = cmp.Or(c.SessionIdle, 12*time.Hour)
	c.SessionLifetime = cmp.Or(c.SessionLifetime, 7*24*time.Hour)
	c.KeyRotation = cmp.Or(c.KeyRotation, 30*24*time.Hour)
	c.HeaderTimeout = cmp.Or(c.HeaderTimeout, 10*time.Second)
	c.IdleTimeout = cmp.Or(c.IdleTimeout, 90*time.Second)
	c.DrainTimeout = cmp.Or(c.DrainTimeout, 15*time.Second)
	c.LoginRate = cmp.Or(c.LoginRate, Rate{Requests: 20, Per: Duration(time.Minute), Burst: 20})
	if c.KeyRotation < 2*keyPrepublish {
		return invalid("signing keys must not rotate more often than every %s", 2*keyPrepublish)
	}
	if c.ForwardAuth && len(c.TrustedProxies) == 0 {
		return invalid("forward-auth is for trusted proxies, and there are none")
	}
	if c.Mail != nil {
		if err := c.Mail.check(); err != nil {
			return err
		}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

func isLoopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// hashHelperFailed notes that a password was hashed in this process for want of a helper.
func (g *Gate) hashHelperFailed(err error) {
	g.metrics.helpers.Inc()
	g.log.Error("a password is hashed in this process, which slows requests down", "err", err)
}

// Store returns the gate's users and keys.
func (g *Gate) Store() *Store { return g.store }

// Reload replaces the routes for requests that come from now on; those under way finish under the old ones.
func (g *Gate) Reload(t *Routes) { g.routes.Store(g.newRouting(t)) }

// Close ends open streams and closes the connections to database and upstreams. Call it once no request is being served.
func (g *Gate) Close() {
	g.closeOnce.Do(func() {
		g.streams.endAll(endDrain)
		g.transport.close()
		g.oidc.http.CloseIdleConnections()
		g.cache.close()
		g.store.Close()
	})
}

// Ready reports whether the gate can do its work: the database answers, and Run hears of revocations.
func (g *Gate) Ready(ctx context.Context) error {
	switch {
	case g.streams.draining():
		return errDraining
	case !g.listening.Load():
		return errNotListening
	}
	return g.store.Ping(ctx)
}

// Run follows revocations by other processes, ends streams whose credential is no longer good, rotates signing keys and
// removes dead sessions, until the context ends. It waits for all of that to stop.
func (g *Gate) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { g.every(ctx, "end streams", streamSweep, g.sweepStreams) })
	wg.Go(func() { g.every(ctx, "refresh signing keys", time.Minute, g.signer.refresh) })
	wg.Go(func() { g.every(ctx, "clean up", time.Hour, g.store.cleanUp) })
	wg.Go(func() { g.every(ctx, "close idle connections", upstreamIdle/2, g.closeIdle) })
	wg.Go(func() { g.every(ctx, "renew sessions at providers", 30*time.Second, g.recheckProviders) })
	wg.Go(func() { g.listen(ctx) })
	if g.cfg.Mail != nil {
		wg.Go(func() { g.deliverMail(ctx) })
	}
	wg.Wait()
	return nil
}

func (g *Gate) closeIdle(context.Context) error {
	g.transport.closeIdle(time.Now().Add(-upstreamIdle))
	return nil
}

// every runs a task at an interval; a failure is logged and the next round tries again.
func (g *Gate) every(ctx context.Context, name string, interval time.Duration, task func(context.Context) error) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			bounded, cancel := context.WithTimeout(ctx, max(interval, 5*time.Second))
			err := task(bounded)
			cancel()
			if err != nil && ctx.Err() == nil {
				g.log.ErrorContext(ctx, "background task failed", "task", name, "err", err)
			}
		}
	}
}

// listen hears of revocations. While the connection is down, entries of the cache still live for seconds only, and the
// sweep of streams asks the database; when it is back, everything remembered is dropped.
func (g *Gate) listen(ctx context.Context) {
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := g.store.hear(ctx, func(r revocation) {
			pause = 100 * time.Millisecond
			g.listening.Store(true)
			g.cache.forget(r)
			g.streams.end(r)
		})
		g.listening.Store(false)
		if ctx.Err() != nil {
			return
		}
		g.log.WarnContext(ctx, "lost the connection that hears of revocations; connecting anew", "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// revoke applies a revocation to this process at once, without waiting for the news to come around.
func (g *Gate) revoke(r revocation) {
	g.cache.forget(r)
	g.streams.end(r)
}
