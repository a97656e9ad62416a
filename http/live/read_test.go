package live

import (
	"context"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/r3labs/sse/v2"

	"millrace"
)

// asked is a Source that remembers what it was asked.
type asked struct {
	memory
	queries [][]millrace.EventCursor
}

func (a *asked) EventsAfter(ctx context.Context, cursors []millrace.EventCursor, limitEach int) ([]millrace.Event, error) {
	a.queries = append(a.queries, slices.Clone(cursors))
	return a.memory.EventsAfter(ctx, cursors, limitEach)
}

// watcher joins a stream of an order that is never served: what is handed to it stays queued.
func (h *Hub) watcher(t *testing.T, o millrace.Ring, behind bool) *conn {
	t.Helper()
	c := &conn{hub: h, orderID: o.OrderID, customerID: o.CustomerID, behind: behind, server: sse.New(), cancel: func() {}}
	if err := h.join(c); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestThousandsWhoComeBackDoNotDelayWhatIsNew(t *testing.T) {
	t.Parallel()
	source := &asked{memory: memory{orders: make(map[uuid.UUID][]millrace.Event)}}
	h := NewHub(Config{Source: source})
	current := millrace.Ring{OrderID: uuidNew(), CustomerID: uuidNew()}
	live := h.watcher(t, current, false)
	h.watcher(t, current, true) // who joins the same stream holds nobody up either
	const back = 2*readOrders + 100
	returning := make([]*conn, back)
	for i := range returning {
		o := millrace.Ring{OrderID: uuidNew(), CustomerID: uuidNew()}
		returning[i] = h.watcher(t, o, true)
		source.write(o)
		h.Rung(o)
	}
	for round := int32(1); ; round++ {
		source.write(current)
		h.Rung(current)
		left, err := h.read(t.Context(), h.inbox.take())
		if err != nil {
			t.Fatal(err)
		}
		if live.sent != round {
			t.Fatalf("round %d: the current watcher was sent version %d", round, live.sent)
		}
		if first := source.queries[0]; len(first) != 1 || first[0].OrderID != current.OrderID || len(source.queries) > 2 {
			t.Errorf("round %d: %d queries, the first for %d orders; want one for news, then one for histories", round, len(source.queries), len(first))
		}
		source.queries = nil
		if len(left) == 0 {
			break
		}
		for order, customer := range left {
			if h.orders[order].conns[0].customerID != customer {
				t.Fatal("an order was put back as another customer's")
			}
		}
		h.inbox.putBack(batch{orders: left})
	}
	for _, c := range returning {
		if c.sent != 1 || c.behind {
			t.Fatalf("who came back was sent version %d, behind %v", c.sent, c.behind)
		}
	}
}

// A sweep moves the mark on once everything that was in when it looked was read, histories included.
func TestBarrierWaitsForHistoriesThatWereLeft(t *testing.T) {
	t.Parallel()
	source := &asked{memory: memory{orders: make(map[uuid.UUID][]millrace.Event)}}
	h := NewHub(Config{Source: source})
	returning := make([]*conn, 3*readOrders)
	for i := range returning {
		o := millrace.Ring{OrderID: uuidNew(), CustomerID: uuidNew()}
		returning[i] = h.watcher(t, o, true)
		source.write(o)
		h.Rung(o)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		h.readLoop(ctx)
		close(done)
	}()
	if err := h.inbox.barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	for _, c := range returning {
		if c.sent != 1 {
			t.Fatal("the barrier let go before all histories were read")
		}
	}
}

// A reader that has just caught up has a queue full of history, and must not be given up for the next event.
func TestReaderCountsAsKeepingUpOnceItsQueueHasRoom(t *testing.T) {
	t.Parallel()
	source := &asked{memory: memory{orders: make(map[uuid.UUID][]millrace.Event)}}
	h := NewHub(Config{Source: source, Buffer: 8})
	o := millrace.Ring{OrderID: uuidNew(), CustomerID: uuidNew()}
	c := h.watcher(t, o, true)
	read := func() {
		t.Helper()
		h.Rung(o)
		if _, err := h.read(t.Context(), h.inbox.take()); err != nil {
			t.Fatal(err)
		}
	}
	for range 7 { // and the first message
		source.write(o)
	}
	read()
	if !c.behind || c.queue.len() != 8 {
		t.Fatalf("behind %v with %d of 8 places taken", c.behind, c.queue.len())
	}
	source.write(o)
	read()
	if c.dead || h.Stats().Overflows != 0 {
		t.Fatal("it was given up for an event that came while it caught up")
	}
	for c.queue.len() > 0 { // the client takes it all
		c.mu.Lock()
		c.inflight.push(c.queue.pop())
		c.mu.Unlock()
		c.wrote()
	}
	if b := h.inbox.take(); len(b.orders) != 1 {
		t.Fatalf("it does not ask for what came meanwhile: %d orders", len(b.orders))
	}
	read()
	if c.behind || c.sent != 8 || c.queue.len() != 1 {
		t.Errorf("behind %v at version %d with %d queued, want all of 8 and to keep up", c.behind, c.sent, c.queue.len())
	}
}
