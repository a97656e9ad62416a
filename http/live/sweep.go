package live

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"millrace"
)

// sweepLoop looks now and then for events whose ring was lost, and at once when rings may have been.
func (h *Hub) sweepLoop(ctx context.Context) {
	failing := false
	for first := true; ; first = false {
		if !first {
			timer := time.NewTimer(spread(h.config.Sweep*3/4, h.config.Sweep*5/4)) // apart from other processes
			select {
			case <-ctx.Done():
			case <-timer.C:
			case <-h.sweepKick:
			}
			timer.Stop()
		}
		err := h.sweep(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			h.readErrors.Add(1)
			if !failing {
				h.config.Logger.WarnContext(ctx, "live streams cannot look for missed events, will retry", "error", err)
			}
		}
		failing = err != nil
		if failing {
			sleep(ctx, 100*time.Millisecond)
		}
	}
}

var errSweepDropped = errors.New("more orders changed than can wait to be read")

// sweep finds every event that was committed before it and that some stream lacks, has it handed out, and then moves the mark on.
//
// It reads the events of all transactions that were not finished when the last one began, once for all watchers. While a long
// transaction keeps the mark where it is, that is more and more. Past some thousands only what lies beyond the last sweep is read until
// the mark moves; then all is read once more, because events of transactions that ran at the time may have come up in between.
func (h *Hub) sweep(ctx context.Context) error {
	watermark, err := h.watermark(ctx)
	if err != nil {
		return err
	}
	drops := h.inbox.dropped()

	h.mu.Lock()
	from, pos, direct := h.mark, millrace.EventPosition{}, h.sweepsDirectly()
	if watermark == from && h.window > sweepWindow {
		pos = h.scanned
	}
	window := h.window
	if from == 0 || len(h.conns) == 0 { // who joins from now on reads what there is by itself
		direct = true
	}
	h.mu.Unlock()

	if direct {
		h.inbox.addAll()
	} else {
		var n int
		start := pos
		if pos, n, err = h.scan(ctx, from, pos); err != nil {
			return err
		}
		if window += n; start == (millrace.EventPosition{}) {
			window = n
		}
	}
	if err := h.inbox.barrier(ctx); err != nil {
		return err
	}
	if h.inbox.dropped() != drops {
		return errSweepDropped
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scanned, h.window = pos, window
	if watermark != h.mark {
		first := h.mark == 0
		h.mark, h.cursor = watermark, encodeCursor(watermark)
		h.recent.forget(watermark)
		if first {
			close(h.ready)
		}
	}
	return nil
}

func (h *Hub) watermark(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return h.config.Source.Watermark(ctx)
}

// sweepsDirectly reports whether to read for each watched order is less work than to read what everybody did. It is called with the
// lock held.
func (h *Hub) sweepsDirectly() bool {
	return len(h.all.conns) == 0 && len(h.customers) == 0 && len(h.orders) <= directSweep
}

// scan puts the orders that changed since a transaction, past a position, and that some stream lacks events of, into the inbox. It
// returns how far it came and how many events it read.
func (h *Hub) scan(ctx context.Context, from int64, pos millrace.EventPosition) (millrace.EventPosition, int, error) {
	for n := 0; ; {
		query, cancel := context.WithTimeout(ctx, readTimeout)
		h.reads.Add(1)
		page, err := h.config.Source.CustomerEventsSince(query, uuid.Nil, from, pos, sweepPage)
		cancel()
		if err != nil {
			return pos, n, err
		}
		n += len(page)
		h.inbox.add(h.missed(page)...)
		if len(page) > 0 {
			pos = page[len(page)-1].Position()
		}
		if len(page) < sweepPage {
			return pos, n, nil
		}
	}
}

// missed picks the orders of which a stream lacks an event.
func (h *Hub) missed(events []millrace.Event) []millrace.Ring {
	h.mu.Lock()
	defer h.mu.Unlock()
	var rings []millrace.Ring
	for i := range events {
		e := &events[i]
		g, many := h.orders[e.OrderID], h.watchedByMany(e.CustomerID)
		if (many && e.Version > h.recent.get(e.OrderID).version) || (g != nil && e.Version > g.behind()) {
			rings = append(rings, millrace.Ring{OrderID: e.OrderID, CustomerID: e.CustomerID})
			h.sweepFinds.Add(1)
		}
	}
	return rings
}
