package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/uuid"

	"millrace"
	"millrace/jobs"
)

// stage is what streams are measured on: a database, a store in this process that changes orders, and a millrace serve of its own
// process that sends the changes to streams.
type stage struct {
	pipeline *pipeline // without workers where orders were given
	server   *server
	issuer   *issuer
	lags     lags
	orders   []uuid.UUID // pending or held; the nth is the (n modulo customers)th customer's; the last few are for streamsOf
	held     []bool      // which of them are on hold; each is used by one goroutine at a time
	received []reception
	total    atomic.Int64 // events that all streams together received
}

// reception is what a stream received.
type reception struct {
	events atomic.Int64
	news   chan struct{} // holds one when an event came
}

func (r *reception) tell() {
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// customers is how many customers a pipeline's orders are spread over.
const customers = 1000

// ahead is how many events an order may be ahead of the slowest of its watchers: fewer than the server keeps for one that falls behind.
const ahead = 32

// newStage starts a stage with orders that stay where they are, or with workers and no orders.
func newStage(ctx context.Context, b *bed, skus, orders int) (s *stage, err error) {
	s = &stage{orders: make([]uuid.UUID, orders), held: make([]bool, orders)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	url, err := b.database(ctx, skus)
	if err != nil {
		return s, err
	}
	m := millraceMode()
	m.committed = s.lags.committed
	if orders > 0 {
		m.jobs = jobs.Config{Queues: []string{millrace.QueueMaintenance}}
	}
	if s.pipeline, err = m.start(ctx, url); err != nil {
		return s, err
	}
	if err := s.placeOrders(ctx, skus); err != nil {
		return s, err
	}
	if s.issuer, err = newIssuer(ctx); err != nil {
		return s, err
	}
	s.server, err = b.serve(ctx, serveConfig{databaseURL: url, jwksURL: s.issuer.jwksURL(), flags: []string{"--max-streams=1000000"}})
	return s, err
}

func (s *stage) close() (err error) {
	if s.server != nil {
		err = s.server.stop()
	}
	if s.issuer != nil {
		err = errors.Join(err, s.issuer.close())
	}
	if s.pipeline != nil {
		s.pipeline.close()
	}
	return err
}

func (s *stage) placeOrders(ctx context.Context, skus int) error {
	const clients = 256
	errs := make([]error, clients)
	var next atomic.Int64
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			for n := int(next.Add(1)) - 1; n < len(s.orders) && errs[client] == nil; n = int(next.Add(1)) - 1 {
				s.orders[n], errs[client] = s.pipeline.place(ctx, n, skus)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

const manyPath = "/v1/stream"

// orderStreams are streams of an order each, watched by its customer.
func (s *stage) orderStreams(n int) watch {
	return s.watch(n, func(i int) string { return "/v1/orders/" + s.orders[i].String() + "/stream" }, func(i int) string { return s.issuer.customer(i % customers) })
}

// streamsOf are streams of one order, watched by operators.
func (s *stage) streamsOf(order, n int) watch {
	path := "/v1/orders/" + s.orders[order].String() + "/stream"
	return s.watch(n, func(int) string { return path }, func(i int) string { return s.issuer.token("bench-operator-"+strconv.Itoa(i), "operator") })
}

// customerStreams are streams of all orders of a customer each.
func (s *stage) customerStreams(n int) watch {
	return s.watch(n, func(int) string { return manyPath }, func(i int) string { return s.issuer.customer(i % customers) })
}

func (s *stage) watch(n int, path, token func(int) string) watch {
	return watch{addr: s.server.addr, streams: n, path: path, token: token, history: path(0) != manyPath, got: func(i int, data []byte) {
		s.lags.arrived(data)
		s.received[i].events.Add(1)
		s.total.Add(1)
		s.received[i].tell()
	}}
}

// watched runs f once streams are open and those of an order were sent what it has been through; all must be open still when f ends.
func (s *stage) watched(ctx context.Context, w watch, f func(context.Context) (*hdrhistogram.Histogram, error)) (h *hdrhistogram.Histogram, err error) {
	s.received = make([]reception, w.streams)
	for i := range s.received {
		s.received[i].news = make(chan struct{}, 1)
	}
	s.total.Store(0)
	open, err := w.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, open.close()) }()
	if err := s.awaitHistory(ctx, w); err != nil {
		return nil, errors.Join(err, open.failed())
	}
	h, err = f(ctx)
	return h, errors.Join(err, open.failed())
}

// awaitHistory waits until each stream has received an event, where each has one to receive.
func (s *stage) awaitHistory(ctx context.Context, w watch) error {
	if !w.history {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for i := range s.received {
		if !s.awaitNews(ctx, i) {
			return fmt.Errorf("stream %d was sent nothing: %w", i, ctx.Err())
		}
		s.received[i].tell()
	}
	return nil
}

// change holds the nth order, or releases it.
func (s *stage) change(ctx context.Context, n int) (err error) {
	const actor = "bench"
	if s.held[n] {
		_, err = s.pipeline.store.ReleaseOrder(ctx, s.orders[n], actor)
	} else {
		_, err = s.pipeline.store.HoldOrder(ctx, s.orders[n], "bench", actor)
	}
	s.held[n] = !s.held[n]
	return err
}

// paced changes orders at a rate, which pick names, and returns the lags at the watchers of each. Each change must arrive at each.
func (s *stage) paced(ctx context.Context, rate float64, d time.Duration, watchers int, pick func(n int) int) (*hdrhistogram.Histogram, error) {
	s.lags.begin()
	defer s.lags.end()
	ticker := time.NewTicker(time.Duration(float64(time.Second) / rate))
	defer ticker.Stop()
	changes := int64(0)
	for begun := time.Now(); time.Since(begun) < d; changes++ {
		if err := s.change(ctx, pick(int(changes))); err != nil {
			return nil, err
		}
		if err := s.awaitArrivals(ctx, (changes-ahead)*int64(watchers)); err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ticker.C:
		}
	}
	if err := s.awaitArrivals(ctx, changes*int64(watchers)); err != nil {
		return nil, err
	}
	return s.lags.end(), nil
}

func (s *stage) awaitArrivals(ctx context.Context, want int64) error {
	limit, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if !until(limit, func() bool { return s.lags.count() >= want }) {
		return fmt.Errorf("of %d events, %d arrived: %w", want, s.lags.count(), limit.Err())
	}
	return nil
}

// throughput runs change for a time and returns the events received a second and the server's processor time for each, in microseconds.
func (s *stage) throughput(ctx context.Context, d time.Duration, change func(context.Context) error) (perSecond, cpu float64, err error) {
	ctx, stop := context.WithTimeout(ctx, warmUp+d)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- change(ctx) }()
	if err := sleep(ctx, warmUp); err != nil {
		return 0, 0, errors.Join(err, <-done)
	}
	begun, before, used := time.Now(), s.total.Load(), cpuTime(s.server.pid())
	err = <-done // which ends with ctx
	n, took := float64(s.total.Load()-before), time.Since(begun)
	if n == 0 {
		return 0, 0, errors.Join(err, errors.New("nothing was delivered"))
	}
	return n / took.Seconds(), float64((cpuTime(s.server.pid()) - used).Microseconds()) / n, err
}

// changeEach changes each of the first n orders as soon as its watcher knows of its last change, until ctx ends.
func (s *stage) changeEach(ctx context.Context, n int) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for errs[i] == nil && s.awaitNews(ctx, i) {
				errs[i] = s.change(context.WithoutCancel(ctx), i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// awaitNews waits until the ith stream received something that was not waited for yet, and reports false if ctx ended first.
func (s *stage) awaitNews(ctx context.Context, i int) bool {
	select {
	case <-s.received[i].news:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// changeOne changes an order as fast as the slowest of its watchers is at most some events behind, until ctx ends.
func (s *stage) changeOne(ctx context.Context, order, watchers int) error {
	slowest := func() int64 {
		least := s.received[0].events.Load()
		for i := 1; i < watchers; i++ {
			least = min(least, s.received[i].events.Load())
		}
		return least
	}
	for sent := slowest(); ; sent++ {
		if !until(ctx, func() bool { return sent-slowest() < ahead }) {
			return nil
		}
		if err := s.change(context.WithoutCancel(ctx), order); err != nil {
			return err
		}
	}
}

// until waits for a condition, and reports false if ctx ended first.
func until(ctx context.Context, met func() bool) bool {
	for !met() {
		if sleep(ctx, time.Millisecond) != nil {
			return false
		}
	}
	return ctx.Err() == nil
}

// metrics are the server's, as far as they have no labels.
func (s *stage) metrics(ctx context.Context) (map[string]float64, error) {
	_, body, err := fetch(ctx, "http://"+s.server.ops+"/metrics")
	if err != nil {
		return nil, err
	}
	values := make(map[string]float64)
	for line := range bytes.Lines(body) {
		name, value, _ := strings.Cut(strings.TrimSpace(string(line)), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			values[name] = v
		}
	}
	if values["go_goroutines"] == 0 {
		return nil, errors.New("the server's metrics do not say how many goroutines it has")
	}
	return values, nil
}

// cut is how many streams the server has given up because nobody read them.
func (s *stage) cut(ctx context.Context) (float64, error) {
	m, err := s.metrics(ctx)
	return m["millrace_streams_overflowed_total"] + m["millrace_streams_stalled_total"], err
}
