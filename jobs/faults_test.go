package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
	"millrace/jobs"
)

// soon is how long the tests wait for what must come.
const soon = 2 * time.Minute

var errDown = errors.New("connection refused")

type paymentCall func(context.Context, millrace.PaymentRequest) (millrace.PaymentResult, error)

// faultyGateway lets a test come between the workers and the gateway, and keeps a log of the calls.
type faultyGateway struct {
	millrace.Gateway
	on func(ctx context.Context, op string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error)

	mu    sync.Mutex
	calls []string
}

func (g *faultyGateway) call(ctx context.Context, op string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
	g.mu.Lock()
	g.calls = append(g.calls, op)
	g.mu.Unlock()
	return g.on(ctx, op, r, next)
}

func (g *faultyGateway) log() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.calls)
}

func (g *faultyGateway) count(op string) (n int) {
	for _, c := range g.log() {
		if c == op {
			n++
		}
	}
	return n
}

func (g *faultyGateway) Authorize(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	return g.call(ctx, "authorize", r, g.Gateway.Authorize)
}

func (g *faultyGateway) Capture(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	return g.call(ctx, "capture", r, g.Gateway.Capture)
}

func (g *faultyGateway) Void(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	return g.call(ctx, "void", r, g.Gateway.Void)
}

func (g *faultyGateway) Refund(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	return g.call(ctx, "refund", r, g.Gateway.Refund)
}

func (g *faultyGateway) Get(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	return g.call(ctx, "get", r, g.Gateway.Get)
}

// faultyCarrier does the same for the carrier.
type faultyCarrier struct {
	millrace.Carrier
	on func(ctx context.Context, op string, next func() (millrace.LabelResult, error)) (millrace.LabelResult, error)
}

func (c *faultyCarrier) Buy(ctx context.Context, r millrace.LabelRequest) (millrace.LabelResult, error) {
	return c.on(ctx, "buy", func() (millrace.LabelResult, error) { return c.Carrier.Buy(ctx, r) })
}

func (c *faultyCarrier) Get(ctx context.Context, key string) (millrace.LabelResult, error) {
	return c.on(ctx, "get", func() (millrace.LabelResult, error) { return c.Carrier.Get(ctx, key) })
}

func (c *faultyCarrier) Cancel(ctx context.Context, reference string) (millrace.LabelResult, error) {
	return c.on(ctx, "cancel", func() (millrace.LabelResult, error) { return c.Carrier.Cancel(ctx, reference) })
}

func (c *faultyCarrier) Track(ctx context.Context, reference, trackingNumber string) (r millrace.TrackResult, err error) {
	_, err = c.on(ctx, "track", func() (_ millrace.LabelResult, err error) {
		r, err = c.Carrier.Track(ctx, reference, trackingNumber)
		return millrace.LabelResult{}, err
	})
	return r, err
}

// faultyWarehouse does the same for the warehouse.
type faultyWarehouse struct {
	millrace.Warehouse
	on func(op string, next func() (millrace.FulfillResult, error)) (millrace.FulfillResult, error)
}

func (w *faultyWarehouse) Fulfill(ctx context.Context, r millrace.FulfillRequest) (millrace.FulfillResult, error) {
	return w.on("fulfill", func() (millrace.FulfillResult, error) { return w.Warehouse.Fulfill(ctx, r) })
}

func (w *faultyWarehouse) Cancel(ctx context.Context, key string) (millrace.FulfillResult, error) {
	return w.on("cancel", func() (millrace.FulfillResult, error) { return w.Warehouse.Cancel(ctx, key) })
}

// first reports true the first n times it is asked about a thing.
type first struct {
	mu   sync.Mutex
	seen map[string]int
}

func (f *first) times(n int, what string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen == nil {
		f.seen = make(map[string]int)
	}
	f.seen[what]++
	return f.seen[what] <= n
}

func (b *testBundle) count(sql string, args ...any) (n int) {
	b.t.Helper()
	require.NoError(b.t, b.pool.QueryRow(b.t.Context(), sql, args...).Scan(&n))
	return n
}

func (b *testBundle) exec(sql string, args ...any) {
	b.t.Helper()
	_, err := b.pool.Exec(b.t.Context(), sql, args...)
	require.NoError(b.t, err)
}

// labels and picks are what the carrier and the warehouse have in hand for an order.
func (b *testBundle) labels(id uuid.UUID) int {
	b.t.Helper()
	return b.count("SELECT count(*) FROM simulated.labels WHERE order_id = $1 AND state = 'purchased'", id)
}

func (b *testBundle) picks(id uuid.UUID) int {
	b.t.Helper()
	return b.count("SELECT count(*) FROM simulated.fulfillments WHERE order_id = $1 AND state = 'accepted'", id)
}

// untilQuiet waits until no job of an order is alive.
func (b *testBundle) untilQuiet() {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		return b.count("SELECT count(*) FROM river.river_job WHERE state IN ('available', 'pending', 'retryable', 'running', 'scheduled') AND kind <> 'sweep'") == 0
	}, soon, 20*time.Millisecond, "jobs never came to an end")
}

func (b *testBundle) release(id uuid.UUID) {
	b.t.Helper()
	_, err := b.store.ReleaseOrder(b.t.Context(), id, "operator:test")
	require.NoError(b.t, err)
}

func (b *testBundle) cancel(id uuid.UUID) {
	b.t.Helper()
	_, err := b.store.CancelOrder(b.t.Context(), id, "changed my mind", "customer:ada")
	require.NoError(b.t, err)
}

// requirePaidOnce checks an order's money in our tables against the gateway's own.
func (b *testBundle) requireLedger(id uuid.UUID) {
	b.t.Helper()
	o, e := b.find(id), b.ledger()[id]
	require.LessOrEqual(b.t, e.Captures, 1, "money was taken once at most")
	require.Equal(b.t, e.CapturedMinor, o.CapturedMinor(), "we know what was taken")
	require.Equal(b.t, e.RefundedMinor, o.RefundedMinor(), "and what was sent back")
	if o.Status.Final() && o.Status != millrace.OrderCompleted {
		require.Equal(b.t, e.CapturedMinor, e.RefundedMinor, "an order that is %s is not paid for", o.Status)
		require.Zero(b.t, e.HeldMinor, "an order that is %s holds no money", o.Status)
	}
}

func gateway(b *testBundle, on func(ctx context.Context, op string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error)) (*faultyGateway, func(*jobs.Config)) {
	g := &faultyGateway{Gateway: b.providers.Gateway(), on: on}
	return g, func(c *jobs.Config) { c.Gateway = g }
}

func attempts(n int) func(*db.Config) { return func(c *db.Config) { c.MaxAttempts = n } }

// TestMain works jobs instead of testing where TestAWorkerThatIsKilled… has started this binary anew for that.
func TestMain(m *testing.M) {
	if url := os.Getenv(workerEnv); url != "" {
		if err := workUntilKilled(url); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	testMain(m)
}
