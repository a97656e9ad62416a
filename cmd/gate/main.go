// Command gate is the authentication proxy of package gate: it serves, prepares its database, checks its routes, and manages
// users and keys. It imports package gate and nothing else of this module.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"millrace/gate"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdin, os.Stdout, os.Stderr, os.Args[1:]...)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gate:", err)
		os.Exit(1)
	}
}

// cli is all commands and flags.
type cli struct {
	Serve   serveCmd   `cmd:"" help:"Run the gate. SIGTERM drains and ends it, SIGHUP reads routes and certificates again."`
	Migrate migrateCmd `cmd:"" help:"Bring the schema \"gate\" of the database up to date. Safe to repeat."`
	Check   checkCmd   `cmd:"" help:"Check a routes file and list all its faults."`
	Routes  routesCmd  `cmd:"" help:"Show the routes of a file, in the order in which they are tried."`
	User    struct {
		Add      userAddCmd      `cmd:"" help:"Add a user."`
		Role     userRoleCmd     `cmd:"" help:"Replace a user's roles. Ends the user's sessions."`
		Password userPasswordCmd `cmd:"" help:"Set a user's password, read from standard input. Ends the user's sessions."`
		Disable  userDisableCmd  `cmd:"" help:"Shut a user out at once: sessions, streams and keys."`
		Enable   userEnableCmd   `cmd:"" help:"Let a disabled user in again."`
	} `cmd:"" help:"Manage users."`
	Key struct {
		Create keyCreateCmd `cmd:"" help:"Make an API key and print it; it cannot be shown again."`
		List   keyListCmd   `cmd:"" help:"List a user's API keys."`
		Revoke keyRevokeCmd `cmd:"" help:"End an API key."`
	} `cmd:"" help:"Manage API keys."`
	HashPasswords hashPasswordsCmd `cmd:"" hidden:"" help:"Hash passwords for a gate that runs, which starts this."`
	Audit         auditCmd         `cmd:"" help:"Show the newest events of the audit log, newest first."`
}

// stdio is where commands read and write.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// run is the whole program but for signals and the exit status.
func run(ctx context.Context, in io.Reader, out, errOut io.Writer, args ...string) error {
	var c cli
	helped := false
	parser, err := kong.New(&c,
		kong.Name("gate"),
		kong.Description("An authenticating reverse proxy. Sizes are in bytes; durations are written as 500ms, 30s, 5m or 12h."),
		kong.Writers(out, errOut),
		kong.Exit(func(int) { helped = true }),
		kong.UsageOnError(),
		kong.DefaultEnvars("GATE"),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(stdio{in, out, errOut}),
	)
	if err != nil {
		return fmt.Errorf("build the command line: %w", err)
	}
	command, err := parser.Parse(args)
	if helped {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w (try: gate --help)", err)
	}
	return command.Run()
}

// database is the flag that most commands share.
type database struct {
	DatabaseURL string `name:"database-url" env:"GATE_DATABASE_URL" required:"" placeholder:"URL" help:"Postgres of the gate, as postgres://user:password@host:port/name."`
}

func (d database) store(ctx context.Context) (*gate.Store, error) {
	s, err := gate.OpenStore(ctx, d.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("open the gate's database: %w", err)
	}
	return s, nil
}

// routesFile is the flag that names the routes.
type routesFile struct {
	Config string `name:"config" env:"GATE_CONFIG" required:"" type:"path" placeholder:"FILE" help:"YAML file of upstreams and routes."`
}

func (f routesFile) load() (*gate.Routes, error) {
	text, err := os.ReadFile(f.Config)
	if err != nil {
		return nil, fmt.Errorf("read the routes file: %w", err)
	}
	routes, err := gate.ParseRoutes(text)
	if err != nil {
		return nil, fmt.Errorf("%s:\n%w", f.Config, err)
	}
	return routes, nil
}

type migrateCmd struct{ database }

func (c migrateCmd) Run(ctx context.Context, io stdio) error {
	if err := gate.Migrate(ctx, c.DatabaseURL); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	fmt.Fprintln(io.err, "the schema \"gate\" is up to date")
	return nil
}

// hashPasswordsCmd is the helper of a gate that serves. It ends with the gate: the signals that end both from a terminal must not end it
// while logins are still under way.
type hashPasswordsCmd struct{}

func (hashPasswordsCmd) Run(io stdio) error {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	return gate.HashPasswords(io.in, io.out)
}

type checkCmd struct{ routesFile }

func (c checkCmd) Run(io stdio) error {
	routes, err := c.load()
	if err != nil {
		return err
	}
	fmt.Fprintf(io.err, "%s is good: %d routes\n", c.Config, len(routes.Routes))
	return nil
}

type routesCmd struct{ routesFile }

func (c routesCmd) Run(io stdio) error {
	routes, err := c.load()
	if err != nil {
		return err
	}
	for _, r := range routes.Sorted() {
		fmt.Fprintln(io.out, r)
	}
	return nil
}

var errNoRole = errors.New("name at least one role, or --none")
