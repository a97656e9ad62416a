package notify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// connectTimeout bounds one attempt to connect, callTimeout one statement: past it a connection counts as dead.
	connectTimeout = 5 * time.Second
	callTimeout    = 5 * time.Second
	closeTimeout   = time.Second

	firstBackoff = 50 * time.Millisecond
	maxBackoff   = 3 * time.Second
)

func connConfig(databaseURL, name string) (*pgx.ConnConfig, error) {
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("parse the database URL: %w", err)
	}
	config.ConnectTimeout = connectTimeout
	config.RuntimeParams["application_name"] = name
	// One statement, once in a while: nothing is worth preparing, and a pooler in transaction mode would not keep it.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	return config, nil
}

// hangUp ends a connection, politely where it still works.
func hangUp(conn *pgx.Conn) {
	if conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx) // it is of no further use either way
}

// backoff is how long to wait after n failures in a row: not at all after the first, which a connection that went stale explains.
func backoff(n int) time.Duration {
	if n <= 1 {
		return 0
	}
	d := min(firstBackoff<<min(n-2, 10), maxBackoff)
	return d/2 + rand.N(d/2+1) //nolint:gosec // apart from others, not a secret
}

// wait sleeps for d unless ctx ends, and reports whether it slept.
func wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
