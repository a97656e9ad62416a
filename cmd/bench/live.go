package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

type liveCmd struct {
	commonFlags
	Streams  int           `default:"10000" help:"Idle streams to open, of an order each."`
	Watchers int           `default:"1000" help:"Streams that events are delivered to."`
	Readers  int           `default:"200" help:"Streams of one order whose delays are compared with and without stalled ones beside them."`
	Stalled  int           `default:"100" help:"Streams of the same order that are never read."`
	Rate     float64       `default:"50" help:"Changes a second at light load, and of the order with stalled readers."`
	SKUs     int           `name:"skus" default:"1000" help:"Products that orders are spread over."`
	Quiet    time.Duration `default:"15s" help:"How long idle streams are left alone before they are measured; each gets a heartbeat 15s to 25s after it was opened."`
	Profile  string        `type:"path" placeholder:"FILE" help:"Write a CPU profile of the server, taken in the last round while one order has many watchers, to a file."`
}

// Validate is called by kong.
func (c *liveCmd) Validate() error {
	if c.Streams < 1 || c.Watchers < 1 || c.Readers < 1 || c.Stalled < 1 || c.Rate <= 0 {
		return errors.New("--streams, --watchers, --readers, --stalled and --rate must be above 0")
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	const others = 500
	if need := uint64(max(c.Streams, c.Watchers, c.Readers+c.Stalled) + others); files.Max < need {
		return fmt.Errorf("a process may open %d files here, and %d are needed: raise it with ulimit -Hn, or take fewer --streams", files.Max, need)
	}
	return nil
}

// liveFigures are what one round measures, by name, in the order in which they are reported.
type liveFigures struct {
	names   []string
	units   map[string]string
	samples map[string][]float64
}

func (f *liveFigures) note(name, unit string, value float64) {
	if f.units == nil {
		f.units, f.samples = make(map[string]string), make(map[string][]float64)
	}
	if _, known := f.units[name]; !known {
		f.names, f.units[name] = append(f.names, name), unit
	}
	f.samples[name] = append(f.samples[name], value)
}

// noteLag notes the median and the 99th percentile of lags, and returns the latter.
func (f *liveFigures) noteLag(name string, h *hdrhistogram.Histogram) (p99 float64) {
	p99 = float64(h.ValueAtQuantile(99)) / 1000
	f.note(name+", p50", "ms", float64(h.ValueAtQuantile(50))/1000)
	f.note(name+", p99", "ms", p99)
	return p99
}

// Names of the figures that are held against something.
const (
	memoryFigure    = "memory of an idle stream (server RSS)"
	goroutineFigure = "goroutines of an idle stream"
	lightFigure     = "commit to client, light load"
	halfFigure      = "commit to client, pipeline at half load"
	stalledFigure   = "p99 with stalled readers against without"
)

// Run measures.
func (c *liveCmd) Run(ctx context.Context, stdio stdio) (err error) {
	b, err := c.newBed(ctx, stdio, 8*c.Rounds)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	r := &report{Command: "live"}
	if r.Machine, r.Settings, err = describe(ctx, b.url); err != nil {
		return err
	}
	r.Settings["streams"], r.Settings["watchers"], r.Settings["readers"], r.Settings["stalled"] = itoa(c.Streams), itoa(c.Watchers), itoa(c.Readers), itoa(c.Stalled)
	r.Settings["light_load"] = fmt.Sprintf("%g changes/s", c.Rate)
	var f liveFigures
	for round := range c.Rounds {
		if err := c.quiet(ctx, b, round, &f); err != nil {
			return err
		}
		if err := c.underLoad(ctx, b, round, &f); err != nil {
			return err
		}
	}
	c.report(r, &f)
	return r.write(stdio.out, c.JSON)
}

// report holds the figures of the rounds against what they must reach.
func (c *liveCmd) report(r *report, f *liveFigures) {
	medians := make(map[string]float64)
	for _, name := range f.names {
		medians[name] = r.add(name, f.units[name], f.samples[name]...)
	}
	r.atMost(memoryFigure+", kB", medians[memoryFigure], 40)
	r.atMost(goroutineFigure, medians[goroutineFigure], 4)
	r.atMost(lightFigure+", p99", medians[lightFigure+", p99"], 10)
	r.atMost(halfFigure+", p99", medians[halfFigure+", p99"], 50)
	r.atMost(stalledFigure, medians[stalledFigure], 1.5)
}

// quiet measures what needs no pipeline: its changes are operators' holds and releases.
func (c *liveCmd) quiet(ctx context.Context, b *bed, round int, f *liveFigures) (err error) {
	b.step("round %d: %d orders to watch", round+1, max(c.Streams, c.Watchers))
	s, err := newStage(ctx, b, c.SKUs, max(c.Streams, c.Watchers)+3)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	b.step("round %d: %d idle streams", round+1, c.Streams)
	if err := c.idle(ctx, s, f); err != nil {
		return err
	}
	b.step("round %d: light load", round+1)
	h, err := s.watched(ctx, s.orderStreams(c.Watchers), func(ctx context.Context) (*hdrhistogram.Histogram, error) {
		return s.paced(ctx, c.Rate, c.Time, 1, func(n int) int { return n % c.Watchers })
	})
	if err != nil {
		return err
	}
	f.noteLag(lightFigure, h)
	b.step("round %d: %d orders, a watcher each", round+1, c.Watchers)
	if err := c.manyOrders(ctx, s, f); err != nil {
		return err
	}
	b.step("round %d: one order, %d watchers", round+1, c.Watchers)
	if err := c.oneOrder(ctx, s, f, round+1 == c.Rounds); err != nil {
		return err
	}
	b.step("round %d: %d stalled readers", round+1, c.Stalled)
	return c.stalled(ctx, s, f)
}

// idle measures what streams on which nothing happens cost.
func (c *liveCmd) idle(ctx context.Context, s *stage, f *liveFigures) error {
	// What the first streams set up once for all is not theirs.
	if _, err := s.watched(ctx, s.orderStreams(min(c.Streams, 200)), func(context.Context) (*hdrhistogram.Histogram, error) { return nil, nil }); err != nil {
		return err
	}
	if err := sleep(ctx, c.Quiet/5); err != nil {
		return err
	}
	memory := residentMB(s.server.pid())
	before, err := s.metrics(ctx)
	if err != nil {
		return err
	}
	begun := time.Now()
	h, err := s.watched(ctx, s.orderStreams(c.Streams), func(ctx context.Context) (*hdrhistogram.Histogram, error) {
		f.note("streams opened", "1/s", float64(c.Streams)/time.Since(begun).Seconds())
		if err := sleep(ctx, c.Quiet); err != nil {
			return nil, err
		}
		open, err := s.metrics(ctx)
		if err != nil {
			return nil, err
		}
		f.note(memoryFigure, "kB", (residentMB(s.server.pid())-memory)*1024/float64(c.Streams))
		perStream := (open["go_goroutines"] - before["go_goroutines"]) / float64(c.Streams)
		f.note(goroutineFigure, "", math.Round(100*perStream)/100) // what else runs comes and goes
		used := cpuTime(s.server.pid())
		if err := sleep(ctx, c.Time); err != nil {
			return nil, err
		}
		f.note("processor time of all idle streams", "ms/s", float64((cpuTime(s.server.pid())-used).Milliseconds())/c.Time.Seconds())
		return s.paced(ctx, c.Rate, c.Time, 1, func(n int) int { return n % c.Streams })
	})
	if err == nil {
		f.noteLag("commit to client, light load beside the idle streams", h)
	}
	return err
}

// manyOrders measures deliveries where each change has one watcher: every order changes again once its watcher knows of the last change.
func (c *liveCmd) manyOrders(ctx context.Context, s *stage, f *liveFigures) error {
	changed := func(ctx context.Context) (*hdrhistogram.Histogram, error) {
		rate, cpu, err := s.throughput(ctx, c.Time, func(ctx context.Context) error { return s.changeEach(ctx, c.Watchers) })
		if err == nil {
			f.note(fmt.Sprintf("deliveries, %d orders x 1 watcher", c.Watchers), "1/s", rate)
			f.note(fmt.Sprintf("server time a delivery, %d orders x 1 watcher", c.Watchers), "us", cpu)
		}
		return nil, err
	}
	_, err := s.watched(ctx, s.orderStreams(c.Watchers), changed)
	return err
}

// oneOrder measures deliveries where each change has many watchers: the order changes as fast as the last of them keeps up.
func (c *liveCmd) oneOrder(ctx context.Context, s *stage, f *liveFigures, last bool) error {
	order := len(s.orders) - 3
	changed := func(ctx context.Context) (*hdrhistogram.Histogram, error) {
		profiled := make(chan error, 1)
		if c.Profile != "" && last {
			go func() { profiled <- s.server.profile(ctx, c.Profile, c.Time) }()
		} else {
			profiled <- nil
		}
		rate, cpu, err := s.throughput(ctx, c.Time, func(ctx context.Context) error { return s.changeOne(ctx, order, c.Watchers) })
		if err == nil {
			f.note(fmt.Sprintf("deliveries, 1 order x %d watchers", c.Watchers), "1/s", rate)
			f.note(fmt.Sprintf("server time a delivery, 1 order x %d watchers", c.Watchers), "us", cpu)
		}
		return nil, errors.Join(err, <-profiled)
	}
	_, err := s.watched(ctx, s.streamsOf(order, c.Watchers), changed)
	return err
}

// stalled measures what streams that nobody reads do to the other streams of their order.
func (c *liveCmd) stalled(ctx context.Context, s *stage, f *liveFigures) error {
	var p99 [2]float64
	for i, name := range []string{"commit to client, one order", "commit to client, one order, beside stalled readers"} {
		order := len(s.orders) - 1 - i
		readers := s.streamsOf(order, c.Readers)
		h, err := s.watched(ctx, readers, func(ctx context.Context) (*hdrhistogram.Histogram, error) {
			if i == 0 {
				return c.oneOrderPaced(ctx, s, order)
			}
			return c.besideStalled(ctx, s, order, f)
		})
		if err != nil {
			return err
		}
		p99[i] = f.noteLag(name, h)
	}
	f.note(stalledFigure, "times", p99[1]/p99[0])
	return nil
}

// oneOrderPaced returns the lags once the order has changed for a while: stalled readers stall when their sockets' buffers are full.
func (c *liveCmd) oneOrderPaced(ctx context.Context, s *stage, order int) (*hdrhistogram.Histogram, error) {
	pick := func(int) int { return order }
	if _, err := s.paced(ctx, c.Rate, stalledFor, c.Readers, pick); err != nil {
		return nil, err
	}
	return s.paced(ctx, c.Rate, c.Time, c.Readers, pick)
}

func (c *liveCmd) besideStalled(ctx context.Context, s *stage, order int, f *liveFigures) (*hdrhistogram.Histogram, error) {
	before, err := s.cut(ctx)
	if err != nil {
		return nil, err
	}
	stalling, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	w := s.streamsOf(order, c.Stalled)
	path := w.path(0)
	// Who comes again asks for what is new since, as a browser does.
	w.path = func(int) string { return path + "?last_event_id=" + itoa(int(s.received[0].events.Load())) }
	go func() { done <- w.stall(stalling, c.Stalled) }()
	h, err := c.oneOrderPaced(ctx, s, order)
	stop()
	after, cutErr := s.cut(ctx)
	f.note("stalled streams that the server gave up", "streams", after-before)
	return h, errors.Join(err, cutErr, <-done)
}

// underLoad measures the streams of customers whose orders go through a pipeline at half of what it takes.
func (c *liveCmd) underLoad(ctx context.Context, b *bed, round int, f *liveFigures) error {
	b.step("round %d: the pipeline's highest rate", round+1)
	rate, err := (&pipelineCmd{commonFlags: c.commonFlags, SKUs: c.SKUs}).measure(ctx, b, millraceMode())
	if err != nil {
		return err
	}
	if rate == 0 {
		return errNothingCompleted
	}
	b.step("round %d: %d watchers at %.0f orders/s", round+1, c.Watchers, rate/2)
	return c.atLoad(ctx, b, rate/2, f)
}

// atLoad measures the streams of customers at a rate of orders.
func (c *liveCmd) atLoad(ctx context.Context, b *bed, rate float64, f *liveFigures) (err error) {
	if err := b.clear(ctx); err != nil {
		return err
	}
	s, err := newStage(ctx, b, c.SKUs, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	h, err := s.watched(ctx, s.customerStreams(c.Watchers), func(ctx context.Context) (h *hdrhistogram.Histogram, err error) {
		o := s.pipeline.offer(ctx, c.SKUs, rate)
		defer func() { err = errors.Join(err, o.stop()) }()
		if err := o.warmUp(ctx); err != nil {
			return nil, err
		}
		s.lags.begin()
		begun, completed, cpu := time.Now(), s.pipeline.complete.Load(), cpuTime(s.server.pid())
		if err := sleep(ctx, c.Time); err != nil {
			return nil, err
		}
		if err := s.awaitArrivals(ctx, 1); err != nil {
			return nil, err
		}
		used, took := cpuTime(s.server.pid())-cpu, time.Since(begun).Seconds()
		f.note("pipeline at half load", "orders/s", float64(s.pipeline.complete.Load()-completed)/took)
		h = s.lags.end()
		f.note("deliveries at half load", "1/s", float64(h.TotalCount())/took)
		f.note("server time a delivery, at half load", "us", float64(used.Microseconds())/float64(h.TotalCount()))
		return h, nil
	})
	if err == nil {
		f.noteLag(halfFigure, h)
	}
	return err
}
