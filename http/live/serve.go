package live

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/google/uuid"
	"github.com/r3labs/sse/v2"

	"millrace"
)

// Each connection has an r3labs server of its own with one stream, so neither the name nor the URL that selects it differ.
const streamName = "s"

var (
	streamURL     = &url.URL{RawQuery: "stream=" + streamName}
	streamHeaders = map[string]string{"Cache-Control": "no-store", "X-Accel-Buffering": "no"} // read only
)

// ServeOrder serves the stream of one order to a viewer who may see it. It returns when the stream has ended.
//
// The stream begins after the version in Last-Event-ID (or ?last_event_id=), or with the order's first event. order is as it was read
// for this request; its id, customer, version and status are used.
func (h *Hub) ServeOrder(w http.ResponseWriter, r *http.Request, viewer Viewer, order *millrace.Order) {
	after, err := parseVersion(lastEventID(r), order.Version)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if h.config.EndWhenFinal && order.Status.Final() && after == order.Version {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h.serve(w, r, viewer, func() (*conn, *millrace.Error) {
		return &conn{orderID: order.ID, customerID: order.CustomerID, sent: after, behind: true}, nil
	})
}

// ServeMany serves the stream of all orders of a customer, or of all orders if customerID is uuid.Nil, to a viewer who may see them.
// It may return before the stream has ended, like ServeOrder.
//
// The stream begins where the cursor in Last-Event-ID (or ?last_event_id=) stands, or with what happens from now on. A message
// without data comes first, so that even a client which has seen no event has a cursor.
func (h *Hub) ServeMany(w http.ResponseWriter, r *http.Request, viewer Viewer, customerID uuid.UUID) {
	var from int64
	if id := lastEventID(r); id != "" {
		var err *millrace.Error
		if from, err = parseCursor(id); err != nil {
			h.refuse(w, r, err)
			return
		}
	}
	h.serve(w, r, viewer, func() (*conn, *millrace.Error) {
		now, err := h.now(r.Context())
		switch {
		case err != nil:
			return nil, millrace.WrapError(millrace.CodeUnavailable, err, "Streams are not available now: try again shortly.")
		case from > now:
			return nil, errFutureCursor
		case from > 0:
			return &conn{many: true, customerID: customerID, since: from, resume: newResume(from)}, nil
		}
		return &conn{many: true, customerID: customerID, since: now}, nil
	})
}

// now is the cursor of a stream of many orders that begins here: whatever has a lower transaction is past.
func (h *Hub) now(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	select {
	case <-h.ready:
		return h.config.Source.Watermark(ctx)
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for the hub to run and to read the database: %w", ctx.Err())
	}
}

// serve runs one stream from its admission to its end.
func (h *Hub) serve(w http.ResponseWriter, r *http.Request, viewer Viewer, open func() (*conn, *millrace.Error)) {
	if r.Method != http.MethodGet { // a ServeMux sends HEAD to GET's handler
		w.Header().Set("Allow", http.MethodGet)
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	if err := h.limits.admit(viewer); err != nil {
		h.refuse(w, r, err)
		return
	}
	handedOn := false
	defer func() {
		if !handedOn {
			h.limits.release(viewer)
		}
	}()
	c, refused := open()
	if r.Context().Err() != nil {
		return
	}
	if refused == nil {
		refused = h.begin(c, w, r)
	}
	if refused != nil {
		h.refuse(w, r, refused)
		return
	}
	if handedOn = c.out.taken != nil; handedOn {
		go h.serveTaken(c, viewer) // Run and Drain wait for it
		return
	}
	defer h.leave(c)
	stop := context.AfterFunc(r.Context(), c.cancel)
	defer stop()
	c.stream()
	c.out.close(r.ProtoMajor)
}

// begin registers c and answers the request, or says why there is no stream. Where it can, it takes the connection over.
func (h *Hub) begin(c *conn, w http.ResponseWriter, r *http.Request) *millrace.Error {
	ctx, cancel := context.WithCancel(context.Background()) // the stream may outlive its request; if not, it is ended with it
	c.hub, c.cancel, c.canceled = h, cancel, ctx.Done()
	c.request = (&http.Request{URL: streamURL}).WithContext(ctx)
	c.rotateAt = time.Now().Add(spread(h.config.RotateMin, h.config.RotateMax))
	c.out = &writer{conn: c, response: w, control: http.NewResponseController(w)}
	if err := c.out.prepare(r, h.config.SocketBuffer); err != nil {
		cancel()
		return millrace.WrapError(millrace.CodeInternal, err, "This server cannot stream.")
	}
	c.server = sse.New()
	c.server.AutoReplay = false
	c.server.BufferSize = h.config.Window
	c.server.Headers = streamHeaders
	c.server.OnSubscribe = func(string, *sse.Subscriber) {
		defer c.subscribed.Done()
		c.start()
	}
	c.server.OnUnsubscribe = func(string, *sse.Subscriber) {
		defer c.subscribed.Done()
		c.server.RemoveStream(streamName)
	}
	c.subscribed.Add(2)
	if err := h.join(c); err != nil {
		cancel()
		return err
	}
	c.server.CreateStream(streamName)
	c.out.takeOver(r)
	return nil
}

// stream has r3labs/sse serve until ctx ends.
//
// A stream may be removed once it has dropped its subscriber: before, the goroutine in which r3labs waits for the end of ctx would wait
// for ever. That holds after a panic as well.
func (c *conn) stream() {
	defer func() {
		c.cancel()
		if !c.out.begun {
			c.server.RemoveStream(streamName)
			return
		}
		c.subscribed.Wait()
	}()
	c.server.ServeHTTP(c.out, c.request)
}

// prepare makes the response fit for a stream without an end.
func (w *writer) prepare(r *http.Request, socketBuffer int) error {
	if err := w.control.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	if !w.arm() {
		return http.ErrNotSupported
	}
	if nc, ok := r.Context().Value(connKey{}).(*net.TCPConn); ok && r.ProtoMajor == 1 {
		_ = nc.SetWriteBuffer(socketBuffer) // the default works as well
	}
	return nil
}

type connKey struct{}

// ConnContext is for http.Server's field of that name. With it, a stream over HTTP/1 gets a small socket buffer: a client that stalls
// is noticed after some kilobytes, and ten thousand of them do not fill the kernel's memory.
func ConnContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}
