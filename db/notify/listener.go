package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace"
)

// ListenerConfig says what a Listener listens to. DatabaseURL, Rung and Reset are required, unless it is PollOnly.
type ListenerConfig struct {
	DatabaseURL string // a direct one: behind a pooler in transaction mode LISTEN hears nothing
	Channel     string // DefaultChannel if ""

	// PollOnly is for databases without LISTEN: nothing is heard, and watchers live on sweeps and on their own process' doorbell.
	PollOnly bool

	// Own is this process' doorbell. What it hands to its Local is not heard a second time.
	Own *Doorbell

	// Rung gets the orders that changed. Reset is called whenever rings may have been missed: once LISTEN is in force after each
	// (re)connect, and when a doorbell had too much to say. Both are called by one goroutine and must not block for long.
	Rung  func(rings ...millrace.Ring)
	Reset func()

	// Quiet is how long a connection may be silent before it is asked whether it still works, 5 s if 0. A dead one is noticed
	// within Quiet and 5 s.
	Quiet  time.Duration
	Logger *slog.Logger
}

// Listener hears the doorbells of all processes on one connection of its own.
type Listener struct {
	config  ListenerConfig
	conn    *pgx.ConnConfig
	healthy atomic.Bool
}

// NewListener checks the configuration. Run does the work.
func NewListener(config ListenerConfig) (*Listener, error) {
	l := &Listener{config: config}
	if l.config.Logger == nil {
		l.config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.PollOnly {
		return l, nil
	}
	if config.Rung == nil || config.Reset == nil {
		return nil, errors.New("listener: Rung and Reset are required")
	}
	if l.config.Channel == "" {
		l.config.Channel = DefaultChannel
	}
	if l.config.Quiet == 0 {
		l.config.Quiet = 5 * time.Second
	}
	var err error
	if l.conn, err = connConfig(config.DatabaseURL, "millrace listener"); err != nil {
		return nil, fmt.Errorf("listener: %w", err)
	}
	return l, nil
}

// Healthy reports whether LISTEN is in force, as far as is known. Without LISTEN by configuration it is always true.
func (l *Listener) Healthy() bool { return l.config.PollOnly || l.healthy.Load() }

// Run listens until ctx ends, and connects again whenever the connection breaks.
func (l *Listener) Run(ctx context.Context) error {
	if l.config.PollOnly {
		<-ctx.Done()
		return nil
	}
	failures := 0
	for {
		listened, err := l.listen(ctx)
		l.healthy.Store(false)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was told to end
		}
		if listened {
			failures = 0
		}
		failures++
		if failures <= 2 {
			l.config.Logger.WarnContext(ctx, "lost the LISTEN connection, will reconnect", "error", err)
		}
		if !wait(ctx, backoff(failures)) {
			return nil
		}
	}
}

// listen connects and hears until something breaks. It reports whether LISTEN was ever in force.
func (l *Listener) listen(ctx context.Context) (bool, error) {
	conn, err := pgx.ConnectConfig(ctx, l.conn)
	if err != nil {
		return false, err
	}
	defer hangUp(conn)
	if err := call(ctx, func(ctx context.Context) error {
		_, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{l.config.Channel}.Sanitize())
		return err
	}); err != nil {
		return false, err
	}
	// Only now: what is committed before this is found by whoever reads again, what comes after is heard.
	l.config.Reset()
	l.healthy.Store(true)
	for {
		n, err := l.next(ctx, conn)
		switch {
		case err != nil:
			return true, err
		case n != "":
			l.hear(ctx, n)
		}
	}
}

// next waits for a notification's payload. After a quiet time it makes sure that the connection still works and returns "".
func (l *Listener) next(ctx context.Context, conn *pgx.Conn) (string, error) {
	quiet, cancel := context.WithTimeout(ctx, l.config.Quiet)
	defer cancel()
	n, err := conn.WaitForNotification(quiet)
	switch {
	case err == nil:
		return n.Payload, nil
	case ctx.Err() != nil || quiet.Err() == nil:
		return "", err
	}
	return "", call(ctx, conn.Ping)
}

func (l *Listener) hear(ctx context.Context, payload string) {
	from, rings, err := decodePayload(payload)
	switch own := l.config.Own; {
	case err != nil: // a release that speaks otherwise, perhaps: heed that something happened
		l.config.Logger.WarnContext(ctx, "unreadable notification", "error", err)
		l.config.Reset()
	case own != nil && own.config.Local != nil && from == own.node:
	case len(rings) == 0:
		l.config.Reset()
	default:
		l.config.Rung(rings...)
	}
}

func call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return f(ctx)
}
