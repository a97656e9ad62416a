package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"millrace/gate"
)

type serveCmd struct {
	database
	routesFile
	Addr            string        `env:"GATE_ADDR" default:"127.0.0.1:8080" help:"Address to listen on, host:port. Default ${default}."`
	OpsAddr         string        `env:"GATE_OPS_ADDR" default:"127.0.0.1:9091" help:"Address of /healthz, /readyz and /metrics, host:port; empty for none. Default ${default}."`
	Pprof           bool          `env:"GATE_PPROF" help:"Serve /debug/pprof/ on the ops address."`
	PublicURL       string        `name:"public-url" env:"GATE_PUBLIC_URL" placeholder:"URL" help:"Where browsers reach the gate. Default: http://ADDR, when that is a loopback address."`
	PlainCookies    bool          `env:"GATE_PLAIN_COOKIES" help:"Session cookies without Secure, for plain HTTP on a loopback address alone."`
	Secret          string        `env:"GATE_SECRET" placeholder:"BASE64" help:"32 random bytes in base64 that seal signing keys in the database; the same in every process. Make them by: head -c 32 /dev/urandom | base64"`
	SecretFile      string        `env:"GATE_SECRET_FILE" type:"path" placeholder:"FILE" help:"File with the secret, made (0600) if it is missing. Instead of --secret."`
	Issuer          string        `env:"GATE_ISSUER" default:"gate" help:"Issuer that identity tokens name. Default ${default}."`
	TLSCert         string        `name:"tls-cert" env:"GATE_TLS_CERT" type:"path" placeholder:"FILE" help:"PEM certificate chain; read again when it changes. Default: plain HTTP."`
	TLSKey          string        `name:"tls-key" env:"GATE_TLS_KEY" type:"path" placeholder:"FILE" help:"PEM key of the certificate."`
	TrustedProxies  []string      `env:"GATE_TRUSTED_PROXIES" placeholder:"CIDR" help:"Networks of balancers whose X-Forwarded-For and -Proto count. Default: none."`
	SessionIdle     time.Duration `env:"GATE_SESSION_IDLE" default:"12h" help:"A session that is not used for so long ends. Default ${default}."`
	SessionLifetime time.Duration `env:"GATE_SESSION_LIFETIME" default:"168h" help:"A session ends when it is this old. Default ${default}."`
	KeyRotation     time.Duration `env:"GATE_KEY_ROTATION" default:"720h" help:"The signing key changes this often; at least 20m. Default ${default}."`
	ForwardAuth     bool          `env:"GATE_FORWARD_AUTH" help:"Answer trusted proxies at /auth/verify."`
	MailHost        string        `env:"GATE_MAIL_HOST" placeholder:"HOST" help:"Mail server for sign-up and new passwords. Default: no mail, and no such pages."`
	MailPort        int           `env:"GATE_MAIL_PORT" default:"587" help:"Port of the mail server. Default ${default}."`
	MailFrom        string        `env:"GATE_MAIL_FROM" placeholder:"ADDRESS" help:"Sender of mails, as 'Shop <shop@example.com>'."`
	MailUser        string        `env:"GATE_MAIL_USER" placeholder:"NAME" help:"User at the mail server. Default: no login. The password is read from GATE_MAIL_PASSWORD."`
	MailPlain       bool          `env:"GATE_MAIL_PLAIN" help:"No TLS to the mail server, for one on this machine."`
	HeaderTimeout   time.Duration `env:"GATE_HEADER_TIMEOUT" default:"10s" help:"How long a client may take to send a request's header. Default ${default}."`
	IdleTimeout     time.Duration `env:"GATE_IDLE_TIMEOUT" default:"90s" help:"How long a connection is kept without a request. Default ${default}."`
	AddressRate     int           `env:"GATE_ADDRESS_RATE" default:"500" help:"Requests a second from one address, twice as many at once; 0: no limit. Default ${default}."`
	AccountRate     int           `env:"GATE_ACCOUNT_RATE" default:"500" help:"Requests a second of one account, twice as many at once; 0: no limit. Default ${default}."`
	LoginRate       int           `env:"GATE_LOGIN_RATE" default:"20" help:"Attempts to log in a minute from one address. Default ${default}."`
	MaxConns        int           `env:"GATE_MAX_CONNS" default:"20000" help:"Open connections in all; 0: no limit. Default ${default}."`
	MaxConnsPerAddr int           `env:"GATE_MAX_CONNS_PER_ADDR" default:"500" help:"Open connections from one address, trusted proxies excepted; 0: no limit. Default ${default}."`
	ShutdownTimeout time.Duration `env:"GATE_SHUTDOWN_TIMEOUT" default:"30s" help:"How long requests may go on after SIGTERM. Default ${default}."`
	HashInProcess   bool          `env:"GATE_HASH_IN_PROCESS" help:"Hash passwords in the gate itself, instead of in a process of low priority beside it: where no other process may run."`
	LogLevel        slog.Level    `env:"GATE_LOG_LEVEL" default:"INFO" help:"DEBUG, INFO, WARN or ERROR; DEBUG has a line for each request. Default ${default}."`
}

// config turns flags into the gate's configuration, and says everything that is wrong with them.
func (c serveCmd) config(log *slog.Logger) (gate.Config, error) {
	var errs []error
	cfg := gate.Config{
		DatabaseURL: c.DatabaseURL, PublicURL: c.PublicURL, PlainCookies: c.PlainCookies, Issuer: c.Issuer,
		SessionIdle: c.SessionIdle, SessionLifetime: c.SessionLifetime, KeyRotation: c.KeyRotation,
		AddressRate: perSecond(c.AddressRate), AccountRate: perSecond(c.AccountRate),
		LoginRate: gate.Rate{Requests: c.LoginRate, Per: gate.Duration(time.Minute), Burst: c.LoginRate},
		MaxConns:  c.MaxConns, MaxConnsPerAddress: c.MaxConnsPerAddr, ForwardAuth: c.ForwardAuth,
		HeaderTimeout: c.HeaderTimeout, IdleTimeout: c.IdleTimeout, DrainTimeout: c.ShutdownTimeout, Logger: log,
	}
	if c.MailHost != "" {
		cfg.Mail = &gate.Mail{Host: c.MailHost, Port: c.MailPort, From: c.MailFrom, Username: c.MailUser, Password: os.Getenv("GATE_MAIL_PASSWORD"), Plain: c.MailPlain}
	}
	routes, err := c.load()
	errs = append(errs, err)
	cfg.Routes = routes
	switch {
	case c.Secret != "" && c.SecretFile != "":
		errs = append(errs, errors.New("give --secret or --secret-file, not both"))
	case c.Secret != "":
		cfg.Secret, err = gate.ParseSecret(c.Secret)
		errs = append(errs, err)
	case c.SecretFile != "":
		cfg.Secret, err = gate.LoadOrCreateSecret(c.SecretFile)
		errs = append(errs, err)
	default:
		errs = append(errs, errors.New("the gate needs a secret: set GATE_SECRET or GATE_SECRET_FILE, see --help"))
	}
	if cfg.PublicURL == "" {
		if addr, err := netip.ParseAddrPort(c.Addr); err == nil && addr.Addr().IsLoopback() {
			cfg.PublicURL = "http://" + c.Addr
		} else {
			errs = append(errs, errors.New("set GATE_PUBLIC_URL to where browsers reach the gate, such as https://shop.example.com"))
		}
	}
	for _, text := range c.TrustedProxies {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("trusted proxy %q is not a network such as 10.0.0.0/8", text))
		}
		cfg.TrustedProxies = append(cfg.TrustedProxies, p)
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		errs = append(errs, errors.New("--tls-cert and --tls-key go together"))
	}
	return cfg, errors.Join(errs...)
}

func perSecond(n int) gate.Rate {
	return gate.Rate{Requests: n, Per: gate.Duration(time.Second), Burst: 2 * n}
}

// Run serves until the context ends, which SIGTERM does.
func (c serveCmd) Run(ctx context.Context, io stdio) error {
	makeHeapRoom()
	log := slog.New(slog.NewJSONHandler(io.err, &slog.HandlerOptions{Level: c.LogLevel}))
	slog.SetDefault(log) // what libraries log, such as of an upstream that misbehaves, is an event like any other
	cfg, err := c.config(log)
	if err != nil {
		return err
	}
	var cert *gate.Certificate
	var tlsConfig *tls.Config
	if c.TLSCert != "" {
		if cert, err = gate.LoadCertificate(c.TLSCert, c.TLSKey, log); err != nil {
			return fmt.Errorf("load the certificate: %w", err)
		}
		tlsConfig = cert.TLSConfig()
	}
	if !c.HashInProcess {
		program, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find this program, to hash passwords beside it: %w", err)
		}
		cfg.HashHelper = []string{program, "hash-passwords"}
	}
	g, err := gate.New(ctx, cfg)
	if err != nil {
		return fmt.Errorf("start the gate: %w", err)
	}
	defer g.Close()
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	stopOps, err := c.serveOps(ctx, g, log)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	defer stopOps()
	stopReload := c.reloadOnHangup(g, cert, log)
	defer stopReload()
	log.InfoContext(ctx, "gate is listening", "addr", ln.Addr().String(), "ops_addr", c.OpsAddr, "tls", tlsConfig != nil, "routes", len(cfg.Routes.Routes))
	if err := g.ServeTLS(ctx, ln, tlsConfig); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	log.InfoContext(ctx, "gate has drained")
	return nil
}

// reloadOnHangup reads routes and certificate again at each SIGHUP. Faults are logged and change nothing.
func (c serveCmd) reloadOnHangup(g *gate.Gate, cert *gate.Certificate, log *slog.Logger) (stop func()) {
	hangups, quit, done := make(chan os.Signal, 1), make(chan struct{}), make(chan struct{})
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			case <-hangups:
			}
			if routes, err := c.load(); err != nil {
				log.Error("the routes file has faults; keeping the old routes", "err", err)
			} else {
				g.Reload(routes)
				log.Info("routes reloaded", "routes", len(routes.Routes))
			}
			if cert != nil {
				if err := cert.Reload(); err != nil {
					log.Error("the certificate is not usable; keeping the old one", "err", err)
				}
			}
		}
	}()
	return func() { signal.Stop(hangups); close(quit); <-done }
}

// serveOps answers health checks and metrics on a listener of their own, which the world must not reach.
func (c serveCmd) serveOps(ctx context.Context, g *gate.Gate, log *slog.Logger) (stop func(), err error) {
	if c.OpsAddr == "" {
		return func() {}, nil
	}
	g.Registry().MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := g.Ready(ctx); err != nil {
			log.WarnContext(ctx, "not ready", "err", err)
			http.Error(w, "not ready", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(g.Registry(), promhttp.HandlerOpts{}))
	if c.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.OpsAddr)
	if err != nil {
		return nil, fmt.Errorf("listen for health checks: %w", err)
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			log.ErrorContext(ctx, "health checks and metrics are no longer served", "err", err)
		}
	}()
	return func() { _ = server.Close(); <-done }, nil
}
