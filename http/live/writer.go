package live

import (
	"errors"
	"net/http"
	"os"
	"time"
)

// writer stands between r3labs/sse, which ignores what becomes of its writes and flushes after each event, and the response. It is used
// by the connection's handler alone.
type writer struct {
	conn     *conn
	response http.ResponseWriter      // nil once taken is set
	control  *http.ResponseController // likewise
	taken    *taken                   // nil where the response is net/http's; set before the stream begins
	begun    bool                     // the header was written
	armed    bool                     // a write deadline is set
	failed   bool                     // nothing can be written any more
	waiting  int                      // bytes since the last flush
	unseen   []time.Time              // of the live events since the last flush
}

// Header is for r3labs/sse to set what is written already.
func (w *writer) Header() http.Header { return make(http.Header) }

// WriteHeader is called by r3labs/sse once the stream has its subscriber.
func (w *writer) WriteHeader(int) { w.begun = true }

// takeOver writes the header, and takes the connection over where it can. The stream may have been cut by then; net/http lifts that
// deadline.
func (w *writer) takeOver(r *http.Request) {
	header := w.response.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Connection", "keep-alive")
	for name, value := range streamHeaders {
		header.Set(name, value)
	}
	t := takeOver(w.response, r)
	if t == nil {
		return
	}
	c := w.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	w.taken, w.response, w.control, w.armed = t, nil, nil, false
	if c.dead {
		_ = w.setDeadline(time.Unix(1, 0)) // fails on a closed connection
	}
}

// setDeadline is called with the connection's lock held, as taken may be set meanwhile.
func (w *writer) setDeadline(at time.Time) error {
	if w.taken != nil {
		return w.taken.conn.SetWriteDeadline(at)
	}
	return w.control.SetWriteDeadline(at)
}

// arm sets a deadline for the burst that begins. The stream may have been cut by then: its deadline stays in the past.
func (w *writer) arm() bool {
	if w.armed || w.failed {
		return !w.failed
	}
	c := w.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || w.setDeadline(time.Now().Add(c.hub.config.WriteTimeout)) != nil {
		w.failed = true
		return false
	}
	w.armed = true
	return true
}

var errStreamEnded = errors.New("the stream has ended")

func (w *writer) Write(p []byte) (int, error) {
	if w.taken != nil {
		if w.failed {
			return 0, errStreamEnded
		}
		w.taken.collect(p)
		w.waiting += len(p)
		return len(p), nil
	}
	if !w.arm() {
		return 0, errStreamEnded
	}
	n, err := w.response.Write(p)
	w.waiting += n
	if err != nil {
		w.fail(err)
	}
	return n, err
}

// Flush is called by r3labs/sse after the header and then after each event. While more events are on their way, they go out together.
func (w *writer) Flush() {
	if w.waiting == 0 {
		return
	}
	e, more, last := w.conn.wrote()
	h := w.conn.hub
	if w.failed {
		return
	}
	if e.version > 0 {
		h.delivered.Add(1)
		if e.live && h.config.ObserveLag != nil {
			w.unseen = append(w.unseen, e.at)
		}
	}
	if more && w.waiting < flushBytes {
		return
	}
	if err := w.flush(); err != nil {
		w.fail(err)
		return
	}
	w.waiting = 0
	w.disarm()
	if len(w.unseen) > 0 {
		now := time.Now()
		for _, at := range w.unseen {
			h.config.ObserveLag(max(now.Sub(at), 0))
		}
		w.unseen = w.unseen[:0]
	}
	if last {
		w.conn.cancel()
	}
}

func (w *writer) flush() error {
	if w.taken == nil {
		return w.control.Flush()
	}
	if !w.arm() {
		return errStreamEnded
	}
	return w.taken.flush()
}

// disarm lifts the deadline, so that it does not end a stream that is merely quiet. On a connection of our own, one that passes between
// two writes does nothing.
func (w *writer) disarm() {
	if w.taken != nil {
		w.armed = false
		return
	}
	c := w.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	w.armed = false
	if !c.dead {
		_ = w.setDeadline(time.Time{}) // arm finds out
	}
}

func (w *writer) fail(err error) {
	w.failed = true
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c := w.conn
		c.mu.Lock()
		if !c.dead {
			c.hub.stalled.Add(1)
		}
		c.mu.Unlock()
	}
	w.conn.cancel()
}

// close gives the response back. Over HTTP/1 the end of the body is still to be written, and net/http lifts the deadline after it;
// over HTTP/2 a deadline that is left would reset the stream.
func (w *writer) close(major int) {
	c := w.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.served = true
	if c.dead {
		return
	}
	var deadline time.Time
	if major == 1 {
		deadline = time.Now().Add(c.hub.config.WriteTimeout)
	}
	_ = w.setDeadline(deadline) // nothing more can be done about it
}
