package live

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"millrace"
)

// Hub knows the open streams of this process and feeds them. It is safe for concurrent use.
type Hub struct {
	config Config
	limits limits
	inbox  *inbox
	wheel  *wheel

	// mu guards what follows. It is taken before a connection's own lock, and never held across a query.
	mu        sync.Mutex
	orders    map[uuid.UUID]*group // connections by the order they watch
	customers map[uuid.UUID]*group // by the customer whose orders they watch
	all       group                // those that watch all orders
	conns     map[*conn]struct{}
	draining  bool
	empty     chan struct{} // closed once draining and without a connection

	// Streams of many orders were sent every event of a transaction below mark; scanned is how far past it the last sweep read, and
	// window how many events lie in between. Later events that they were sent are in recent.
	mark    int64
	cursor  []byte // mark as clients see it
	scanned millrace.EventPosition
	window  int
	recent  *recent

	ready     chan struct{} // closed once mark is known
	sweepKick chan struct{}
	resuming  resumeQueue

	delivered, overflows, stalled, rejected, rotated, reads, readErrors, resets, sweepFinds atomic.Uint64
}

// Stats is the state of a Hub. Counters count since the start.
type Stats struct {
	OrderStreams int // open streams of one order
	ManyStreams  int // open streams of many orders
	Orders       int // orders with a stream of their own

	Delivered  uint64 // events written to clients, replays included
	Overflows  uint64 // streams closed because too many events waited for them
	Stalled    uint64 // streams closed because a write failed or took too long
	Rejected   uint64 // requests refused: bad ids, limits, draining
	Rotated    uint64 // streams ended for their age
	Reads      uint64 // queries for events
	ReadErrors uint64 // those that failed; they are repeated
	Resets     uint64 // times that rings may have been missed
	SweepFinds uint64 // changed orders that a sweep found before any ring
}

// NewHub makes a hub. Streams are fed while Run runs.
func NewHub(config Config) *Hub {
	config.setDefaults()
	return &Hub{
		config: config,
		limits: limits{node: config.MaxStreams, perSubject: config.MaxPerSubject, perAddr: config.MaxPerAddr,
			subjects: make(map[string]int), addrs: make(map[string]int)},
		inbox:     newInbox(),
		wheel:     newWheel(config.HeartbeatMin, config.HeartbeatMax),
		orders:    make(map[uuid.UUID]*group),
		customers: make(map[uuid.UUID]*group),
		conns:     make(map[*conn]struct{}),
		empty:     make(chan struct{}),
		recent:    newRecent(recentSize),
		ready:     make(chan struct{}),
		sweepKick: make(chan struct{}, 1),
		resuming:  resumeQueue{kick: make(chan struct{}, 1)},
	}
}

// Run feeds the streams until ctx ends, then ends those still open and waits for them and for its own goroutines. Drain first, so that clients are
// told to reconnect.
func (h *Hub) Run(ctx context.Context) error {
	var running sync.WaitGroup
	running.Go(func() { h.readLoop(ctx) })
	running.Go(func() { h.sweepLoop(ctx) })
	running.Go(func() { h.wheelLoop(ctx) })
	for range resumers {
		running.Go(func() { h.resumeLoop(ctx) })
	}
	<-ctx.Done()
	h.startDraining()
	for _, c := range h.open() {
		c.kill()
	}
	<-h.empty
	running.Wait()
	return nil
}

// Rung says that orders may have new events. It never blocks for long; it is what a listener and a doorbell call.
func (h *Hub) Rung(rings ...millrace.Ring) { h.inbox.add(rings...) }

// Reset says that rings may have been missed: everything watched is read again.
func (h *Hub) Reset() {
	h.resets.Add(1)
	h.inbox.addAll()
	h.kickSweep()
}

func (h *Hub) kickSweep() {
	select {
	case h.sweepKick <- struct{}{}:
	default:
	}
}

// Drain ends all streams with a hint to reconnect and lets no new ones in. Events that already wait for a stream are sent before. If
// ctx ends first, the streams that are left are cut, and Drain says how many.
func (h *Hub) Drain(ctx context.Context) error {
	h.startDraining()
	for _, c := range h.open() {
		c.finish()
	}
	select {
	case <-h.empty:
		return nil
	case <-ctx.Done():
	}
	left := h.open()
	for _, c := range left {
		c.kill()
	}
	<-h.empty
	return fmt.Errorf("%d streams did not take their last events in time and were cut: %w", len(left), context.Cause(ctx))
}

func (h *Hub) startDraining() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.draining {
		h.draining = true
		h.closeIfEmpty()
	}
}

// closeIfEmpty is called with mu held.
func (h *Hub) closeIfEmpty() {
	if h.draining && len(h.conns) == 0 {
		close(h.empty)
	}
}

func (h *Hub) open() []*conn {
	h.mu.Lock()
	defer h.mu.Unlock()
	conns := make([]*conn, 0, len(h.conns))
	for c := range h.conns {
		conns = append(conns, c)
	}
	return conns
}

// Stats returns the hub's state.
func (h *Hub) Stats() Stats {
	s := Stats{Delivered: h.delivered.Load(), Overflows: h.overflows.Load(), Stalled: h.stalled.Load(), Rejected: h.rejected.Load(),
		Rotated: h.rotated.Load(), Reads: h.reads.Load(), ReadErrors: h.readErrors.Load(), Resets: h.resets.Load(),
		SweepFinds: h.sweepFinds.Load()}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Orders = len(h.orders)
	for _, g := range h.orders {
		s.OrderStreams += len(g.conns)
	}
	s.ManyStreams = len(h.conns) - s.OrderStreams
	return s
}

// group is the connections that watch the same thing.
type group struct{ conns []*conn }

func (g *group) add(c *conn) {
	c.index = len(g.conns)
	g.conns = append(g.conns, c)
}

func (g *group) remove(c *conn) {
	last := len(g.conns) - 1
	g.conns[c.index] = g.conns[last]
	g.conns[c.index].index = c.index
	g.conns[last] = nil
	g.conns = g.conns[:last]
}

// behind is the lowest version that a connection of an order's group was sent.
func (g *group) behind() int32 {
	v := int32(math.MaxInt32)
	for _, c := range g.conns {
		v = min(v, c.sent)
	}
	return v
}

// catchingUp reports whether all of an order's group wait for history.
func (g *group) catchingUp() bool {
	return !slices.ContainsFunc(g.conns, func(c *conn) bool { return !c.behind && c.sent != math.MaxInt32 })
}

var errDraining = millrace.Errorf(millrace.CodeUnavailable, "This server is shutting down: connect again shortly.")

// join registers c. From here on it is handed what happens, which waits until its stream is ready.
func (h *Hub) join(c *conn) *millrace.Error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return errDraining
	}
	h.conns[c] = struct{}{}
	h.groupOf(c).add(c)
	c.joined()
	return nil
}

// leave undoes join.
func (h *Hub) leave(c *conn) {
	h.wheel.remove(c)
	h.mu.Lock()
	defer h.mu.Unlock()
	g := h.groupOf(c)
	g.remove(c)
	if len(g.conns) == 0 && g != &h.all {
		if c.many {
			delete(h.customers, c.customerID)
		} else {
			delete(h.orders, c.orderID)
		}
	}
	delete(h.conns, c)
	h.closeIfEmpty()
}

// groupOf finds or makes the group that c belongs to. It is called with mu held.
func (h *Hub) groupOf(c *conn) *group {
	groups, id := h.orders, c.orderID
	if c.many {
		if c.customerID == uuid.Nil {
			return &h.all
		}
		groups, id = h.customers, c.customerID
	}
	g := groups[id]
	if g == nil {
		g = &group{}
		groups[id] = g
	}
	return g
}

// watchedByMany reports whether a stream of many orders carries this customer's. It is called with mu held.
func (h *Hub) watchedByMany(customer uuid.UUID) bool {
	return len(h.all.conns) > 0 || h.customers[customer] != nil
}
