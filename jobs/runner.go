package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"millrace"
	"millrace/db"
	"millrace/db/migrations"
)

// Config is what a Runner needs. Pool, Store, Gateway and Carrier are required.
type Config struct {
	Pool      *pgxpool.Pool // River's own, so that its fetches never wait for a command's connection
	Store     *db.Store
	Gateway   millrace.Gateway
	Carrier   millrace.Carrier
	Warehouse millrace.Warehouse // nil where the stock is our own and nobody need be asked
	Logger    *slog.Logger

	Queues        []string      // which to work (default all); maintenance is always among them
	Workers       int           // jobs at a time for each queue (default 1000); one that waits costs nothing
	FetchCooldown time.Duration // between looks in Postgres for jobs (default 10 ms)
	PollInterval  time.Duration // between looks for jobs that no notification announced (default 250 ms)
	CallTimeout   time.Duration // of one call to a provider (default 8 s); below JobTimeout
	CheckEvery    time.Duration // between questions about a buyer or a parcel (default 15 s)
	SweepEvery    time.Duration // between sweeps (default 1 min)
	BookEvery     time.Duration // between two times that what has shipped is taken off the levels of stock (default 5 s)
	KeepKeys      time.Duration // how long idempotency keys are kept (default 7 days)
	KeepJobs      time.Duration // how long completed jobs are kept (default 10 min)
	PollOnly      bool          // do without LISTEN, behind a pooler for instance
	Local         *Local        // brings the jobs that this process adds (default: only Postgres does)
	// Around, if set, runs each try of a job: it calls run and returns its error.
	Around func(ctx context.Context, job *rivertype.JobRow, run func(context.Context) error) error
	// Observe is told what became of each try of a job.
	Observe func(job *rivertype.JobRow, outcome string, took time.Duration)
}

// Times that make the work of a killed process go on within a minute: a job ends within jobTimeout, so one that is older than
// rescueAfter has lost its process, and the leader looks for those every 30 seconds. A job that was rescued and yet runs is harmless.
const (
	jobTimeout      = 12 * time.Second
	rescueAfter     = 14 * time.Second
	softStopTimeout = 10 * time.Second
)

// Runner works jobs in this process. Make one with New, Start it, and Stop it.
type Runner struct {
	config Config
	client *river.Client[pgx.Tx]

	stopBooking context.CancelFunc
	booking     sync.WaitGroup
}

// New makes a Runner.
func New(c Config) (*Runner, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if len(c.Queues) == 0 {
		c.Queues = millrace.Queues()
	}
	c.Workers = cmp.Or(c.Workers, 1000)
	c.FetchCooldown = cmp.Or(c.FetchCooldown, 10*time.Millisecond)
	c.PollInterval = cmp.Or(c.PollInterval, 250*time.Millisecond)
	c.CallTimeout = cmp.Or(c.CallTimeout, 8*time.Second)
	c.CheckEvery = cmp.Or(c.CheckEvery, 15*time.Second)
	c.SweepEvery = cmp.Or(c.SweepEvery, time.Minute)
	c.BookEvery = cmp.Or(c.BookEvery, 5*time.Second)
	c.KeepKeys = cmp.Or(c.KeepKeys, 7*24*time.Hour)
	c.KeepJobs = cmp.Or(c.KeepJobs, 10*time.Minute)
	if c.CallTimeout >= jobTimeout {
		return nil, fmt.Errorf("a call to a provider may take less than %s: %s is too long", jobTimeout, c.CallTimeout)
	}
	queues, err := queueConfig(c)
	if err != nil {
		return nil, err
	}
	c.Local = cmp.Or(c.Local, &Local{})
	r := &Runner{config: c, stopBooking: func() {}}
	r.client, err = river.NewClient(driver{riverpgxv5.New(c.Pool), c.Local, c.FetchCooldown}, &river.Config{
		Schema:                      migrations.RiverSchema,
		Logger:                      c.Logger,
		Queues:                      queues,
		Workers:                     r.workers(),
		Middleware:                  []rivertype.Middleware{&keeper{config: c}},
		RetryPolicy:                 Backoff{},
		JobTimeout:                  jobTimeout,
		RescueStuckJobsAfter:        rescueAfter,
		SoftStopTimeout:             softStopTimeout,
		FetchOnlyKnownKinds:         true,
		FetchCooldown:               river.FetchCooldownMin, // the driver sees to ours
		FetchPollInterval:           c.PollInterval,
		PollOnly:                    c.PollOnly,
		CompletedJobRetentionPeriod: c.KeepJobs,
		ReindexerIndexNames:         reindexed(),
		PeriodicJobs: []*river.PeriodicJob{river.NewPeriodicJob(river.PeriodicInterval(c.SweepEvery),
			func() (river.JobArgs, *river.InsertOpts) {
				j := millrace.SweepJob{}
				return j, &river.InsertOpts{Queue: j.Queue(), MaxAttempts: 1}
			}, &river.PeriodicJobOpts{RunOnStart: true})},
	})
	if err != nil {
		return nil, fmt.Errorf("make River's client: %w", err)
	}
	return r, nil
}

// reindexed are River's indexes less those that our migrations drop.
func reindexed() []string {
	return slices.DeleteFunc(river.ReindexerIndexNamesDefault(), func(name string) bool {
		return name == "river_job_args_index" || name == "river_job_metadata_index"
	})
}

func queueConfig(c Config) (map[string]river.QueueConfig, error) {
	queues := map[string]river.QueueConfig{millrace.QueueMaintenance: {MaxWorkers: 1, FetchPollInterval: time.Second}}
	for _, q := range c.Queues {
		switch {
		case !slices.Contains(millrace.Queues(), q):
			return nil, fmt.Errorf("there is no queue %q: choose from %v", q, millrace.Queues())
		case q == millrace.QueueShipping:
			queues[millrace.QueueTracking] = river.QueueConfig{MaxWorkers: c.Workers}
			fallthrough
		case q != millrace.QueueMaintenance:
			queues[q] = river.QueueConfig{MaxWorkers: c.Workers}
		}
	}
	return queues, nil
}

func (r *Runner) workers() *river.Workers {
	w := river.NewWorkers()
	river.AddWorker(w, &reserveWorker{Config: r.config})
	river.AddWorker(w, &paymentWorker{Config: r.config})
	river.AddWorker(w, &shipWorker{Config: r.config})
	river.AddWorker(w, &trackWorker{Config: r.config})
	river.AddWorker(w, &cancelShipmentWorker{Config: r.config})
	river.AddWorker(w, &sweepWorker{Config: r.config})
	return w
}

// Client is River's client, for River UI.
func (r *Runner) Client() *river.Client[pgx.Tx] { return r.client }

// Start begins to work jobs. The end of ctx is a Stop.
func (r *Runner) Start(ctx context.Context) error {
	if err := r.client.Start(ctx); err != nil {
		return fmt.Errorf("start to work jobs: %w", err)
	}
	r.config.Local.start()
	context.AfterFunc(ctx, r.config.Local.stop)
	ctx, r.stopBooking = context.WithCancel(ctx)
	r.booking.Go(func() { r.book(ctx) })
	return nil
}

// book takes what has shipped off the levels of stock, a while after it did. What is left when it ends, or fails, the sweep finds.
func (r *Runner) book(ctx context.Context) {
	for {
		select {
		case <-r.config.Store.Shipped():
		case <-ctx.Done():
			return
		}
		if sleep(ctx, r.config.BookEvery) != nil {
			return
		}
		if err := r.config.Store.BookShipped(ctx); err != nil && ctx.Err() == nil {
			r.config.Logger.WarnContext(ctx, "what has shipped was not taken off the stock and will be later", "error", err)
		}
	}
}

// Stop takes no new jobs and waits for those that run; after softStopTimeout, or when ctx ends, their contexts are canceled and they
// are handed back.
func (r *Runner) Stop(ctx context.Context) error {
	r.config.Local.stop()
	r.stopBooking()
	err := r.client.Stop(ctx)
	r.booking.Wait()
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), softStopTimeout)
		defer cancel()
		err = r.client.StopAndCancel(hard)
	}
	return errors.Join(err, r.giveBack(ctx))
}

// giveBackTimeout bounds the wait for what was promised to workers, and the statements that give it, or a transaction, up.
const giveBackTimeout = 2 * time.Second

// giveBack lets other processes have what was handed to this one's workers and is not begun.
func (r *Runner) giveBack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
	defer cancel()
	return giveBack(ctx, riverpgxv5.New(r.config.Pool).GetExecutor(), r.config.Local.leftovers(ctx))
}
