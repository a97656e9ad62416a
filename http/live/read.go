package live

import (
	"context"
	"strconv"
	"time"

	"github.com/google/uuid"

	"millrace"
)

func (c *conn) ring() millrace.Ring {
	return millrace.Ring{OrderID: c.orderID, CustomerID: c.customerID}
}

// joined queues the first message, which tells the client how to come back. It is called with the hub's lock held.
func (c *conn) joined() {
	var id []byte
	switch {
	case !c.many:
		id = strconv.AppendInt(nil, int64(c.sent), 10)
	default:
		id = encodeCursor(c.since)
	}
	c.push(entry{message: note(id, c.hub.config.RetryHint, "open")}, 1)
}

// readLoop reads what was rung for, as long as ctx lasts.
func (h *Hub) readLoop(ctx context.Context) {
	failures := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.inbox.kick:
		}
		started := time.Now()
		pause := h.config.ReadInterval
		b := h.inbox.take()
		if left, err := h.read(ctx, b); err == nil {
			if len(left) > 0 {
				h.inbox.putBack(batch{orders: left})
			} else {
				h.inbox.finish(b)
			}
			failures = 0
		} else {
			h.inbox.putBack(b)
			if ctx.Err() != nil {
				return
			}
			h.readErrors.Add(1)
			if failures++; failures == 1 {
				h.config.Logger.WarnContext(ctx, "live streams cannot read events, will retry", "error", err)
			}
			pause = min(50*time.Millisecond<<min(failures, 6), 2*time.Second)
			pause = spread(pause, 2*pause)
		}
		sleep(ctx, pause-time.Since(started))
	}
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// read reads what is new to the watchers of a batch's orders and hands it out. Of the orders whose history somebody waits for it reads
// no more than one query takes, and returns the rest: events that come meanwhile do not wait until thousands who have come back know
// theirs.
func (h *Hub) read(ctx context.Context, b batch) (left map[uuid.UUID]uuid.UUID, err error) {
	if b.dropped {
		h.kickSweep()
	}
	p := h.plan(b)
	for len(p.news) > 0 {
		n := min(len(p.news), readOrders)
		again, err := h.readSome(ctx, p.news[:n])
		if err != nil {
			return nil, err
		}
		p.news = append(p.news[n:], again...)
	}
	if len(p.history) == 0 {
		return nil, nil
	}
	n := min(len(p.history), readOrders)
	again, err := h.readSome(ctx, p.history[:n])
	if err != nil {
		return nil, err
	}
	left = make(map[uuid.UUID]uuid.UUID)
	for _, c := range append(p.history[n:], again...) {
		left[c.OrderID] = p.customers[c.OrderID]
	}
	return left, nil
}

// plan is where to read on.
type plan struct {
	news, history []millrace.EventCursor
	customers     map[uuid.UUID]uuid.UUID // whose the orders of history are
}

func (p *plan) add(c millrace.EventCursor, g *group) {
	if g == nil || !g.catchingUp() {
		p.news = append(p.news, c)
		return
	}
	if p.customers == nil {
		p.customers = make(map[uuid.UUID]uuid.UUID)
	}
	p.history = append(p.history, c)
	p.customers[c.OrderID] = g.conns[0].customerID
}

// plan turns a batch into where to read on. Orders that nobody watches drop out.
func (h *Hub) plan(b batch) *plan {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &plan{news: make([]millrace.EventCursor, 0, len(b.orders))}
	for order, customer := range b.orders {
		g, many := h.orders[order], h.watchedByMany(customer)
		if g == nil && !many {
			continue
		}
		p.add(millrace.EventCursor{OrderID: order, After: h.after(order, g, many)}, g)
	}
	if b.all {
		for order, g := range h.orders {
			if _, listed := b.orders[order]; !listed {
				p.add(millrace.EventCursor{OrderID: order, After: g.behind()}, g)
			}
		}
	}
	return p
}

// after is the highest version that all who watch an order were sent. An order that streams of many have not heard of lately is read
// from its beginning, and what they were sent before is told by its transactions.
func (h *Hub) after(order uuid.UUID, g *group, many bool) int32 {
	switch {
	case !many:
		return g.behind()
	case g == nil:
		return h.recent.get(order).version
	}
	return min(h.recent.get(order).version, g.behind())
}

// readSome reads for some orders and hands out what it finds. It returns the cursors for what is left.
func (h *Hub) readSome(ctx context.Context, cursors []millrace.EventCursor) ([]millrace.EventCursor, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	h.reads.Add(1)
	events, err := h.config.Source.EventsAfter(ctx, cursors, readEach)
	if err != nil {
		return nil, err
	}
	found := make(map[uuid.UUID][]millrace.Event, len(cursors))
	for first := 0; first < len(events); {
		end := first + 1
		for end < len(events) && events[end].OrderID == events[first].OrderID {
			end++
		}
		found[events[first].OrderID] = events[first:end]
		first = end
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var again []millrace.EventCursor
	for _, c := range cursors {
		run := found[c.OrderID]
		if h.handOut(c.OrderID, run, len(run) < readEach) {
			again = append(again, millrace.EventCursor{OrderID: c.OrderID, After: run[len(run)-1].Version})
		}
	}
	return again, nil
}

// handOut gives an order's events, sorted by version, to those who lack them. complete means that there are no later ones. It reports
// whether somebody waits for those that there are. It is called with the lock held.
func (h *Hub) handOut(order uuid.UUID, events []millrace.Event, complete bool) bool {
	g := h.orders[order]
	wanted := false
	encoders := make([]encoder, len(events))
	for i := range events {
		e := &events[i]
		encoders[i].event = e
		if h.watchedByMany(e.CustomerID) {
			wanted = true
			h.handOutToMany(&encoders[i])
		}
	}
	if g != nil {
		for _, c := range g.conns {
			if c.take(encoders, complete) {
				wanted = true
			}
		}
	}
	return wanted && !complete
}

func (h *Hub) handOutToMany(x *encoder) {
	e := x.event
	before := h.recent.get(e.OrderID)
	h.recent.put(e.OrderID, e.Version, e.Tx)
	if e.Version <= before.version || e.Tx < h.mark {
		return
	}
	for _, c := range h.all.conns {
		c.takeOne(x)
	}
	if g := h.customers[e.CustomerID]; g != nil {
		for _, c := range g.conns {
			c.takeOne(x)
		}
	}
}

// take queues what a stream of one order lacks. It reports whether the stream is ready for more. It is called with the hub's lock held.
func (c *conn) take(encoders []encoder, complete bool) bool {
	for i := range encoders {
		x := &encoders[i]
		if x.event.Version <= c.sent {
			continue
		}
		if x.event.Version != c.sent+1 {
			return false // it has joined since the read was planned, and one for it is to come
		}
		switch c.push(entry{message: x.forOrder(), live: !c.behind}, c.hub.config.Buffer) {
		case queued:
			c.sent++
		case full:
			if c.behind {
				c.wantMore()
			} else {
				c.overflow()
			}
			return false
		case gone:
			c.abandon()
			return false
		}
		if c.hub.config.EndWhenFinal && complete && i == len(encoders)-1 && x.event.Status.Final() {
			c.finish()
		}
	}
	if complete && c.behind {
		if c.hasRoom() {
			c.behind = false
		} else {
			c.wantMore()
		}
	}
	return true
}
