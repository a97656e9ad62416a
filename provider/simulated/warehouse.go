package simulated

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"millrace"
)

const (
	warehouseName = "simulated"
	noPickPrefix  = "NOPICK-" // of a SKU that cannot be picked
)

// warehouse is the simulated warehouse. Its rules are the functions of the schema; see migrations/00002_shipping.sql.
type warehouse struct {
	pool *pgxpool.Pool
}

var _ millrace.Warehouse = (*warehouse)(nil)

func (w *warehouse) Name() string { return warehouseName }

func (w *warehouse) Fulfill(ctx context.Context, r millrace.FulfillRequest) (millrace.FulfillResult, error) {
	code := refusalOfRequest(r)
	if code == CodeInvalidRequest {
		return millrace.FulfillResult{Outcome: millrace.OutcomeDeclined, Code: code}, nil
	}
	return w.call(ctx, "fulfill", `SELECT o_outcome, o_code FROM simulated.fulfill($1, $2, $3)`, r.Key, r.OrderID, code)
}

func (w *warehouse) Cancel(ctx context.Context, key string) (millrace.FulfillResult, error) {
	if !checkKey(key) {
		return millrace.FulfillResult{Outcome: millrace.OutcomeDeclined, Code: CodeInvalidRequest}, nil
	}
	return w.call(ctx, "cancel", `SELECT o_outcome, o_code FROM simulated.cancel_fulfillment($1)`, key)
}

func (w *warehouse) call(ctx context.Context, operation, query string, args ...any) (millrace.FulfillResult, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var r millrace.FulfillResult
	if err := w.pool.QueryRow(ctx, query, args...).Scan(&r.Outcome, &r.Code); err != nil {
		return millrace.FulfillResult{}, fmt.Errorf("simulated warehouse: %s: %w", operation, err)
	}
	return r, nil
}

// refusalOfRequest is why r is not picked, empty if it is.
func refusalOfRequest(r millrace.FulfillRequest) string {
	switch {
	case !checkKey(r.Key):
		return CodeInvalidRequest
	case slices.ContainsFunc(r.Lines, func(l millrace.Reservation) bool { return strings.HasPrefix(l.SKU, noPickPrefix) }):
		return CodeNotPickable
	}
	return ""
}
