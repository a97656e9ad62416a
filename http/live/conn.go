package live

import (
	"context"
	"math"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/r3labs/sse/v2"
)

// conn is one open stream. Its events go from the queue to its private r3labs stream, a window of them at a time, and from there,
// framed, to the writer, which says when each is written.
type conn struct {
	hub        *Hub
	many       bool
	orderID    uuid.UUID // watched, unless many
	customerID uuid.UUID // whose order it is; of many, whose orders are watched, uuid.Nil for everyone's
	since      int64     // of many: events of transactions below are past
	server     *sse.Server
	out        *writer
	cancel     context.CancelFunc
	canceled   <-chan struct{}
	request    *http.Request // what r3labs gets to see
	rotateAt   time.Time
	wheel      link
	subscribed sync.WaitGroup // the goroutines in which r3labs calls OnSubscribe and OnUnsubscribe

	// Guarded by the hub's lock.
	index  int     // in its group
	sent   int32   // of one order: the highest version queued
	behind bool    // of one order: history is still being read, which waits for a slow client rather than giving it up
	resume *resume // of many: set while history is being read
	known  *recent // of many: what history held of late, and may come up once more

	mu       sync.Mutex
	queue    fifo
	inflight fifo   // handed to r3labs and not yet written
	lastID   []byte // of what was queued last
	started  bool   // the r3labs stream has its subscriber
	hungry   bool   // wants to be read for again once the queue is empty
	ending   bool   // nothing more is queued
	dead     bool   // nothing more is written
	served   bool   // the response, or the connection, belongs to net/http again
}

// entry is a message that waits for a connection.
type entry struct {
	*message
	live bool // it counts for the lag
}

type pushed int

const (
	queued pushed = iota
	full          // and nothing was queued
	gone          // the connection is ending
)

// push queues a message unless more than limit wait.
func (c *conn) push(e entry, limit int) pushed {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ending || c.dead:
		return gone
	case c.queue.len() >= limit:
		return full
	}
	c.queueUp(e)
	return queued
}

func (c *conn) queueUp(e entry) {
	if len(e.sse.ID) > 0 {
		c.lastID = e.sse.ID
	}
	c.queue.push(e)
	c.pump()
}

// pump hands the r3labs stream what the window allows. The window is no longer than the stream's channels, so it always takes it.
func (c *conn) pump() {
	for c.started && c.queue.len() > 0 && c.inflight.len() < c.hub.config.Window {
		e := c.queue.pop()
		if !c.server.TryPublish(streamName, e.sse) {
			c.cut()
			return
		}
		c.inflight.push(e)
	}
}

// overflow gives up a connection that too many events wait for. It is called with the hub's lock held.
func (c *conn) overflow() {
	c.hub.overflows.Add(1)
	c.kill()
	c.abandon()
}

// abandon makes reads stop caring for what an ending connection was not sent. It is called with the hub's lock held.
func (c *conn) abandon() { c.sent = math.MaxInt32 }

// start is called once the r3labs stream has its subscriber: what was queued meanwhile goes out, and history is asked for.
func (c *conn) start() {
	c.mu.Lock()
	c.started = true
	c.pump()
	c.mu.Unlock()
	c.hub.wheel.add(c)
	if !c.many || c.resume != nil { // no read of history has begun yet, so nobody else looks at resume
		c.readAgain()
	}
}

func (c *conn) readAgain() {
	if c.many {
		c.hub.resuming.add(c)
	} else {
		c.hub.inbox.add(c.ring())
	}
}

// wantMore has the connection read for again when its queue is empty, which it may be now.
func (c *conn) wantMore() {
	c.mu.Lock()
	c.hungry = c.queue.len() > 0
	now := !c.hungry
	c.mu.Unlock()
	if now {
		c.readAgain()
	}
}

// hasRoom reports whether a connection that has all there is may be treated as one that keeps up: with its queue more than half full of
// history, it would be given up for what comes next.
func (c *conn) hasRoom() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue.len() <= c.hub.config.Buffer/2
}

// wrote takes note that the oldest message in flight is framed. It reports whether more follow at once, and whether this was the last
// of all.
func (c *conn) wrote() (e entry, more, last bool) {
	c.mu.Lock()
	e = c.inflight.pop()
	c.pump()
	more, last = c.inflight.len() > 0, c.ending && c.inflight.len() == 0
	hungry := c.hungry && c.queue.len() == 0
	if hungry {
		c.hungry = false
	}
	c.mu.Unlock()
	if hungry {
		c.readAgain()
	}
	return e, more, last
}

// finish ends the stream after what is queued, with a hint when to reconnect.
func (c *conn) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ending || c.dead {
		return
	}
	hint := c.hub.config.RetryHint
	c.queueUp(entry{message: note(c.lastID, spread(hint, 4*hint), "reconnect")})
	c.ending = true
}

// kill ends the stream at once, even in the middle of a write.
func (c *conn) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut()
}

func (c *conn) cut() {
	if c.dead {
		return
	}
	c.dead = true
	c.cancel()
	if !c.served {
		_ = c.out.setDeadline(time.Unix(1, 0)) // that it can be set was checked at the start
	}
}

// beat is called by the wheel: it ends an old stream and lets a quiet one show that it is alive.
func (c *conn) beat(now time.Time, many *message) {
	if now.After(c.rotateAt) {
		c.hub.rotated.Add(1)
		c.finish()
		return
	}
	m := heartbeat
	if c.many {
		c.hub.mu.Lock()
		if c.resume == nil { // the cursor of the others holds for it too
			m = many
			if c.known != nil && c.known.forget(c.hub.mark) {
				c.known = nil
			}
		}
		c.hub.mu.Unlock()
	}
	c.push(entry{message: m}, 1)
}

// fifo is a queue that gives its memory back when it is empty.
type fifo struct {
	items []entry
	head  int
}

func (q *fifo) len() int { return len(q.items) - q.head }

func (q *fifo) push(e entry) {
	if q.head >= 32 && q.head*2 >= len(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, e)
}

// pop returns the oldest entry, or none.
func (q *fifo) pop() entry {
	if q.len() == 0 {
		return entry{}
	}
	e := q.items[q.head]
	q.items[q.head] = entry{}
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
		if cap(q.items) > 8 {
			q.items = nil
		}
	}
	return e
}
