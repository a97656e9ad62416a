package live

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"millrace"
)

// resume is a stream of many orders that reads history from a cursor on, page by page, as fast as its client takes it.
//
// It goes in passes. One begins at a watermark and reads all there is: afterwards everything below the watermark was sent, and of
// what is above it everything but what was committed behind the reader's back. That much was handed out to the other streams since
// the pass began, and is held for this one. Once a pass ends with all of that held, the stream is like the others.
type resume struct {
	from int64                  // everything of transactions below was sent
	pass int64                  // the watermark at which this pass began, 0 before it does
	pos  millrace.EventPosition // how far this pass has come
	done bool                   // it has come to its end
	sent *recent

	// Guarded by the hub's lock.
	held []*message // handed out during this pass
	lost bool       // more than could be held: another pass is needed
}

const resumeRecent = 4096

func newResume(from int64) *resume {
	return &resume{from: from, sent: newRecent(resumeRecent)}
}

// takeOne queues an event on a stream of many orders. It is called with the hub's lock held.
func (c *conn) takeOne(x *encoder) {
	m, limit := x.forMany(c.hub.cursor), c.hub.config.ManyBuffer
	switch r := c.resume; {
	case x.event.Tx < c.since:
	case r != nil && len(r.held) >= limit/2: // it goes live with room for as many
		r.held, r.lost = nil, true
	case r != nil:
		if !r.lost {
			r.held = append(r.held, m)
		}
	case c.known == nil || c.known.get(m.order).version < m.version:
		if c.push(entry{message: m, live: true}, limit) == full {
			c.overflow()
		}
	}
}

// resumeQueue holds the streams whose next page is due. A stream is in it at most once.
type resumeQueue struct {
	kick chan struct{} // holds one when something is in

	mu    sync.Mutex
	conns []*conn
}

func (q *resumeQueue) add(c *conn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.conns = append(q.conns, c)
	q.wake()
}

func (q *resumeQueue) wake() {
	select {
	case q.kick <- struct{}{}:
	default:
	}
}

func (q *resumeQueue) take() *conn {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.conns) == 0 {
		return nil
	}
	c := q.conns[0]
	q.conns = slices.Delete(q.conns, 0, 1)
	if len(q.conns) > 0 {
		q.wake() // there is work for another
	}
	return c
}

func (h *Hub) resumeLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.resuming.kick:
		}
		for c := h.resuming.take(); c != nil && ctx.Err() == nil; c = h.resuming.take() {
			select {
			case <-c.canceled:
				continue
			default:
			}
			if err := h.readPage(ctx, c); err != nil && ctx.Err() == nil {
				h.readErrors.Add(1)
				h.config.Logger.WarnContext(ctx, "a live stream cannot read its history, will retry", "error", err)
				sleep(ctx, spread(100*time.Millisecond, 300*time.Millisecond))
				h.resuming.add(c)
			}
		}
	}
}

// readPage reads and queues the next page of c's history. After the last, c is live.
func (h *Hub) readPage(ctx context.Context, c *conn) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	r := c.resume
	if r.done && h.goLive(c) {
		return nil
	}
	if r.pass == 0 {
		pass, err := h.config.Source.Watermark(ctx)
		if err != nil {
			return err
		}
		h.mu.Lock()
		r.held, r.lost = nil, false
		h.mu.Unlock()
		r.pass, r.pos, r.done = pass, millrace.EventPosition{}, false
	}
	h.reads.Add(1)
	page, err := h.config.Source.CustomerEventsSince(ctx, c.customerID, r.from, r.pos, resumePage)
	if err != nil {
		return err
	}
	events, err := h.inVersionOrder(ctx, r, page)
	if err != nil {
		return err
	}
	next := r.pass // the least transaction that is still to be sent after an event
	if r.done = len(page) < resumePage; !r.done {
		r.pos = page[len(page)-1].Position()
		next = min(next, r.pos.Tx)
	}
	ids := make([]int64, len(events))
	for i := len(events) - 1; i >= 0; i-- {
		ids[i] = max(r.from, next)
		next = min(next, events[i].Tx)
	}
	for i := range events {
		x := encoder{event: &events[i]}
		c.push(entry{message: x.forMany(encodeCursor(ids[i]))}, math.MaxInt) // bounded: a page is read when the last is gone
	}
	c.wantMore() // even if this was the last: a stream goes live with room for what comes
	return nil
}

// goLive ends a pass, once all of it was taken by the client. It reports false if another is needed.
func (h *Hub) goLive(c *conn) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := c.resume
	if r.lost {
		r.from, r.pass = r.pass, 0 // and what was lost is read by the next
		return false
	}
	for _, m := range r.held {
		if m.version > r.sent.get(m.order).version {
			c.push(entry{message: m}, math.MaxInt) // bounded as well, and sent once
		}
	}
	c.resume, c.known = nil, r.sent
	return true
}

// inVersionOrder returns the events of a page that were not sent yet, each order's by version.
//
// A transaction's id is drawn before it gets the lock on an order, so a later version may have a lower one and come up on an earlier
// page. Where a version before is not known to have been sent, the order is therefore read by itself.
func (h *Hub) inVersionOrder(ctx context.Context, r *resume, page []millrace.Event) ([]millrace.Event, error) {
	runs := make(map[uuid.UUID][]millrace.Event)
	var orders []uuid.UUID // in the order in which they come up
	for _, e := range page {
		if e.Version <= r.sent.get(e.OrderID).version {
			continue
		}
		if runs[e.OrderID] == nil {
			orders = append(orders, e.OrderID)
		}
		runs[e.OrderID] = append(runs[e.OrderID], e)
	}
	var gaps []millrace.EventCursor
	for _, order := range orders {
		run := runs[order]
		slices.SortFunc(run, func(a, b millrace.Event) int { return cmp.Compare(a.Version, b.Version) })
		after := r.sent.get(order).version
		if run[0].Version != after+1 || run[len(run)-1].Version != after+int32(len(run)) {
			gaps = append(gaps, millrace.EventCursor{OrderID: order, After: after})
			runs[order] = nil
		}
	}
	for len(gaps) > 0 {
		h.reads.Add(1)
		events, err := h.config.Source.EventsAfter(ctx, gaps, readEach)
		if err != nil {
			return nil, err
		}
		count := make(map[uuid.UUID]int)
		for _, e := range events {
			if count[e.OrderID]++; e.Tx >= r.from { // else it was sent under an earlier cursor
				runs[e.OrderID] = append(runs[e.OrderID], e)
			}
		}
		gaps = gaps[:0]
		for i, e := range events {
			if count[e.OrderID] == readEach && (i+1 == len(events) || events[i+1].OrderID != e.OrderID) {
				gaps = append(gaps, millrace.EventCursor{OrderID: e.OrderID, After: e.Version})
			}
		}
	}
	var sorted []millrace.Event
	for _, order := range orders {
		run := runs[order]
		for _, e := range run {
			r.sent.put(order, e.Version, e.Tx)
		}
		sorted = append(sorted, run...)
	}
	return sorted, nil
}
