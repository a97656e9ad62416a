package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace"
)

type snapshotCmd struct {
	commonFlags
	SKUs int           `name:"skus" default:"1000" help:"Products that orders are spread over."`
	Held time.Duration `default:"2m" help:"How long the old snapshot stays open."`
	Load float64       `default:"0.5" help:"Orders to offer, as a part of what the pipeline takes at most."`

	Profile string  `placeholder:"FILE" help:"Measure nothing but one time with a snapshot held: write a CPU profile of it to FILE, print what Postgres did and what its sessions waited for."`
	Rate    float64 `default:"1000" help:"Orders a second to offer while profiling."`
}

// Validate is called by kong.
func (c *snapshotCmd) Validate() error {
	if c.Held < time.Second || c.Load <= 0 || c.Rate <= 0 {
		return errors.New("--held must be a second at least, and --load and --rate above 0")
	}
	return nil
}

// drainLimit is how long a backlog is watched for its end.
const drainLimit = 2 * time.Minute

var errNothingCompleted = errors.New("no order was completed while the pipeline's highest rate was measured: take a longer --time")

// steady is what became of a steady load.
type steady struct {
	completed float64 // orders/s
	offered   float64 // orders/s that were acknowledged
	refused   float64 // orders that were not, since too many waited to be taken in
	backlog   float64 // most orders that were acknowledged and not completed, seen once a second
	left      float64 // the same at the end
	drained   float64 // seconds from the end of the snapshot until the backlog was as small as it is without one
}

// Run measures.
func (c *snapshotCmd) Run(ctx context.Context, stdio stdio) (err error) {
	if c.Profile != "" {
		return c.profile(ctx, stdio)
	}
	b, err := c.newBed(ctx, stdio, 3*c.Rounds)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	r := &report{Command: "snapshot"}
	if r.Machine, r.Settings, err = describe(ctx, b.url); err != nil {
		return err
	}
	r.Settings["held"], r.Settings["load"] = c.Held.String(), fmt.Sprint(c.Load)
	var most []float64
	var without, with []steady
	for round := range c.Rounds {
		b.step("round %d: the highest rate", round+1)
		rate, err := (&pipelineCmd{commonFlags: c.commonFlags, SKUs: c.SKUs}).measure(ctx, b, millraceMode())
		if err != nil {
			return err
		}
		if rate == 0 {
			return errNothingCompleted
		}
		most = append(most, rate)
		rate *= c.Load
		b.step("round %d: %.0f orders/s", round+1, rate)
		s, err := c.measure(ctx, b, rate, 0)
		if err != nil {
			return err
		}
		without = append(without, s)
		b.step("round %d: %.0f orders/s, a snapshot held", round+1, rate)
		// Half a second's orders are no backlog to speak of.
		if s, err = c.measure(ctx, b, rate, max(s.backlog, rate/2)); err != nil {
			return err
		}
		with = append(with, s)
	}
	part := func(of []steady, f func(steady) float64) (out []float64) {
		for _, s := range of {
			out = append(out, f(s))
		}
		return out
	}
	completed := func(s steady) float64 { return s.completed }
	r.add("the highest rate", "orders/s", most...)
	for _, of := range []struct {
		name    string
		samples []steady
	}{{"no snapshot", without}, {"a snapshot held", with}} {
		r.add(of.name+", acknowledged", "orders/s", part(of.samples, func(s steady) float64 { return s.offered })...)
		r.add(of.name+", refused", "orders", part(of.samples, func(s steady) float64 { return s.refused })...)
		r.add(of.name+", completed", "orders/s", part(of.samples, completed)...)
		r.add(of.name+", largest backlog", "orders", part(of.samples, func(s steady) float64 { return s.backlog })...)
		r.add(of.name+", backlog at the end", "orders", part(of.samples, func(s steady) float64 { return s.left })...)
	}
	r.atLeast("throughput with a snapshot held", r.add("held against not", "times", ratios(part(with, completed), part(without, completed))...), 0.75)
	drained := part(with, func(s steady) float64 { return s.drained })
	r.add("drained under the same load after", "s", drained...)
	r.atMost("seconds until the backlog drained, of all rounds", slices.Max(drained), 60)
	return r.write(stdio.out, c.JSON)
}

// profile measures once and says where the time of this process and of Postgres went.
func (c *snapshotCmd) profile(ctx context.Context, stdio stdio) (err error) {
	b, err := c.newProfiledBed(ctx, stdio)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	return b.profile(ctx, stdio.out, c.Profile, func() (string, float64, error) {
		s, err := c.measure(ctx, b, c.Rate, math.Inf(1))
		return fmt.Sprintf("a snapshot held: %.0f orders/s acknowledged, %.0f completed, %.0f left, %.0f refused", s.offered, s.completed, s.left, s.refused),
			s.completed * c.Held.Seconds(), err
	})
}

// measure offers orders at a rate for the time that a snapshot is held. With few above 0 a snapshot is held, and then the backlog is
// watched, under the same load, until it is no more than few.
func (c *snapshotCmd) measure(ctx context.Context, b *bed, rate, few float64) (s steady, err error) {
	url, err := b.freshDatabase(ctx, c.SKUs)
	if err != nil {
		return s, err
	}
	p, err := millraceMode().start(ctx, url)
	if err != nil {
		return s, err
	}
	defer p.close()
	o := p.offer(ctx, c.SKUs, rate)
	defer func() { err = errors.Join(err, o.stop()) }()
	if err := o.warmUp(ctx); err != nil {
		return s, err
	}
	release := func() error { return nil }
	if few > 0 {
		if release, err = holdSnapshot(ctx, url); err != nil {
			return s, err
		}
	}
	begun, placed, complete, busy := time.Now(), o.placed.Load(), p.complete.Load(), o.busy.Load()
	for time.Since(begun) < c.Held {
		if err := sleep(ctx, min(time.Second, c.Held-time.Since(begun))); err != nil {
			return s, errors.Join(err, release())
		}
		s.left = o.backlog()
		s.backlog = max(s.backlog, s.left)
	}
	took := time.Since(begun).Seconds()
	s.offered, s.completed = float64(o.placed.Load()-placed)/took, float64(p.complete.Load()-complete)/took
	s.refused = float64(o.busy.Load() - busy)
	if err := release(); err != nil || few == 0 {
		return s, err
	}
	ended := time.Now()
	for o.backlog() > few && time.Since(ended) < drainLimit {
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return s, err
		}
	}
	s.drained = time.Since(ended).Seconds()
	return s, nil
}

// holdSnapshot opens a transaction that keeps Postgres from removing what is deleted from now on, until release.
func holdSnapshot(ctx context.Context, databaseURL string) (release func() error, err error) {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return nil, err
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err == nil {
		_, err = tx.Exec(ctx, "SELECT count(*) FROM counters") // the snapshot is taken by the first statement
	}
	release = func() error {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return conn.Close(end)
	}
	if err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

// offering is orders that come at a steady rate, whatever becomes of them.
type offering struct {
	p      *pipeline
	placed atomic.Int64 // acknowledged
	busy   atomic.Int64 // refused since too many waited
	cancel context.CancelFunc
	done   chan struct{}
	err    error // once done is closed
}

// offerLimit is how many posts may be under way before further ones wait: with a limit, a store that stops answering is an error and
// not a load without end.
const offerLimit = 4000

// offer posts orders at a rate until stop.
func (p *pipeline) offer(ctx context.Context, skus int, rate float64) *offering {
	ctx, cancel := context.WithCancel(ctx)
	o := &offering{p: p, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(o.done)
		o.err = o.run(ctx, skus, rate)
	}()
	return o
}

func (o *offering) run(ctx context.Context, skus int, rate float64) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	places := make(chan struct{}, offerLimit)
	errs := make(chan error, 1)
	begun := time.Now()
	for n := 0; ; n++ {
		due := begun.Add(time.Duration(float64(n) / rate * float64(time.Second)))
		if wait := time.Until(due); wait > time.Millisecond {
			_ = sleep(ctx, wait) // its end is seen below
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-errs:
			return err
		case places <- struct{}{}:
		}
		wg.Go(func() {
			defer func() { <-places }()
			switch _, err := o.p.place(ctx, n, skus); {
			case err == nil:
				o.placed.Add(1)
			case millrace.ErrorCode(err) == millrace.CodeBusy:
				o.busy.Add(1)
			case ctx.Err() == nil:
				select {
				case errs <- err:
				default:
				}
			}
		})
	}
}

// warmUp waits until orders have been coming for a while and one at least was completed.
func (o *offering) warmUp(ctx context.Context) error {
	if err := sleep(ctx, warmUp); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if !until(ctx, func() bool { return o.p.complete.Load() > 0 }) {
		return fmt.Errorf("no order was completed: %w", ctx.Err())
	}
	return nil
}

// backlog is how many orders were acknowledged and are not completed.
func (o *offering) backlog() float64 { return float64(max(o.placed.Load()-o.p.complete.Load(), 0)) }

// stop ends the offering and waits for it. It fails where an order could not be placed for another reason than that too many waited.
func (o *offering) stop() error {
	o.cancel()
	<-o.done
	return o.err
}
