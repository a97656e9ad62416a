package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/uuid"
	"github.com/riverqueue/river/rivertype"

	"millrace"
	"millrace/db"
	"millrace/db/notify"
	"millrace/jobs"
)

type pipelineCmd struct {
	commonFlags
	SKUs    int     `name:"skus" default:"1000" help:"Products that orders are spread over."`
	Profile string  `placeholder:"FILE" help:"Measure nothing but one mode, once: write a CPU profile of it to FILE, print what Postgres did and what its sessions waited for."`
	Mode    string  `default:"millrace" help:"The mode to profile: millrace, or the beginning of another's name in the report."`
	Rate    float64 `help:"Orders a second to offer while profiling, to see the time from post to completed. Default: as many as it takes."`
}

// pipeline is a store and workers in this process, in one of the ways to compare.
type pipeline struct {
	store    *db.Store
	runner   *jobs.Runner
	bell     *notify.Doorbell
	closers  []func()
	complete atomic.Int64
	awaited  atomic.Bool // whether somebody waits for orders
	waiting  sync.Map    // order id -> chan struct{}, closed when it completed
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
	if id, ok := jobs.OrderID(job); ok && p.awaited.Load() {
		done, _ := p.waiting.LoadOrStore(id, make(chan struct{})) // it may complete before anybody knows its id
		close(done.(chan struct{}))
	}
}

func (p *pipeline) place(ctx context.Context, n, skus int) (uuid.UUID, error) {
	placed, err := p.store.PlaceOrder(ctx, db.PlaceOrder{Principal: millrace.Principal{Subject: fmt.Sprintf("bench-%d", n%1000)}, Key: uuid.NewString(),
		RequestHash: sha256.Sum256([]byte("bench")), Request: anyTwo(skus)})
	if err != nil {
		return uuid.Nil, err
	}
	return placed.Order.ID, nil
}

// anyTwo asks for two products by chance, as pgbench's orders do: orders that follow each other do not share a product more than others.
func anyTwo(skus int) millrace.OrderRequest {
	a, b := rand.N(skus), rand.N(skus-1) //nolint:gosec // no secret
	r := orderOf(a, skus)
	r.Lines[1].SKU = sku((a + 1 + b) % skus)
	return r
}

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
	p.awaited.Store(true)
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

// await waits until an order has completed. It asks nobody, so as not to be part of the load.
func (p *pipeline) await(ctx context.Context, id uuid.UUID) bool {
	done, _ := p.waiting.LoadOrStore(id, make(chan struct{}))
	defer p.waiting.Delete(id)
	select {
	case <-done.(chan struct{}):
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
		url, err := b.freshDatabase(ctx, c.SKUs)
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
			h, err := c.measureLatency(ctx, b, millraceMode(), load)
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
	url, err := b.freshDatabase(ctx, c.SKUs)
	if err != nil {
		return 0, err
	}
	p, err := m.start(ctx, url)
	if err != nil {
		return 0, err
	}
	defer p.close()
	return p.throughput(ctx, c.SKUs, m.outstanding, warmUp, c.Time)
}

func (c *pipelineCmd) measureLatency(ctx context.Context, b *bed, m mode, perSecond float64) (*hdrhistogram.Histogram, error) {
	url, err := b.freshDatabase(ctx, c.SKUs)
	if err != nil {
		return nil, err
	}
	p, err := m.start(ctx, url)
	if err != nil {
		return nil, err
	}
	defer p.close()
	if _, err := p.latency(ctx, c.SKUs, perSecond, 2*time.Second); err != nil { // warm up
		return nil, err
	}
	return p.latency(ctx, c.SKUs, perSecond, max(c.Time, 10*time.Second))
}
