package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"millrace/cmd/internal/deploy"
	"millrace/db/embedded"
	"millrace/gate"
)

type devCmd struct {
	Addr        string `default:"127.0.0.1:8080" env:"MILLRACE_ADDR" placeholder:"HOST:PORT" help:"Where the gate listens; a loopback address."`
	DataDir     string `default:".millrace" env:"MILLRACE_DATA_DIR" help:"Where the embedded Postgres and dev.json are kept."`
	DatabaseURL string `env:"DATABASE_URL" placeholder:"postgres://…" help:"A Postgres to use instead of the embedded one."`
	storeFlags
	jobFlags
	providerFlags
	liveFlags
	opsFlags
	logFlags
	ShutdownTimeout time.Duration `default:"15s" env:"MILLRACE_SHUTDOWN_TIMEOUT" help:"How long all of it may take to end."`
}

// devDefaults are what suits trying out better than the defaults of production.
func (c *devCmd) devDefaults() {
	if os.Getenv("MILLRACE_LOG_LEVEL") == "" && c.LogLevel == slog.LevelInfo {
		c.LogLevel = slog.LevelWarn // the terminal is for what to type next
	}
	if c.CallTimeout == 8*time.Second {
		c.CallTimeout = 3 * time.Second // pm_slow takes 2 s, and pm_lost_answer is waited for
	}
	if c.CheckEvery == 15*time.Second {
		c.CheckEvery = time.Second
	}
}

// Run starts everything in this process and waits for ctx to end it.
func (c *devCmd) Run(ctx context.Context, io stdio) (err error) {
	started := time.Now()
	c.devDefaults()
	log := c.logger(io.err)
	if err := os.MkdirAll(c.DataDir, 0o711); err != nil { //nolint:gosec // Postgres, run as another user where this one is root, has to pass through
		return fmt.Errorf("make the data directory: %w", err)
	}
	databases, stop, err := c.databases(ctx, io.out, io.err)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := within(ctx, c.ShutdownTimeout)
		defer cancel()
		err = errors.Join(err, stop(end))
	}()
	if _, err := migrate(ctx, databases.millrace, true); err != nil {
		return err
	}
	if err := gate.Migrate(ctx, databases.gate); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Addr)
	if err != nil {
		return fmt.Errorf("listen for the gate (choose another address with --addr): %w", err)
	}
	defer listener.Close()
	return c.serve(ctx, io, log, databases, listener, started)
}

// serve runs gate, API and workers until ctx ends or one of them fails.
func (c *devCmd) serve(ctx context.Context, io stdio, log *slog.Logger, databases databases, listener net.Listener, started time.Time) (err error) {
	m := newMetrics()
	api, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer api.Close()
	url := "http://" + listener.Addr().String()

	a, err := openAPI(ctx, apiConfig{databaseURL: databases.millrace, jwksURL: url + "/.well-known/jwks.json", audience: "millrace", store: c.storeFlags,
		live: c.liveFlags, log: log, metrics: m, simulated: true, providers: c.config(log)})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := within(ctx, c.ShutdownTimeout)
		defer cancel()
		err = errors.Join(err, a.close(end))
	}()
	if _, err := seed(ctx, a.store); err != nil {
		return err
	}
	file, g, err := c.openGate(ctx, log, databases, url, api.Addr().String())
	if err != nil {
		return err
	}
	defer g.Close()
	ready := a.checks()
	ready["gate"] = g.Ready
	ops, err := c.listenOps(ctx, prometheus.Gatherers{m.registry, g.Registry()}, log, ready)
	if err != nil {
		return err
	}
	defer ops.close()

	all, running := errgroup.WithContext(ctx)
	all.Go(func() error { return g.Serve(running, listener) })
	all.Go(func() error { return a.run(running, api, c.ShutdownTimeout) })
	all.Go(func() error {
		return work(running, a.node, c.jobFlags, c.providerFlags, a.providers, c.PollOnly, c.ShutdownTimeout)
	})
	c.greet(io.out, file, ops.addr, time.Since(started))
	err = all.Wait()
	fmt.Fprintln(io.out, "Stopped. The data stays in", c.DataDir)
	return err
}

// databases are the addresses of the databases in use.
type databases struct{ millrace, gate string }

// databases starts the embedded Postgres, unless another was named, and says how to stop it.
func (c *devCmd) databases(ctx context.Context, out, errOut io.Writer) (databases, func(context.Context) error, error) {
	if c.DatabaseURL != "" {
		return databases{c.DatabaseURL, c.DatabaseURL}, func(context.Context) error { return nil }, nil
	}
	p := paintFor(out)
	fmt.Fprintln(out, p(dim, "Starting Postgres in "+filepath.Join(c.DataDir, "postgres")+" …"))
	server, err := embedded.Start(ctx, embedded.Config{Dir: filepath.Join(c.DataDir, "postgres"), Logger: c.postgresLogger(errOut), MaxConnections: 200})
	if err != nil {
		return databases{}, nil, err
	}
	for _, name := range []string{"millrace", "gate"} {
		if err := server.EnsureDatabase(ctx, name); err != nil {
			return databases{}, nil, errors.Join(err, server.Stop(context.WithoutCancel(ctx)))
		}
	}
	return databases{server.URL("millrace"), server.URL("gate")}, server.Stop, nil
}

// postgresLogger is for the server's own log, whose warnings at each start and stop mean nothing to who tries it out.
func (c *devCmd) postgresLogger(w io.Writer) *slog.Logger {
	f := c.logFlags
	if f.LogLevel > slog.LevelInfo {
		f.LogLevel = slog.LevelError
	}
	return f.logger(w)
}

// openGate makes the gate in front of the API, with one customer and one operator, whose credentials go to dev.json.
func (c *devCmd) openGate(ctx context.Context, log *slog.Logger, databases databases, url, upstream string) (*devFile, *gate.Gate, error) {
	secret, err := gate.LoadOrCreateSecret(filepath.Join(c.DataDir, "gate.secret"))
	if err != nil {
		return nil, nil, err
	}
	routes, err := gate.ParseRoutes([]byte(routesTo(upstream)))
	if err != nil {
		return nil, nil, err
	}
	g, err := gate.New(ctx, gate.Config{DatabaseURL: databases.gate, Routes: routes, Secret: secret, PublicURL: url, PlainCookies: true, Logger: log,
		LoginRate: gate.Rate{Requests: 600, Per: gate.Duration(time.Minute)}, DrainTimeout: c.ShutdownTimeout})
	if err != nil {
		return nil, nil, err
	}
	file, err := c.ensureUsers(ctx, g.Store(), databases, url)
	if err != nil {
		g.Close()
		return nil, nil, err
	}
	return file, g, nil
}

func (c *devCmd) ensureUsers(ctx context.Context, users *gate.Store, databases databases, url string) (*devFile, error) {
	file, err := readDevFile(c.DataDir)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
		file = &devFile{}
	}
	file.URL, file.DatabaseURL = url, databases.millrace
	for _, u := range []struct {
		*devUser
		email, name, role string
	}{{&file.Customer, "customer@example.com", "Ada Customer", "customer"}, {&file.Operator, "operator@example.com", "Otto Operator", "operator"}} {
		u.Email = u.email
		u.Password = cmp.Or(u.Password, strings.ToLower(rand.Text())[:16])
		u.APIKey = cmp.Or(u.APIKey, gate.NewKeyToken())
	}
	if err := file.write(c.DataDir); err != nil { // before the users are made, so that no credential is lost
		return nil, fmt.Errorf("write dev.json: %w", err)
	}
	for _, u := range []struct {
		devUser
		name, role string
	}{{file.Customer, "Ada Customer", "customer"}, {file.Operator, "Otto Operator", "operator"}} {
		if _, err := users.EnsureUser(ctx, gate.NewUser{Email: u.Email, Name: u.name, Password: u.Password, Roles: []string{u.role}, Verified: true}); err != nil {
			return nil, fmt.Errorf("make %s: %w", u.Email, err)
		}
		if _, err := users.EnsureKey(ctx, gate.NewKey{Email: u.Email, Name: "dev"}, u.APIKey); err != nil {
			return nil, fmt.Errorf("make the key of %s: %w", u.Email, err)
		}
	}
	return file, nil
}

// routesTo are the gate's routes with the API at an address, the simulated providers' pages among them.
func routesTo(upstream string) string {
	return strings.ReplaceAll(deploy.Routes, deploy.RoutesUpstream, "http://"+upstream) +
		"\n  - {path: /simulated/, upstream: millrace, allow: [public]}\n"
}

// greet says where everything is and what to type next.
func (c *devCmd) greet(out io.Writer, d *devFile, ops string, took time.Duration) {
	p := paintFor(out)
	line := func(name, value string) { fmt.Fprintf(out, "  %s %s\n", p(dim, fmt.Sprintf("%-10s", name)), value) }
	fmt.Fprintf(out, "\n%s is up after %s.\n\n", p(bold, "Millrace"), took.Round(10*time.Millisecond))
	line("shop", p(cyan, d.URL+"/"))
	line("operators", p(cyan, d.URL+"/admin/"))
	line("API", p(cyan, d.URL+"/docs"))
	if ops != "" {
		line("metrics", p(cyan, "http://"+ops+"/metrics"))
	}
	line("database", d.DatabaseURL)
	line("customer", d.Customer.Email+"  "+d.Customer.Password)
	line("operator", d.Operator.Email+"  "+d.Operator.Password)
	line("keys", devPath(c.DataDir))
	dir := ""
	if c.DataDir != ".millrace" {
		dir = " --data-dir " + c.DataDir
	}
	fmt.Fprintf(out, `
Place an order from another terminal:

%s

and follow it live by the id it prints:

%s

Ctrl-C stops all of it.
`, p(green, fmt.Sprintf(`curl -sS %s/v1/orders \
  -H 'Authorization: Bearer %s' \
  -H "Idempotency-Key: $(date +%%s)-$$" -H 'Content-Type: application/json' \
  -d '{"lines":[{"sku":"TEA-001","quantity":2},{"sku":"CUP-002","quantity":1}],"payment_method":"pm_ok",
       "ship_to":{"name":"Ada Lovelace","line1":"12 Mill Lane","city":"Bath","postal_code":"BA1 1AA","country":"GB"}}'`,
		d.URL, d.Customer.APIKey)),
		p(green, "go run ./cmd/millrace watch"+dir+" ORDER_ID"))
}
