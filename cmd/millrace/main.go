// Command millrace is the order processing system: it serves the API and pages, works jobs, prepares the database, and runs all of
// it on one machine for trying out.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout, os.Stderr, os.Args[1:]...)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "millrace:", err)
		os.Exit(1)
	}
}

// cli is all commands and flags. Every flag can be given by its environment variable.
type cli struct {
	Dev     devCmd     `cmd:"" help:"Run all of it on this machine: Postgres, gate, API, pages, workers and simulated providers."`
	Serve   serveCmd   `cmd:"" help:"Serve the API, the live streams and the pages. SIGTERM drains and ends it."`
	Work    workCmd    `cmd:"" help:"Work jobs. SIGTERM takes no new ones, lets the running ones finish and ends it."`
	Migrate migrateCmd `cmd:"" help:"Bring the database up to date. Safe to repeat and to run at once in several places."`
	Seed    seedCmd    `cmd:"" help:"Put a small catalogue with stock into the database. Safe to repeat: what is there stays."`
	Watch   watchCmd   `cmd:"" help:"Follow an order in the terminal until it has ended."`
}

// logFlags say how a server logs.
type logFlags struct {
	LogLevel  slog.Level `default:"info" env:"MILLRACE_LOG_LEVEL" help:"Least level to log: debug, info, warn or error."`
	LogFormat string     `default:"text" enum:"text,json" env:"MILLRACE_LOG_FORMAT" help:"Form of the log: text or json."`
}

func (f *logFlags) logger(w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: f.LogLevel}
	if f.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// databaseFlag says where the database is.
type databaseFlag struct {
	DatabaseURL string `required:"" env:"DATABASE_URL" placeholder:"postgres://…" help:"The Postgres to use."`
}

// stdio is where commands write.
type stdio struct{ out, err io.Writer }

// run is the whole program but for signals and the exit status.
func run(ctx context.Context, out, errOut io.Writer, args ...string) error {
	var c cli
	helped := false
	parser, err := kong.New(&c,
		kong.Name("millrace"),
		kong.Description("A real-time order processing system on Postgres. Durations are written 300ms, 15s, 2m or 1h."),
		kong.Writers(out, errOut),
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(stdio{out, errOut}),
	)
	if err != nil {
		return err
	}
	command, err := parser.Parse(args)
	if helped {
		return nil
	}
	if err != nil {
		if _, ok := errors.AsType[*kong.ParseError](err); ok {
			return fmt.Errorf("%w (millrace --help says what there is)", err)
		}
		return err
	}
	return command.Run()
}

// within bounds what remains to be done once a process was told to end.
func within(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}
