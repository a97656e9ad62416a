// Command bench measures Millrace against what it replaces, on the Postgres of the same run with the same durability. Each
// subcommand takes its baselines in alternation with what it measures, several rounds, and prints medians with their ranges.
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
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE) // which would end it where nobody reads what it prints any more, and leave behind what it started
	err := run(ctx, audience{os.Stdout, stop}, audience{os.Stderr, stop}, os.Args[1:]...)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// audience is an output that calls gone when nobody reads it any more.
type audience struct {
	io.Writer
	gone func()
}

// Write is part of io.Writer.
func (a audience) Write(p []byte) (int, error) {
	n, err := a.Writer.Write(p)
	if errors.Is(err, syscall.EPIPE) {
		a.gone()
	}
	return n, err
}

type cli struct {
	Intake    intakeCmd    `cmd:"" help:"Orders taken in over HTTP, directly and through the gate, against pgbench."`
	Pipeline  pipelineCmd  `cmd:"" help:"Orders from post to completed, against pgbench, a textbook design and River's defaults."`
	Live      liveCmd      `cmd:"" help:"Live streams: what idle ones cost, how soon and how many events arrive, and what stalled readers do to others."`
	Flashsale flashsaleCmd `cmd:"" help:"Many orders for few units, taken in by several processes: none oversold, none out of turn, and how fast."`
	Growth    growthCmd    `cmd:"" help:"Orders taken in, worked off and listed with millions stored, against an empty database."`
	Snapshot  snapshotCmd  `cmd:"" help:"The pipeline under half of its load while a transaction keeps an old snapshot, and how its backlog drains."`
	Gate      gateCmd      `cmd:"" help:"What the gate adds to a request, in front of an upstream of the bench, against a bare proxy; idle streams, and a storm of logins."`
	Micro     microCmd     `cmd:"" help:"The Go benchmarks beside the code: groups, encoding, streams, the gate; benchstat reads what they print."`
	Results   resultsCmd   `cmd:"" help:"Make the page of results, with its charts, of what the others printed with --json."`
	Sell      sellCmd      `cmd:"" hidden:"" help:"One process of a flash sale."`
	Beside    besideCmd    `cmd:"" hidden:"" help:"One process beside the gate: its upstream, or a bare proxy."`
}

// stdio is where commands write: results to out, progress to err.
type stdio struct{ out, err io.Writer }

func run(ctx context.Context, out, errOut io.Writer, args ...string) error {
	var c cli
	helped := false
	parser, err := kong.New(&c, kong.Name("bench"),
		kong.Description("Measure Millrace. Everything runs on this machine and sends to its own addresses only."),
		kong.Writers(out, errOut), kong.Exit(func(int) { helped = true }), kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(stdio{out, errOut}))
	if err != nil {
		return err
	}
	command, err := parser.Parse(args)
	if helped {
		return nil
	}
	if err != nil {
		if _, ok := errors.AsType[*kong.ParseError](err); ok {
			return fmt.Errorf("%w (bench --help says what there is)", err)
		}
		return err
	}
	return command.Run()
}
