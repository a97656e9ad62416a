package simulated

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Entry is what the gateway holds of one order, all its payments together, in minor units.
type Entry struct {
	Captures      int   // how often money was taken: 1 for a paid order, 0 for one that was never paid
	CapturedMinor int64 // what was taken
	RefundedMinor int64 // what was sent back of it
	HeldMinor     int64 // what is authorized and neither taken nor given up
}

// Querier is what Ledger reads with: a pool, a connection or a transaction.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Ledger is what the gateway itself says it did, by order, for all orders it was ever asked to authorize money for and did not
// decline. It reads the whole table: it is meant for tests and benches.
func Ledger(ctx context.Context, db Querier) (map[uuid.UUID]Entry, error) {
	rows, err := db.Query(ctx, `
		SELECT order_id, sum(captures)::bigint, sum(captured_minor)::bigint, sum(refunded_minor)::bigint,
			coalesce(sum(amount_minor) FILTER (WHERE state = 'authorized'), 0)::bigint
		FROM simulated.charges GROUP BY order_id`)
	if err != nil {
		return nil, fmt.Errorf("simulated: read the ledger: %w", err)
	}
	ledger := make(map[uuid.UUID]Entry)
	var order uuid.UUID
	var e Entry
	if _, err := pgx.ForEachRow(rows, []any{&order, &e.Captures, &e.CapturedMinor, &e.RefundedMinor, &e.HeldMinor}, func() error {
		ledger[order] = e
		return nil
	}); err != nil {
		return nil, fmt.Errorf("simulated: read the ledger: %w", err)
	}
	return ledger, nil
}
