package live

import (
	"errors"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"sync"
	"time"
)

// taken is an HTTP/1.1 connection that was taken over from net/http when its stream began. A request that lasts keeps alive what was
// parsed of it, the buffers of both directions, and a stack as deep as the chain of handlers: together more than the stream itself. From
// here on the framing of the body and the deadlines are ours, and so is a goroutine that waits for the
// client to hang up. When the stream has ended, the connection goes back to its server.
type taken struct {
	conn   net.Conn
	server *http.Server // nil if the connection is not of use afterwards
	burst  *[]byte      // what was written since the last flush, nil if nothing was

	watching sync.WaitGroup
	one      [1]byte
	gone     bool // the client has hung up; like early, for after the wait
	early    bool // the client has sent more than its request
}

// takeOver answers 200 and takes the connection over. It returns nil where that is not possible, in which case the header may be
// written nevertheless.
func takeOver(w http.ResponseWriter, r *http.Request) *taken {
	w.WriteHeader(http.StatusOK)
	if r.ProtoMajor != 1 || r.ProtoMinor != 1 || r.ContentLength != 0 {
		return nil
	}
	conn, buffered, err := http.NewResponseController(w).Hijack() // which writes the header
	if err != nil {
		return nil
	}
	t := &taken{conn: conn, early: buffered.Reader.Buffered() > 0}
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && !r.Close {
		t.server = server
	}
	return t
}

// watch calls gone when the client hangs up, as net/http does within a request. Who sends anything instead is left alone: that it has
// gone is found out by a write.
func (t *taken) watch(gone func()) {
	if t.early {
		return
	}
	t.watching.Go(func() {
		switch _, err := t.conn.Read(t.one[:]); {
		case err == nil:
			t.early = true
		case !errors.Is(err, os.ErrDeadlineExceeded):
			t.gone = true
			gone()
		}
	})
}

func (t *taken) endWatch() {
	_ = t.conn.SetReadDeadline(time.Unix(1, 0)) // fails on a closed connection, which nobody reads
	t.watching.Wait()
}

// Bursts are collected behind room for the length that each is preceded by. An idle stream has no buffer.
const (
	chunkRoom  = 16
	burstKept  = 4 * flushBytes // a buffer that has grown beyond is not used again
	chunkedEnd = "0\r\n\r\n"
)

var bursts = sync.Pool{New: func() any {
	b := make([]byte, chunkRoom, 2<<10)
	return &b
}}

func (t *taken) collect(p []byte) {
	if t.burst == nil {
		t.burst, _ = bursts.Get().(*[]byte)
	}
	*t.burst = append(*t.burst, p...)
}

// flush writes what was collected as one chunk, in one call.
func (t *taken) flush() error {
	if t.burst == nil {
		return nil
	}
	b := *t.burst
	var length [chunkRoom]byte
	prefix := append(strconv.AppendInt(length[:0], int64(len(b)-chunkRoom), 16), "\r\n"...)
	start := chunkRoom - len(prefix)
	copy(b[start:], prefix)
	b = append(b, "\r\n"...)
	_, err := t.conn.Write(b[start:])
	if cap(b) <= burstKept {
		*t.burst = b[:chunkRoom]
		bursts.Put(t.burst)
	}
	t.burst = nil
	return err
}

// giveBack returns the connection to its server, which waits for the next request on it, or closes it.
func (t *taken) giveBack() {
	if t.server == nil || t.early || t.conn.SetDeadline(time.Time{}) != nil {
		_ = t.conn.Close()
		return
	}
	l := &lastConn{conn: t.conn}
	_ = t.server.Serve(l) // returns once it has asked for a second connection
	if l.conn != nil {
		_ = l.conn.Close() // the server is shutting down
	}
}

// lastConn is a listener that accepts one connection.
type lastConn struct{ conn net.Conn }

func (l *lastConn) Accept() (c net.Conn, err error) {
	if l.conn == nil {
		return nil, net.ErrClosed
	}
	c, l.conn = l.conn, nil
	return c, nil
}

func (*lastConn) Close() error     { return nil }
func (l *lastConn) Addr() net.Addr { return lastAddr{} }

type lastAddr struct{}

func (lastAddr) Network() string { return "tcp" }
func (lastAddr) String() string  { return "a connection whose stream has ended" }

// serveTaken serves c on a connection that was taken over, until the stream has ended.
func (h *Hub) serveTaken(c *conn, viewer Viewer) {
	defer h.limits.release(viewer)
	defer h.leave(c)
	t := c.out.taken
	defer func() {
		if v := recover(); v != nil { // as in a request, this stream alone
			h.config.Logger.Error("a live stream panicked", "panic", v, "stack", string(debug.Stack()))
			_ = t.conn.Close()
		}
	}()
	t.watch(c.cancel)
	c.stream()
	t.endWatch()
	if h.endTaken(c, t) {
		t.giveBack()
	} else {
		_ = t.conn.Close()
	}
}

// endTaken writes the end of the body, and reports whether the connection is of use to both sides still.
func (h *Hub) endTaken(c *conn, t *taken) bool {
	c.mu.Lock()
	usable := !c.dead && !c.out.failed && !t.gone && t.conn.SetWriteDeadline(time.Now().Add(h.config.WriteTimeout)) == nil
	c.mu.Unlock()
	if !usable {
		return false
	}
	_, err := t.conn.Write([]byte(chunkedEnd))
	h.mu.Lock()
	draining := h.draining // its server is about to shut down, which waits for new connections
	h.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.served = true
	return err == nil && !c.dead && !draining
}
