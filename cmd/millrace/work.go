package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"time"

	"millrace"
	"millrace/db"
	"millrace/jobs"
	"millrace/provider/simulated"
)

// jobFlags say how jobs are worked.
type jobFlags struct {
	Queues        []string      `default:"inventory,payment,shipping" enum:"inventory,payment,shipping,tracking,maintenance" env:"MILLRACE_QUEUES" help:"Queues to work, separated by commas: inventory, payment, shipping (tracking comes with it) and maintenance (always)."`
	Workers       int           `default:"1000" env:"MILLRACE_WORKERS" help:"Jobs at a time for each queue; one that waits costs nothing."`
	FetchCooldown time.Duration `default:"10ms" env:"MILLRACE_FETCH_COOLDOWN" help:"Least time between two looks in Postgres for jobs of a queue."`
	PollInterval  time.Duration `default:"250ms" env:"MILLRACE_POLL_INTERVAL" help:"Time between looks for jobs that no notification announced."`
	CallTimeout   time.Duration `default:"8s" env:"MILLRACE_CALL_TIMEOUT" help:"Limit of one call to a provider; less than 12s."`
	CheckEvery    time.Duration `default:"15s" env:"MILLRACE_CHECK_EVERY" help:"Time between questions about a buyer or a parcel."`
	KeepJobs      time.Duration `default:"10m" env:"MILLRACE_KEEP_JOBS" help:"How long completed jobs can be seen in River UI."`
	QueueConns    int32         `default:"8" env:"MILLRACE_QUEUE_CONNS" help:"Connections for fetching and finishing jobs."`
}

// providerFlags choose the outside systems. Each is an adapter in provider/.
type providerFlags struct {
	Gateway   string        `default:"simulated" enum:"simulated" env:"MILLRACE_GATEWAY" help:"Payment gateway: simulated."`
	Carrier   string        `default:"simulated" enum:"simulated" env:"MILLRACE_CARRIER" help:"Carrier: simulated."`
	Warehouse string        `default:"none" enum:"none,simulated" env:"MILLRACE_WAREHOUSE" help:"Warehouse to ask to pick: none or simulated."`
	Transit   time.Duration `default:"1s" env:"MILLRACE_TRANSIT" help:"When a parcel of the simulated carrier is in transit, after its label was bought."`
	Delivery  time.Duration `default:"3s" env:"MILLRACE_DELIVERY" help:"When it is delivered."`
}

func (f *providerFlags) config(log *slog.Logger) simulated.Config {
	return simulated.Config{TransitAfter: f.Transit, DeliverAfter: f.Delivery, OrderPage: "/orders/", Logger: log}
}

type workCmd struct {
	databaseFlag
	storeFlags
	jobFlags
	providerFlags
	opsFlags
	logFlags
	PollOnly        bool          `env:"MILLRACE_POLL_ONLY" help:"Do without LISTEN, behind a pooler for instance."`
	ShutdownTimeout time.Duration `default:"30s" env:"MILLRACE_SHUTDOWN_TIMEOUT" help:"How long running jobs may take to finish at the end."`
}

// workerGC is the garbage collector's percentage for a process that only works jobs, unless GOGC says otherwise: it holds little and
// allocates much, and collecting at the default costs it a fifth of its processor time.
const workerGC = 400

func (c *workCmd) Run(ctx context.Context, io stdio) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(workerGC)
	}
	log := c.logger(io.err)
	m := newMetrics()
	n, err := openNode(ctx, c.DatabaseURL, c.storeFlags, log, m, nil)
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := within(ctx, c.ShutdownTimeout)
		defer cancel()
		err = errors.Join(err, n.close(end))
	}()
	providers, err := simulated.Open(ctx, c.DatabaseURL, c.config(log))
	if err != nil {
		return err
	}
	defer providers.Close()
	ops, err := c.listenOps(ctx, m.registry, log, n.checks())
	if err != nil {
		return err
	}
	defer ops.close()
	return work(ctx, n, c.jobFlags, c.providerFlags, providers, c.PollOnly, c.ShutdownTimeout)
}

// work works jobs until ctx ends, and then until those that run are done or limit is over.
func work(ctx context.Context, n *node, f jobFlags, p providerFlags, providers *simulated.Providers, pollOnly bool, limit time.Duration) error {
	pool, err := db.NewPool(ctx, n.databaseURL, f.QueueConns)
	if err != nil {
		return err
	}
	defer pool.Close()
	var warehouse millrace.Warehouse
	if p.Warehouse == "simulated" {
		warehouse = providers.Warehouse()
	}
	runner, err := jobs.New(jobs.Config{Pool: pool, Store: n.store, Gateway: providers.Gateway(), Carrier: providers.Carrier(),
		Warehouse: warehouse, Logger: n.log, Queues: f.Queues, Workers: f.Workers, FetchCooldown: f.FetchCooldown,
		PollInterval: f.PollInterval, KeepJobs: f.KeepJobs, CallTimeout: f.CallTimeout, CheckEvery: f.CheckEvery, PollOnly: pollOnly, Local: n.local, Observe: n.metrics.observeJob})
	if err != nil {
		return err
	}
	if err := runner.Start(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	n.log.InfoContext(ctx, "working", "queues", fmt.Sprint(f.Queues))
	<-ctx.Done()
	end, cancel := within(ctx, limit)
	defer cancel()
	n.log.InfoContext(end, "finishing running jobs")
	return runner.Stop(end)
}
