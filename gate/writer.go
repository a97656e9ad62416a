package gate

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// clientPatience is how long a client may take to accept one write.
	clientPatience = 30 * time.Second
	// patienceSlack is how much shorter it may be, so that a deadline serves several writes: each set anew costs a microsecond.
	patienceSlack = 2 * time.Second
)

// responseWriter notes what was answered and bounds how long a slow client can hold a write up.
type responseWriter struct {
	http.ResponseWriter
	control   *http.ResponseController
	status    int
	bytes     int64
	streaming bool
	failed    bool      // the client did not take a write
	deadline  time.Time // for the next write; zero: none
}

func newResponseWriter(w http.ResponseWriter) *responseWriter {
	return &responseWriter{ResponseWriter: w, control: http.NewResponseController(w)}
}

// extend gives the client time for the next write. Servers without deadlines, as in some tests, go without.
func (w *responseWriter) extend() {
	deadline := time.Now().Add(clientPatience)
	if deadline.Sub(w.deadline) < patienceSlack {
		return
	}
	w.deadline = deadline
	_ = w.control.SetWriteDeadline(deadline)
}

func (w *responseWriter) WriteHeader(status int) {
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		return // an upstream's interim answers could set headers that nothing here has checked
	}
	if w.status == 0 {
		w.status = status
	}
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

func (w *responseWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.extend()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	w.failed = w.failed || err != nil
	return n, err
}

// FlushError flushes. On a stream it then lifts the deadline: one that expired while nothing is being said would reset an
// idle HTTP/2 stream.
func (w *responseWriter) FlushError() error {
	err := w.control.Flush()
	if w.streaming {
		w.deadline = time.Time{}
		_ = w.control.SetWriteDeadline(w.deadline)
	}
	return err
}

// Flush implements http.Flusher.
func (w *responseWriter) Flush() { _ = w.FlushError() }

// Unwrap lets http.ResponseController reach the server's writer.
func (w *responseWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// timedBody bounds how long a client may take to send a request body.
type timedBody struct {
	io.ReadCloser
	control  *http.ResponseController
	deadline time.Time
	whole    atomic.Bool // all of it was read
	broken   atomic.Bool // it could not be read
}

func newTimedBody(body io.ReadCloser, control *http.ResponseController, limit time.Duration) *timedBody {
	b := &timedBody{ReadCloser: body, control: control, deadline: time.Now().Add(limit)}
	_ = control.SetReadDeadline(b.deadline) // servers without deadlines go without
	return b
}

// late reports whether the client's time is up and part of the body is missing still. It goes by the clock, since the failed
// read may come to light as a cancelled request just as well.
func (b *timedBody) late() bool {
	return b != nil && !b.whole.Load() && !time.Now().Before(b.deadline)
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == io.EOF:
		b.end()
	case err != nil && !errors.Is(err, http.ErrBodyReadAfterClose): // by whoever gave it up
		b.broken.Store(true)
	}
	return n, err
}

// end lifts the deadline, once all was read: the connection is still read from, to notice when the client leaves.
func (b *timedBody) end() {
	if b.whole.CompareAndSwap(false, true) {
		_ = b.control.SetReadDeadline(time.Time{})
	}
}
