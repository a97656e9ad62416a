package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"millrace"
	"millrace/db"
	"millrace/db/notify"
	"millrace/jobs"
	"millrace/provider/simulated"
)

type pipelineCmd struct {
	commonFlags
	SKUs    int    `name:"skus" default:"1000" help:"Products that orders are spread over."`
	Profile string `placeholder:"FILE" help:"Measure nothing but Millrace, once, and write a CPU profile of it to FILE."`
}

// pipeline is a store and workers in this process, in one of the ways to compare.
type pipeline struct {
	store    *db.Store
	runner   *jobs.Runner
	bell     *notify.Doorbell
	closers  []func()
	complete atomic.Int64
	waiting  sync.Map // order id -> chan struct{}, closed when it completed
}

// mode is a way to run the same code.
type mode struct {
	name     string
	textbook bool // groups of one, the job completed and the change notified in the step's own transaction
	jobs     jobs.Config
	// committed, if set, is told of each change of an order right after its commit. It is not for the textbook.
	committed func(orderID uuid.UUID)
}

func millraceMode() mode { return mode{name: "millrace"} }

// textbookModes are the textbook design with sensible River settings; the best of them counts.
func textbookModes() []mode {
	return []mode{
		{name: "textbook, 100 workers", textbook: true, jobs: jobs.Config{Workers: 100, FetchCooldown: 10 * time.Millisecond, PollInterval: 100 * time.Millisecond}},
		{name: "textbook, 300 workers", textbook: true, jobs: jobs.Config{Workers: 300, FetchCooldown: 50 * time.Millisecond, PollInterval: 100 * time.Millisecond}},
	}
}

func riverDefaults() mode {
	return mode{name: "River's defaults", textbook: true, jobs: jobs.Config{Workers: 100, FetchCooldown: river.FetchCooldownDefault, PollInterval: river.FetchPollIntervalDefault}}
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
		conns = 32
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
		if p.bell, err = notify.NewDoorbell(notify.DoorbellConfig{DatabaseURL: databaseURL, Logger: quiet()}); err != nil {
			return p, err
		}
		config.Ring = p.bell.Ring
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

func (p *pipeline) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if p.runner != nil {
		_ = p.runner.Stop(ctx) // jobs left over belong to a database that is dropped
	}
	if p.store != nil {
		p.store.Close()
	}
	if p.bell != nil {
		_ = p.bell.Close(ctx)
	}
	for _, f := range p.closers {
		f()
	}
}

// observe counts orders that completed: their tracking job is the last.
func (p *pipeline) observe(job *rivertype.JobRow, outcome string, _ time.Duration) {
	if outcome != "done" || job.Kind != (millrace.TrackShipmentJob{}).Kind() {
		return
	}
	p.complete.Add(1)
	if id, ok := jobs.OrderID(job); ok {
		if done, ok := p.waiting.LoadAndDelete(id); ok {
			close(done.(chan struct{}))
		}
	}
}

func (p *pipeline) place(ctx context.Context, n, skus int) (uuid.UUID, error) {
	placed, err := p.store.PlaceOrder(ctx, db.PlaceOrder{Principal: millrace.Principal{Subject: fmt.Sprintf("bench-%d", n%1000)}, Key: uuid.NewString(),
		RequestHash: sha256.Sum256([]byte("bench")), Request: orderOf(n, skus),
		Encode: func(*millrace.Order) ([]byte, error) { return responseSample, nil }})
	return placed.OrderID, err
}

// responseSample is as long as an answer to a post of two lines is.
var responseSample = bytes.Repeat([]byte("abcdefghijklmnopqrstuvwxyz"), 34)

// throughput keeps outstanding orders under way for a time and returns the orders completed a second.
func (p *pipeline) throughput(ctx context.Context, skus, outstanding int, warm, d time.Duration) (float64, error) {
	whole := ctx
	ctx, cancel := context.WithCancel(whole)
	defer cancel()
	var placed atomic.Int64
	errs := make(chan error, 1)
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if placed.Load()-p.complete.Load() >= int64(outstanding) {
					_ = sleep(ctx, time.Millisecond) // enough is under way
					continue
				}
				if _, err := p.place(ctx, int(placed.Add(1)), skus); err != nil && ctx.Err() == nil {
					select {
					case errs <- err:
					default:
					}
					cancel()
				}
			}
		})
	}
	rate := 0.0
	if sleep(ctx, warm) == nil {
		begun, before := time.Now(), p.complete.Load()
		if sleep(ctx, d) == nil {
			rate = float64(p.complete.Load()-before) / time.Since(begun).Seconds()
		}
	}
	cancel()
	wg.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
		return rate, whole.Err()
	}
}

// latency places orders at a steady rate and returns the times from the post to completed.
func (p *pipeline) latency(ctx context.Context, skus int, perSecond float64, d time.Duration) (*hdrhistogram.Histogram, error) {
	h := hdrhistogram.New(1, 60_000_000, 3) // microseconds
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	ticker := time.NewTicker(time.Duration(float64(time.Second) / perSecond))
	defer ticker.Stop()
	end := time.After(d)
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-end:
			wg.Wait()
			if e := failed.Load(); e != nil {
				return nil, *e
			}
			return h, nil
		case <-ticker.C:
		}
		begun := time.Now()
		wg.Go(func() {
			id, err := p.place(ctx, n, skus)
			if err != nil {
				failed.Store(&err)
				return
			}
			if p.await(ctx, id) {
				mu.Lock()
				defer mu.Unlock()
				_ = h.RecordValue(time.Since(begun).Microseconds()) // a minute is past the scale, and await ends before
			}
		})
	}
}

// await waits until an order has completed.
func (p *pipeline) await(ctx context.Context, id uuid.UUID) bool {
	done := make(chan struct{})
	p.waiting.Store(id, done)
	if o, err := p.store.WorkOrder(ctx, id); err == nil && o.Status == millrace.OrderCompleted {
		return true // it completed before we waited
	}
	select {
	case <-done:
		return true
	case <-ctx.Done():
	case <-time.After(50 * time.Second):
	}
	return false
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
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

// profile runs Millrace at its highest rate and writes a CPU profile.
func (c *pipelineCmd) profile(ctx context.Context, stdio stdio) (err error) {
	b, err := c.newBedWith(ctx, stdio, 1, map[string]string{"shared_preload_libraries": "pg_stat_statements"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	if err := b.exec(ctx, "CREATE EXTENSION pg_stat_statements"); err != nil {
		return err
	}
	f, err := os.Create(c.Profile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	before, postgres := cpuTime(os.Getpid()), cpuTime(b.postgresPIDs()...)
	rate, err := c.measure(ctx, b, millraceMode())
	if err != nil {
		return err
	}
	seconds := (c.Time + warmUp).Seconds()
	fmt.Fprintf(stdio.out, "%.0f orders/s; processor time an order: Go %.0f us, Postgres %.0f us\n", rate,
		float64((cpuTime(os.Getpid())-before).Microseconds())/rate/seconds, float64((cpuTime(b.postgresPIDs()...)-postgres).Microseconds())/rate/seconds)
	return b.statements(ctx, stdio.out)
}

// warmUp is how long a pipeline runs before its rate is taken.
const warmUp = 3 * time.Second

// Run measures.
func (c *pipelineCmd) Run(ctx context.Context, stdio stdio) (err error) {
	if c.Profile != "" {
		return c.profile(ctx, stdio)
	}
	modes := append(textbookModes(), riverDefaults())
	b, err := c.newBed(ctx, stdio, c.Rounds*(len(modes)+4)+4)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	r := &report{Command: "pipeline"}
	if r.Machine, r.Settings, err = describe(ctx, b.url); err != nil {
		return err
	}
	ours, plain := []float64{}, []float64{}
	others := make([][]float64, len(modes))
	var latencies [4][]float64 // p50 and p99 at 10 orders/s, p50 and p99 at half load
	clients := []int{8, 16}
	for round := range c.Rounds {
		b.step("round %d: pgbench", round+1)
		url, err := b.database(ctx, c.SKUs)
		if err != nil {
			return err
		}
		rate, at, err := bestOf(ctx, b.pgbench(), url, lifeScript(c.SKUs), c.Time/2, clients...)
		if err != nil {
			return err
		}
		plain, clients = append(plain, rate), []int{at}

		b.step("round %d: millrace", round+1)
		rate, err = c.measure(ctx, b, millraceMode())
		if err != nil {
			return err
		}
		ours = append(ours, rate)
		for i, m := range modes {
			b.step("round %d: %s", round+1, m.name)
			rate, err := c.measure(ctx, b, m)
			if err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			others[i] = append(others[i], rate)
		}
		for i, load := range []float64{10, median(ours) / 2} {
			b.step("round %d: latency at %.0f orders/s", round+1, load)
			h, err := c.measureLatency(ctx, b, load)
			if err != nil {
				return err
			}
			latencies[2*i] = append(latencies[2*i], float64(h.ValueAtQuantile(50))/1000)
			latencies[2*i+1] = append(latencies[2*i+1], float64(h.ValueAtQuantile(99))/1000)
		}
	}
	r.add("millrace, post to completed", "orders/s", ours...)
	r.add(fmt.Sprintf("pgbench, the same life, %d clients", clients[0]), "orders/s", plain...)
	best := others[0]
	for i, m := range modes {
		if r.add(m.name, "orders/s", others[i]...) > median(best) && i < len(modes)-1 {
			best = others[i]
		}
	}
	r.atLeast("pipeline against pgbench playing the same life", r.add("against pgbench", "times", ratios(ours, plain)...), 1.5)
	r.atLeast("pipeline against textbook", r.add("against textbook", "times", ratios(ours, best)...), 4)
	r.atLeast("pipeline against River's defaults", r.add("against River's defaults", "times", ratios(ours, others[len(modes)-1])...), 6)
	r.atMost("post to completed at 10 orders/s, p50", r.add("post to completed at 10 orders/s, p50", "ms", latencies[0]...), 10)
	r.atMost("post to completed at 10 orders/s, p99", r.add("post to completed at 10 orders/s, p99", "ms", latencies[1]...), 30)
	r.add("post to completed at half load, p50", "ms", latencies[2]...)
	r.add("post to completed at half load, p99", "ms", latencies[3]...)
	return r.write(stdio.out, c.JSON)
}

func (c *pipelineCmd) measure(ctx context.Context, b *bed, m mode) (float64, error) {
	url, err := b.database(ctx, c.SKUs)
	if err != nil {
		return 0, err
	}
	p, err := m.start(ctx, url)
	if err != nil {
		return 0, err
	}
	defer p.close()
	return p.throughput(ctx, c.SKUs, 4000, warmUp, c.Time)
}

func (c *pipelineCmd) measureLatency(ctx context.Context, b *bed, perSecond float64) (*hdrhistogram.Histogram, error) {
	url, err := b.database(ctx, c.SKUs)
	if err != nil {
		return nil, err
	}
	p, err := millraceMode().start(ctx, url)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if _, err := p.latency(ctx, c.SKUs, perSecond, 2*time.Second); err != nil { // warm up
		return nil, err
	}
	return p.latency(ctx, c.SKUs, perSecond, max(c.Time, 10*time.Second))
}
