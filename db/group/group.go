// Package group lets callers that arrive at the same time share one transaction. It knows nothing of what is written.
//
// A Committer runs one or more flushes at a time. A request that finds none running starts one at once; requests that arrive meanwhile
// wait together and share the next. A further one starts beside those that run once so many wait that it is worth its price, or where
// one takes long. So an idle system answers without delay and a busy one in hundreds, with no timer.
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

// Config bounds a Committer. All fields are required but Further, Patience, Divide and Observe.
type Config struct {
	MaxGroup int // requests in one flush, at most
	MaxQueue int // requests waiting, at most; past it Do returns ErrBusy
	Flushes  int // flushes at a time, at most
	// Further is how many requests must wait for another flush to start beside one that runs: several small ones cost more than one that
	// is larger. Patience is how long one may run before those that arrive no longer wait for it. Zero of either: another starts at once.
	Further  int
	Patience time.Duration
	Timeout  time.Duration // of one flush
	// Divide reports whether an error may be the fault of one request, so that its neighbours deserve another try. Nil: never.
	Divide func(error) bool
	// Observe is told each flush's size, its duration and how long its first request had waited. It may be nil.
	Observe func(size int, took, waited time.Duration)
}

// Committer groups requests. Make one with New and Close it.
type Committer[Q, A any] struct {
	config Config
	flush  Flush[Q, A]

	mu      sync.Mutex
	queue   []*request[Q, A]
	running int
	begun   time.Time // when the last flush started
	closed  bool
	wg      sync.WaitGroup
}

type request[Q, A any] struct {
	query   Q
	arrived time.Time
	taken   bool // by a flush; guarded by the Committer's mutex
	gone    bool // its caller left before it was taken; likewise
	done    chan Outcome[A]
}

// New makes a Committer.
func New[Q, A any](c Config, f Flush[Q, A]) *Committer[Q, A] {
	return &Committer[Q, A]{config: c, flush: f}
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
	c.mu.Lock()
	taken := r.taken
	r.gone = !taken
	c.mu.Unlock()
	if taken {
		return none, fmt.Errorf("%w: %w", ErrAbandoned, ctx.Err())
	}
	return none, ctx.Err()
}

func (c *Committer[Q, A]) enqueue(r *request[Q, A]) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return ErrClosed
	case len(c.queue) >= c.config.MaxQueue:
		return ErrBusy
	}
	c.queue = append(c.queue, r)
	if c.running == 0 {
		c.begun = r.arrived
	}
	if c.running == 0 || c.running < c.config.Flushes && c.worthAnother() { // take asks again; to ask here too saves a goroutine
		c.running++
		c.wg.Add(1)
		go c.work()
	}
	return nil
}

// worthAnother reports whether a flush should start beside those that run. It is called with the lock held.
func (c *Committer[Q, A]) worthAnother() bool {
	return len(c.queue) >= c.config.Further || time.Since(c.begun) >= c.config.Patience
}

// work flushes what is queued until nothing is, or what is left can wait for the flush beside it.
func (c *Committer[Q, A]) work() {
	defer c.wg.Done()
	for {
		batch := c.take()
		if len(batch) == 0 {
			return
		}
		started := time.Now()
		c.run(batch)
		if c.config.Observe != nil {
			c.config.Observe(len(batch), time.Since(started), started.Sub(batch[0].arrived))
		}
	}
}

// take moves the next requests from the queue to a flush. When there are none, or none that another flush should start for, it gives
// the flush's place up, under the same lock, so that no request is left behind: what waits is taken by whoever is running.
func (c *Committer[Q, A]) take() []*request[Q, A] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running > 1 && !c.worthAnother() {
		c.running--
		return nil
	}
	var batch []*request[Q, A]
	n := 0
	for n < len(c.queue) && len(batch) < c.config.MaxGroup {
		r := c.queue[n]
		n++
		if !r.gone {
			r.taken = true
			batch = append(batch, r)
		}
	}
	c.queue = append(c.queue[:0:0], c.queue[n:]...)
	if len(batch) == 0 {
		c.running--
	} else {
		c.begun = time.Now()
	}
	return batch
}

// run flushes a batch, in halves where that may save the neighbours of a bad request, and answers every caller.
func (c *Committer[Q, A]) run(batch []*request[Q, A]) {
	outcomes, err := c.try(batch)
	if err == nil {
		for i, r := range batch {
			r.done <- outcomes[i]
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
		r.done <- Outcome[A]{Err: err}
	}
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
func (c *Committer[Q, A]) Full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue) >= c.config.MaxQueue
}

// Waiting is the number of requests not yet taken up.
func (c *Committer[Q, A]) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.queue)
}

// Close refuses further requests and waits until those that were accepted are answered.
func (c *Committer[Q, A]) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wg.Wait()
}
