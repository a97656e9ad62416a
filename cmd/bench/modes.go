package main

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"millrace/db"
	"millrace/db/notify"
	"millrace/jobs"
	"millrace/provider/simulated"
)

// mode is a way to run the same code.
type mode struct {
	name     string
	textbook bool // groups of one, the job completed and the change notified in the step's own transaction
	// outstanding is how many orders are kept under way when the rate is measured: enough that no worker waits for work, and few enough
	// that they are through the first step before the measurement begins, as otherwise a slow mode is measured while it fills up.
	outstanding int
	jobs        jobs.Config
	// committed, if set, is told of each change of an order right after its commit. It is not for the textbook.
	committed func(orderID uuid.UUID)
}

func millraceMode() mode { return mode{name: "millrace", outstanding: 4000} }

// textbookModes are the textbook design with sensible River settings; the best of them counts.
func textbookModes() []mode {
	return []mode{
		{name: "textbook, 100 workers", textbook: true, outstanding: 500, jobs: jobs.Config{Workers: 100, FetchCooldown: 10 * time.Millisecond, PollInterval: 100 * time.Millisecond}},
		{name: "textbook, 300 workers", textbook: true, outstanding: 1500, jobs: jobs.Config{Workers: 300, FetchCooldown: 50 * time.Millisecond, PollInterval: 100 * time.Millisecond}},
	}
}

func riverDefaults() mode {
	return mode{name: "River's defaults", textbook: true, outstanding: 500, jobs: jobs.Config{Workers: 100, FetchCooldown: river.FetchCooldownDefault, PollInterval: river.FetchPollIntervalDefault}}
}

// workerGC is the garbage collector's percentage in all modes, as `millrace work` sets it.
const workerGC = 400

// start runs a pipeline on a database.
func (m mode) start(ctx context.Context, databaseURL string) (p *pipeline, err error) {
	debug.SetGCPercent(workerGC)
	p = &pipeline{}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	conns := int32(8)
	if m.textbook {
		conns = 20
	}
	pool, err := db.NewPool(ctx, databaseURL, conns)
	if err != nil {
		return p, err
	}
	p.closers = append(p.closers, pool.Close)
	config := db.Config{Pool: pool, Logger: quiet()}
	tb := &textbook{}
	if m.textbook {
		config.MaxGroup, config.Flushes, config.InTx, config.OutOfTurn = 1, int(conns)-4, tb.inTx, true
	} else {
		m.jobs.Local = &jobs.Local{}
		if p.bell, err = notify.NewDoorbell(notify.DoorbellConfig{DatabaseURL: databaseURL, LocalJobs: m.jobs.Local.Announce, Logger: quiet()}); err != nil {
			return p, err
		}
		m.jobs.Local.Own = p.bell.Announced
		config.Ring, config.Announce, config.Workers = p.bell.Ring, p.bell.Announce, m.jobs.Local
		if m.committed != nil {
			config.Ring = func(orderID, customerID uuid.UUID) {
				m.committed(orderID)
				p.bell.Ring(orderID, customerID)
			}
		}
	}
	if p.store, err = db.NewStore(config); err != nil {
		return p, err
	}
	queuePool, err := db.NewPool(ctx, databaseURL, 8)
	if err != nil {
		return p, err
	}
	p.closers = append(p.closers, queuePool.Close)
	providers := simulated.Instant()
	p.closers = append(p.closers, providers.Close)
	c := m.jobs
	c.Pool, c.Store, c.Gateway, c.Carrier, c.Logger = queuePool, p.store, providers.Gateway(), providers.Carrier(), quiet()
	c.Observe = p.observe
	if m.textbook {
		c.Around = tb.around
	}
	if p.runner, err = jobs.New(c); err != nil {
		return p, err
	}
	return p, p.runner.Start(context.WithoutCancel(ctx))
}

// textbook completes a step's job and notifies of its change within the step's transaction, as the textbook has it.
type textbook struct {
	running sync.Map // order id -> func(tx) error that completes the job under way
}

// around remembers the job that runs for an order.
func (t *textbook) around(ctx context.Context, job *rivertype.JobRow, run func(context.Context) error) error {
	if id, ok := jobs.OrderID(job); ok {
		t.running.Store(id, func(tx pgx.Tx) error {
			_, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, &river.Job[orderArgs]{JobRow: job})
			return err
		})
		defer t.running.Delete(id)
	}
	return run(ctx)
}

// orderArgs are any job's arguments, as far as completing it needs them.
type orderArgs struct {
	OrderID uuid.UUID `json:"order_id"`
}

// Kind is part of river.JobArgs and never used.
func (orderArgs) Kind() string { return "any" }

func (t *textbook) inTx(ctx context.Context, tx pgx.Tx, orders []uuid.UUID) error {
	for _, id := range orders {
		if complete, ok := t.running.Load(id); ok {
			if err := complete.(func(pgx.Tx) error)(tx); err != nil && !errors.Is(err, rivertype.ErrNotFound) {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "SELECT pg_notify('millrace_bench', $1)", id.String()); err != nil {
			return err
		}
	}
	return nil
}
