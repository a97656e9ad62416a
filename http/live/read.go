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
		if err := h.read(ctx, b); err == nil {
			h.inbox.finish(b)
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

// read reads all that is new to the watchers of a batch's orders and hands it out.
func (h *Hub) read(ctx context.Context, b batch) error {
	if b.dropped {
		h.kickSweep()
	}
	cursors := h.plan(b)
	for len(cursors) > 0 {
		n := min(len(cursors), readOrders)
		again, err := h.readSome(ctx, cursors[:n])
		if err != nil {
			return err
		}
		cursors = append(cursors[n:], again...)
	}
	return nil
}

// plan turns a batch into where to read on. Orders that nobody watches drop out.
func (h *Hub) plan(b batch) []millrace.EventCursor {
	h.mu.Lock()
	defer h.mu.Unlock()
	cursors := make([]millrace.EventCursor, 0, len(b.orders))
	for order, customer := range b.orders {
		g, many := h.orders[order], h.watchedByMany(customer)
		if g == nil && !many {
			continue
		}
		cursors = append(cursors, millrace.EventCursor{OrderID: order, After: h.after(order, g, many)})
	}
	if b.all {
		for order, g := range h.orders {
			if _, listed := b.orders[order]; !listed {
				cursors = append(cursors, millrace.EventCursor{OrderID: order, After: g.behind()})
			}
		}
	}
	return cursors
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
	if complete {
		c.behind = false
	}
	return true
}
