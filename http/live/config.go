package live

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"github.com/google/uuid"

	"millrace"
)

// Source is where events are read. Its reads must see every commit that came before them: a primary, not a replica.
type Source interface {
	// EventsAfter returns the events past each cursor, at most limitEach for each, sorted by order and version.
	EventsAfter(ctx context.Context, cursors []millrace.EventCursor, limitEach int) ([]millrace.Event, error)

	// Watermark returns a transaction id that no event which is not visible yet will be below. It never falls.
	Watermark(ctx context.Context) (int64, error)

	// CustomerEventsSince returns a customer's events (uuid.Nil: everyone's) of transactions from tx on, past a position, sorted by
	// position.
	CustomerEventsSince(ctx context.Context, customerID uuid.UUID, tx int64, after millrace.EventPosition, limit int) ([]millrace.Event, error)
}

// Config says how a Hub serves. Only Source is required.
type Config struct {
	Source Source
	Logger *slog.Logger

	// How many streams may be open: in this process (20000 if 0), for one subject (32), from one address (1024). Past a limit a
	// request gets 503 with Retry-After.
	MaxStreams, MaxPerSubject, MaxPerAddr int

	Window       int           // events handed to a connection's r3labs stream at a time, 16 if 0, at most 64
	Buffer       int           // events that may wait for one connection beyond the window, 64 if 0
	ManyBuffer   int           // the same for a stream of many orders, 1024 if 0
	SocketBuffer int           // bytes of a stream's socket buffer, where ConnContext is in use; 16 KiB if 0
	WriteTimeout time.Duration // what a client may take to accept a burst, 10 s if 0

	// A stream is sent a comment after a time between HeartbeatMin and HeartbeatMax (15 s and 25 s if 0), and ended with a hint to
	// reconnect at an age between RotateMin and RotateMax (30 min and 60 min if 0).
	HeartbeatMin, HeartbeatMax time.Duration
	RotateMin, RotateMax       time.Duration

	Sweep        time.Duration // between two looks for events whose ring was lost, 2 s if 0; the delay of all events where nothing rings
	ReadInterval time.Duration // least time between two reads, 2 ms if 0; rings that come meanwhile share a read
	RetryHint    time.Duration // what clients are told to wait before they reconnect, 1 s if 0

	// EndWhenFinal ends an order's stream once the order is completed, canceled, failed or expired, and answers 204 to those who come
	// back for more, which stops an EventSource. Without it the stream stays open, since refunds may follow.
	EndWhenFinal bool

	// ObserveLag, if set, gets the time from each event to its delivery: written and flushed to the socket. Replays do not count.
	ObserveLag func(time.Duration)

	// WriteError answers a request that is refused. If nil, it is a problem+json document.
	WriteError func(w http.ResponseWriter, r *http.Request, err *millrace.Error)
}

// Viewer is who watches, as far as limits care.
type Viewer struct {
	Subject string // the identity's subject
	Addr    string // the client's address, without a port
}

const (
	readTimeout = 10 * time.Second // of one query
	readEach    = 64               // events read for one order at a time
	readOrders  = 512              // orders read for in one query
	sweepPage   = 1000             // events read at a time by a sweep
	sweepWindow = 5000             // events that a sweep reads again and again rather than miss one that comes late
	directSweep = 1000             // up to so many watched orders, a sweep reads them rather than what everybody did
	resumePage  = 256              // events read at a time for a stream of many orders that catches up
	resumers    = 2                // how many such streams read at once
	flushBytes  = 16 << 10         // a burst is flushed after so much
	inboxSize   = 1 << 16          // orders that may wait to be read; beyond it all watched ones are
	recentSize  = 1 << 15          // orders whose last version sent to streams of many orders is remembered, twice
)

func or[T comparable](v *T, fallback T) {
	var zero T
	if *v == zero {
		*v = fallback
	}
}

func (c *Config) setDefaults() {
	or(&c.MaxStreams, 20000)
	or(&c.MaxPerSubject, 32)
	or(&c.MaxPerAddr, 1024)
	or(&c.Window, 16)
	c.Window = min(c.Window, 64) // the length of a channel inside r3labs/sse: beyond it, a stream's goroutine would block
	or(&c.Buffer, 64)
	or(&c.ManyBuffer, 1024)
	c.ManyBuffer = max(c.ManyBuffer, resumePage)
	or(&c.SocketBuffer, 16<<10)
	or(&c.WriteTimeout, 10*time.Second)
	or(&c.HeartbeatMin, 15*time.Second)
	or(&c.HeartbeatMax, max(25*time.Second, c.HeartbeatMin))
	or(&c.RotateMin, 30*time.Minute)
	or(&c.RotateMax, max(60*time.Minute, c.RotateMin))
	or(&c.Sweep, 2*time.Second)
	or(&c.ReadInterval, 2*time.Millisecond)
	or(&c.RetryHint, time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.WriteError == nil {
		c.WriteError = writeProblem
	}
}
