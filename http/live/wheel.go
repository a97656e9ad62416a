package live

import (
	"context"
	"sync"
	"time"
)

// wheel is one timer for all connections. Each sits in the slot of the tick at which it is next due.
type wheel struct {
	tick     time.Duration
	min, max time.Duration

	mu    sync.Mutex
	slots []*conn // heads of lists linked through the connections
	now   int
}

func newWheel(least, most time.Duration) *wheel {
	tick := max(least/16, time.Millisecond)
	return &wheel{tick: tick, min: least, max: most, slots: make([]*conn, int(most/tick)+2)}
}

// add makes c due once, after a random time between min and max.
func (w *wheel) add(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.wheel.gone {
		return
	}
	slot := &w.slots[(w.now+max(int(spread(w.min, w.max)/w.tick), 1))%len(w.slots)]
	c.wheel.slot, c.wheel.prev, c.wheel.next = slot, nil, *slot
	if *slot != nil {
		(*slot).wheel.prev = c
	}
	*slot = c
}

// remove takes c off for good.
func (w *wheel) remove(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unlink(c)
	c.wheel.gone = true
}

func (w *wheel) unlink(c *conn) {
	l := &c.wheel
	if l.slot == nil {
		return
	}
	if l.prev != nil {
		l.prev.wheel.next = l.next
	} else {
		*l.slot = l.next
	}
	if l.next != nil {
		l.next.wheel.prev = l.prev
	}
	l.slot, l.prev, l.next = nil, nil, nil
}

// turn moves on by one tick and returns the connections that are due.
func (w *wheel) turn() []*conn {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = (w.now + 1) % len(w.slots)
	var due []*conn
	for c := w.slots[w.now]; c != nil; c = w.slots[w.now] {
		w.unlink(c)
		due = append(due, c)
	}
	return due
}

// link is a connection's place on the wheel, guarded by the wheel's lock.
type link struct {
	slot       **conn
	prev, next *conn
	gone       bool
}

func (h *Hub) wheelLoop(ctx context.Context) {
	ticker := time.NewTicker(h.wheel.tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		due := h.wheel.turn()
		if len(due) == 0 {
			continue
		}
		h.mu.Lock()
		many := note(h.cursor, 0, "quiet") // moves on the id that a client resumes from
		h.mu.Unlock()
		now := time.Now()
		for _, c := range due {
			c.beat(now, many)
			h.wheel.add(c)
		}
	}
}
