package simulated

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace"
)

const (
	gatewayName   = "simulated"
	paymentPrefix = "pay_" // of a payment's reference
	paymentPath   = "/simulated/payments/"
)

// behavior is what a payment method leads to.
type behavior struct {
	outcome  millrace.Outcome
	code     string
	failures int  // how many calls under a key are answered with OutcomeRetry first
	slow     bool // the answer takes Config.SlowBy
	lost     bool // the answer never arrives
}

var methods = map[string]behavior{
	"pm_ok":          {outcome: millrace.OutcomeApproved},
	"pm_declined":    {outcome: millrace.OutcomeDeclined, code: CodeInsufficientFunds},
	"pm_flaky":       {outcome: millrace.OutcomeApproved, failures: 2},
	"pm_slow":        {outcome: millrace.OutcomeApproved, slow: true},
	"pm_lost_answer": {outcome: millrace.OutcomeApproved, lost: true},
	"pm_3ds":         {outcome: millrace.OutcomeRequiresAction},
}

// behaviorOf decides about an authorize by what it asks.
func behaviorOf(r millrace.PaymentRequest) behavior {
	b, known := methods[r.Method]
	switch {
	case !known:
		return behavior{outcome: millrace.OutcomeDeclined, code: CodeUnknownMethod}
	case r.AmountMinor < 0:
		return behavior{outcome: millrace.OutcomeDeclined, code: CodeInvalidAmount}
	}
	return b
}

// gateway is the simulated payment gateway. Its rules are the functions of the schema; see migrations/00001_gateway.sql.
type gateway struct {
	pool *pgxpool.Pool
	cfg  Config
}

var _ millrace.Gateway = (*gateway)(nil)

func (g *gateway) Name() string { return gatewayName }

func (g *gateway) Authorize(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	if !validPayment(r) {
		return declined(CodeInvalidRequest, ""), nil
	}
	b := behaviorOf(r)
	result, err := g.call(ctx, "authorize",
		`SELECT o_outcome, o_reference, o_captured, o_code FROM simulated.authorize($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
		r.Key, r.OrderID, r.Method, r.AmountMinor, string(r.Currency), r.WithCapture, newReference(paymentPrefix), string(b.outcome), b.code, b.failures)
	if err != nil {
		return millrace.PaymentResult{}, err
	}
	// It is decided and committed by now: what follows only keeps the caller from knowing.
	switch {
	case b.lost:
		<-ctx.Done()
		return millrace.PaymentResult{}, fmt.Errorf("simulated gateway: authorize: the answer did not arrive: %w", ctx.Err())
	case b.slow:
		timer := time.NewTimer(g.cfg.SlowBy)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return millrace.PaymentResult{}, fmt.Errorf("simulated gateway: authorize: the answer did not arrive: %w", ctx.Err())
		}
	}
	return result, nil
}

func (g *gateway) Capture(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	return g.settle(ctx, millrace.TransactionCapture, r)
}

func (g *gateway) Void(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	return g.settle(ctx, millrace.TransactionVoid, r)
}

func (g *gateway) Refund(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	return g.settle(ctx, millrace.TransactionRefund, r)
}

func (g *gateway) settle(ctx context.Context, kind millrace.TransactionKind, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	if !validPayment(r) {
		return declined(CodeInvalidRequest, ""), nil
	}
	return g.call(ctx, string(kind), `SELECT o_outcome, o_reference, o_captured, o_code FROM simulated.settle($1, $2, $3, $4, $5, $6)`,
		string(kind), r.Key, r.OrderID, r.Reference, r.AmountMinor, string(r.Currency))
}

func (g *gateway) Get(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	if !checkKey(r.Key) {
		return millrace.PaymentResult{Outcome: millrace.OutcomeNotFound}, nil // no call under such a key was ever taken
	}
	return g.call(ctx, "get", `SELECT o_outcome, o_reference, o_captured, o_code FROM simulated.find_payment($1)`, r.Key)
}

func (g *gateway) call(ctx context.Context, operation, query string, args ...any) (millrace.PaymentResult, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var r millrace.PaymentResult
	if err := g.pool.QueryRow(ctx, query, args...).Scan(&r.Outcome, &r.Reference, &r.Captured, &r.Code); err != nil {
		return millrace.PaymentResult{}, fmt.Errorf("simulated gateway: %s: %w", operation, err)
	}
	if r.Outcome == millrace.OutcomeRequiresAction {
		r.ActionURL = g.cfg.PublicURL + paymentPath + r.Reference
	}
	return r, nil
}

func validPayment(r millrace.PaymentRequest) bool {
	return checkKey(r.Key) && storable(r.Method) && storable(r.Reference) && storable(string(r.Currency))
}

func declined(code, reference string) millrace.PaymentResult {
	return millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: code, Reference: reference}
}

// newReference is a new id with a prefix: 32 hexadecimal digits, of which 74 bits are random. They are made in order of time, which
// keeps their index small in memory.
func newReference(prefix string) string {
	id := uuid.Must(uuid.NewV7())
	return prefix + hex.EncodeToString(id[:])
}
