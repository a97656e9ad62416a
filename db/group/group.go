// Package group lets callers that arrive at the same time share one transaction. It knows nothing of what is written.
//
// Committers, one for each kind of request, take turns on Lanes that they share. A request that finds none running is flushed at once;
// requests that arrive meanwhile wait together and share the next flush of their kind, of which the one that has waited longest is next, unless
// another is due. A further flush starts beside those that run once so many wait for it that it is worth its price, or where one takes long. So an idle
// system answers without delay and a busy one in hundreds.
package group

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"
)

// Errors that a Committer adds to those of its flushes.
var (
	// ErrBusy is returned at once where the queue is full.
	ErrBusy = errors.New("the queue is full")
	// ErrClosed is returned once Close was called.
	ErrClosed = errors.New("the queue is closed")
	// ErrAbandoned is returned to a caller whose context ended while its request was being flushed: it may or may not take effect.
	ErrAbandoned = errors.New("gave up waiting for a flush that was under way")
	// ErrPanic is returned for the request whose flush panicked.
	ErrPanic = errors.New("a flush panicked")
)

// Flush writes requests and returns an outcome for each, in their order. An error stands for the whole flush: nothing of it was
// written. Where the error is worth dividing (see Config.Divide) the halves are flushed apart, so that one bad request fails alone.
type Flush[Q, A any] func(ctx context.Context, requests []Q) ([]Outcome[A], error)

// Outcome is what became of one request.
type Outcome[A any] struct {
	Answer A
	Err    error
}

// Config bounds a Committer. All fields are required but Flushes, Due, Divide and Observe.
type Config struct {
	Lanes    *Lanes
	Flushes  int           // flushes of this Committer at a time, at most; 0: as many as there are lanes
	Due      time.Duration // whoever has waited so long is next, however long other kinds have; 0: never
	MaxGroup int           // requests in one flush, at most
	MaxQueue int           // requests waiting, at most; past it Do returns ErrBusy
	Timeout  time.Duration // of one flush
	// Divide reports whether an error may be the fault of one request, so that its neighbours deserve another try. Nil: never.
	Divide func(error) bool
	// Observe is told each flush's size, its duration and how long its first request had waited. It may be nil.
	Observe func(size int, took, waited time.Duration)
}

// forever is longer than anything waits.
const forever = 1000 * time.Hour

// Committer groups requests. Make one with New and Close it.
type Committer[Q, A any] struct {
	config Config
	flush  Flush[Q, A]
	wg     sync.WaitGroup // of requests that were accepted, and of flushes

	// Guarded by the lanes' mutex.
	queue   []*request[Q, A]
	running int
	closed  bool
}

type request[Q, A any] struct {
	query   Q
	arrived time.Time
	taken   bool // by a flush; guarded by the lanes' mutex
	gone    bool // its caller left before it was taken; likewise
	done    chan Outcome[A]
}

// New makes a Committer.
func New[Q, A any](c Config, f Flush[Q, A]) *Committer[Q, A] {
	if c.Flushes == 0 {
		c.Flushes = c.Lanes.flushes
	}
	committer := &Committer[Q, A]{config: c, flush: f}
	c.Lanes.join(committer)
	return committer
}

// Do has the request flushed, together with others, and returns its outcome. When ctx ends before the request was taken up,
// nothing of it happens and the error is ctx's; when it ends later, the error is ErrAbandoned and the outcome is open.
func (c *Committer[Q, A]) Do(ctx context.Context, query Q) (A, error) {
	var none A
	if err := ctx.Err(); err != nil {
		return none, err
	}
	r := &request[Q, A]{query: query, arrived: time.Now(), done: make(chan Outcome[A], 1)}
	if err := c.enqueue(r); err != nil {
		return none, err
	}
	select {
	case o := <-r.done:
		return o.Answer, o.Err
	case <-ctx.Done():
	}
	lanes := c.config.Lanes
	lanes.mu.Lock()
	taken := r.taken
	r.gone = !taken
	lanes.mu.Unlock()
	if taken {
		return none, fmt.Errorf("%w: %w", ErrAbandoned, ctx.Err())
	}
	return none, ctx.Err()
}

func (c *Committer[Q, A]) enqueue(r *request[Q, A]) error {
	lanes := c.config.Lanes
	lanes.mu.Lock()
	defer lanes.mu.Unlock()
	switch {
	case c.closed:
		return ErrClosed
	case len(c.queue) >= c.config.MaxQueue:
		return ErrBusy
	}
	c.queue = append(c.queue, r)
	c.wg.Add(1)
	lanes.dispatch()
	return nil
}

// waiting is how many requests wait, and for how long the first of them has. Without any, or where as many flushes run as may, it is 0. One
// that is due has waited for longer than any that is not.
func (c *Committer[Q, A]) waiting(now time.Time) (n int, longest time.Duration) {
	if len(c.queue) == 0 || c.running >= c.config.Flushes {
		return 0, 0
	}
	longest = now.Sub(c.queue[0].arrived)
	if c.config.Due != 0 && longest >= c.config.Due {
		longest += forever
	}
	return len(c.queue), longest
}

// start begins a flush of the next requests, and reports whether there were any that still have a caller.
func (c *Committer[Q, A]) start(now time.Time) bool {
	batch := c.take()
	if len(batch) == 0 {
		return false
	}
	c.running++
	c.wg.Go(func() {
		c.run(batch)
		if c.config.Observe != nil {
			c.config.Observe(len(batch), time.Since(now), now.Sub(batch[0].arrived))
		}
		c.config.Lanes.end(now, &c.running)
	})
	return true
}

// take moves the next requests from the queue to a flush.
func (c *Committer[Q, A]) take() []*request[Q, A] {
	var batch []*request[Q, A]
	n := 0
	for n < len(c.queue) && len(batch) < c.config.MaxGroup {
		r := c.queue[n]
		n++
		if r.gone {
			c.wg.Done()
			continue
		}
		r.taken = true
		batch = append(batch, r)
	}
	c.queue = append(c.queue[:0:0], c.queue[n:]...)
	return batch
}

// run flushes a batch, in halves where that may save the neighbours of a bad request, and answers every caller.
func (c *Committer[Q, A]) run(batch []*request[Q, A]) {
	outcomes, err := c.try(batch)
	if err == nil {
		for i, r := range batch {
			c.answer(r, outcomes[i])
		}
		return
	}
	if len(batch) > 1 && (errors.Is(err, ErrPanic) || c.config.Divide != nil && c.config.Divide(err)) {
		half := len(batch) / 2
		c.run(batch[:half])
		c.run(batch[half:])
		return
	}
	for _, r := range batch {
		c.answer(r, Outcome[A]{Err: err})
	}
}

func (c *Committer[Q, A]) answer(r *request[Q, A], o Outcome[A]) {
	r.done <- o
	c.wg.Done()
}

func (c *Committer[Q, A]) try(batch []*request[Q, A]) (outcomes []Outcome[A], err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v\n%s", ErrPanic, p, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), c.config.Timeout)
	defer cancel()
	queries := make([]Q, len(batch))
	for i, r := range batch {
		queries[i] = r.query
	}
	outcomes, err = c.flush(ctx, queries)
	if err == nil && len(outcomes) != len(batch) {
		return nil, fmt.Errorf("a flush of %d requests gave %d outcomes", len(batch), len(outcomes))
	}
	return outcomes, err
}

// Full reports whether a request would be refused now.
func (c *Committer[Q, A]) Full() bool { return c.Waiting() >= c.config.MaxQueue }

// Waiting is the number of requests not yet taken up.
func (c *Committer[Q, A]) Waiting() int {
	c.config.Lanes.mu.Lock()
	defer c.config.Lanes.mu.Unlock()
	return len(c.queue)
}

// Close refuses further requests and waits until those that were accepted are answered.
func (c *Committer[Q, A]) Close() {
	c.config.Lanes.mu.Lock()
	c.closed = true
	c.config.Lanes.mu.Unlock()
	c.wg.Wait()
}
