package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"golang.org/x/sync/errgroup"

	"millrace"
	"millrace/db/migrations"
	"millrace/db/notify"
	"millrace/gate/identity"
	orderhttp "millrace/http"
	"millrace/http/live"
	"millrace/http/web"
	"millrace/provider/simulated"
)

// liveFlags say how watchers are served.
type liveFlags struct {
	MaxStreams int           `default:"20000" env:"MILLRACE_MAX_STREAMS" help:"Open streams in this process, at most."`
	SweepEvery time.Duration `default:"2s" env:"MILLRACE_SWEEP_EVERY" help:"Time between looks for events that no notification announced."`
	PollOnly   bool          `env:"MILLRACE_POLL_ONLY" help:"Do without LISTEN, behind a pooler for instance: events come with the sweeps."`
}

type serveCmd struct {
	databaseFlag
	Addr      string `default:"127.0.0.1:8081" env:"MILLRACE_ADDR" placeholder:"HOST:PORT" help:"Where to listen. The gate stands in front of it: nobody else should reach it."`
	JWKSURL   string `name:"jwks-url" default:"http://127.0.0.1:8080/.well-known/jwks.json" env:"MILLRACE_JWKS_URL" help:"Where the gate publishes the keys that sign identities."`
	Audience  string `default:"millrace" env:"MILLRACE_AUDIENCE" help:"The name that identities must be made out to."`
	Simulated bool   `env:"MILLRACE_SERVE_SIMULATED" help:"Serve the simulated providers' pages at /simulated/."`
	storeFlags
	liveFlags
	opsFlags
	logFlags
	ShutdownTimeout time.Duration `default:"30s" env:"MILLRACE_SHUTDOWN_TIMEOUT" help:"How long requests and streams may take to end."`
}

// Run serves until ctx ends, then drains.
func (c *serveCmd) Run(ctx context.Context, io stdio) (err error) {
	makeHeapRoom()
	log := c.logger(io.err)
	m := newMetrics()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	a, err := openAPI(ctx, apiConfig{databaseURL: c.DatabaseURL, jwksURL: c.JWKSURL, audience: c.Audience, store: c.storeFlags,
		live: c.liveFlags, log: log, metrics: m, simulated: c.Simulated, providers: simulated.Config{OrderPage: "/orders/", Logger: log}})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := within(ctx, c.ShutdownTimeout)
		defer cancel()
		err = errors.Join(err, a.close(end))
	}()
	ops, err := c.listenOps(ctx, m.registry, log, a.checks())
	if err != nil {
		return err
	}
	defer ops.close()
	return a.run(ctx, listener, c.ShutdownTimeout)
}

// apiConfig is what an API process is made of.
type apiConfig struct {
	databaseURL string
	jwksURL     string
	audience    string
	store       storeFlags
	live        liveFlags
	log         *slog.Logger
	metrics     *metrics
	simulated   bool
	providers   simulated.Config
}

// api is the API, the live streams and the pages on one store.
type api struct {
	*node
	hub       *live.Hub
	listener  *notify.Listener
	web       *web.Web
	providers *simulated.Providers // nil without
	handler   http.Handler
}

// pollOnlySweep is how long events may take at most where sweeps are all there is.
const pollOnlySweep = 200 * time.Millisecond

// openAPI puts an API together. Close it when run has returned.
func openAPI(ctx context.Context, c apiConfig) (a *api, err error) {
	a = &api{}
	// The hub must be there before the store, whose doorbell tells it of this process' own changes, and reads from the store.
	source := &lateSource{}
	if c.live.PollOnly {
		c.live.SweepEvery = min(c.live.SweepEvery, pollOnlySweep)
	}
	a.hub = live.NewHub(live.Config{Source: source, Logger: c.log, MaxStreams: c.live.MaxStreams, Sweep: c.live.SweepEvery,
		ObserveLag: c.metrics.observeLag,
		WriteError: func(w http.ResponseWriter, r *http.Request, err *millrace.Error) { orderhttp.WriteError(w, r, err) }})
	if a.node, err = openNode(ctx, c.databaseURL, c.store, c.log, c.metrics, a.hub.Rung); err != nil {
		return nil, err
	}
	source.Source = a.store
	c.metrics.watchHub(a.hub)
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close(ctx))
		}
	}()
	a.listener, err = notify.NewListener(notify.ListenerConfig{DatabaseURL: c.databaseURL, PollOnly: c.live.PollOnly, Own: a.bell,
		Rung: a.hub.Rung, Reset: a.hub.Reset, Logger: c.log})
	if err != nil {
		return a, err
	}
	jobs, err := river.NewClient(riverpgxv5.New(a.pool), &river.Config{Schema: migrations.RiverSchema, Logger: c.log})
	if err != nil {
		return a, fmt.Errorf("make River's client: %w", err)
	}
	a.web, err = web.New(web.Config{Store: a.store, River: jobs, Identity: orderhttp.PrincipalFrom,
		Logger: c.log, Simulated: c.simulated})
	if err != nil {
		return a, err
	}
	extra := map[string]http.Handler{}
	if c.simulated {
		if a.providers, err = simulated.Open(ctx, c.databaseURL, c.providers); err != nil {
			return a, err
		}
		extra["/simulated/"] = a.providers.Handler()
	}
	verifier, err := identity.NewVerifier(identity.Config{JWKSURL: c.jwksURL, Audience: c.audience})
	if err != nil {
		return a, err
	}
	server, err := orderhttp.NewServer(orderhttp.Config{Store: a.store, Hub: a.hub, Identity: identityOf(verifier), Web: a.web.Handler(),
		Extra: extra, Logger: c.log, Metrics: c.metrics.registry})
	if err != nil {
		return a, err
	}
	a.handler = server.Handler()
	return a, nil
}

// lateSource is a source of events that is set once there is one.
type lateSource struct{ live.Source }

// identityOf reads who a request comes from off the token that the gate signed.
func identityOf(v *identity.Verifier) func(*http.Request) (millrace.Principal, error) {
	return func(r *http.Request) (millrace.Principal, error) {
		token := r.Header.Get(identity.Header)
		if token == "" {
			return millrace.Principal{}, millrace.Errorf(millrace.CodeUnauthorized, "Log in, or send an API key.")
		}
		claims, err := v.Verify(r.Context(), token)
		if errors.Is(err, identity.ErrUnavailable) {
			return millrace.Principal{}, millrace.WrapError(millrace.CodeUnavailable, err, "Who you are cannot be checked right now: try again.")
		}
		if err != nil {
			return millrace.Principal{}, millrace.WrapError(millrace.CodeUnauthorized, err, "The identity of this request is not valid.")
		}
		p := millrace.Principal{Subject: claims.Subject, Email: claims.Email, Name: claims.Name}
		for _, role := range claims.Roles {
			p.Roles = append(p.Roles, millrace.Role(role))
		}
		return p, nil
	}
}

// run serves on a listener until ctx ends. Then streams end with a hint to reconnect, requests finish, and what remains after limit is
// cut.
func (a *api) run(ctx context.Context, l net.Listener, limit time.Duration) error {
	server := &http.Server{Handler: a.handler, ConnContext: live.ConnContext, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelWarn)}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	all, running := errgroup.WithContext(ctx)
	all.Go(func() error { return a.hub.Run(background) })
	all.Go(func() error { return a.listener.Run(background) })
	all.Go(func() error { return a.web.Run(background) })
	all.Go(func() error {
		<-running.Done()
		end, cancel := within(ctx, limit)
		defer cancel()
		defer stop()
		a.log.InfoContext(end, "draining")
		if err := a.hub.Drain(end); err != nil {
			a.log.WarnContext(end, "streams were cut", "error", err)
		}
		if err := server.Shutdown(end); err != nil {
			a.log.WarnContext(end, "requests were cut", "error", err)
			return server.Close()
		}
		return nil
	})
	all.Go(func() error {
		a.log.InfoContext(ctx, "serving", "addr", l.Addr().String())
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return all.Wait()
}

// close disconnects everything, once run has returned.
func (a *api) close(ctx context.Context) error {
	if a.providers != nil {
		a.providers.Close()
	}
	return a.node.close(ctx)
}

// checks are what the API needs to do its work.
func (a *api) checks() checks {
	c := a.node.checks()
	c["listen"] = func(context.Context) error {
		if !a.listener.Healthy() {
			return errors.New("the LISTEN connection is down: events come late")
		}
		return nil
	}
	return c
}
