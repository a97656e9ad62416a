package jobs_test

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
	"millrace/db/dbtest"
	"millrace/jobs"
	"millrace/provider/simulated"
)

func testMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }

// testBundle is a store, workers and simulated providers on a database of their own.
type testBundle struct {
	t         testing.TB
	url       string
	pool      *pgxpool.Pool
	store     *db.Store
	local     *jobs.Local // hands the store's jobs to the workers of the same test, unless a test has its own
	providers *simulated.Providers
}

func setup(t testing.TB, change ...func(*db.Config)) *testBundle {
	t.Helper()
	b := &testBundle{t: t, url: dbtest.Millrace(t), local: &jobs.Local{}}
	require.NoError(t, simulated.Migrate(t.Context(), b.url))
	b.pool = b.newPool(8)
	config := db.Config{Pool: b.pool, Logger: quiet(), Workers: b.local}
	for _, f := range change {
		f(&config)
	}
	var err error
	b.store, err = db.NewStore(config)
	require.NoError(t, err)
	t.Cleanup(b.store.Close)
	b.providers, err = simulated.Open(t.Context(), b.url, simulated.Config{TransitAfter: 20 * time.Millisecond, DeliverAfter: 60 * time.Millisecond, SlowBy: 50 * time.Millisecond})
	require.NoError(t, err)
	t.Cleanup(b.providers.Close)
	for sku, n := range map[string]int64{"TEA-001": 1_000_000, "CUP-002": 1_000_000, "RARE-010": 10, "GONE-000": 0, "NOPICK-1": 5} {
		b.stock(sku, n)
	}
	return b
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (b *testBundle) newPool(conns int32) *pgxpool.Pool {
	b.t.Helper()
	pool, err := db.NewPool(b.t.Context(), b.url, conns)
	require.NoError(b.t, err)
	b.t.Cleanup(pool.Close)
	return pool
}

func (b *testBundle) stock(sku string, n int64) {
	b.t.Helper()
	_, err := b.store.PutProduct(b.t.Context(), millrace.Product{SKU: sku, Name: sku, PriceMinor: 1250, Currency: "EUR", Active: true})
	require.NoError(b.t, err)
	_, err = b.store.SetStock(b.t.Context(), sku, millrace.DefaultLocation, n, "operator:test")
	require.NoError(b.t, err)
}

// work starts workers that are stopped when the test ends.
func (b *testBundle) work(change ...func(*jobs.Config)) *jobs.Runner {
	b.t.Helper()
	config := jobs.Config{Pool: b.newPool(8), Store: b.store, Gateway: b.providers.Gateway(), Carrier: b.providers.Carrier(),
		Warehouse: b.providers.Warehouse(), Logger: quiet(), Local: b.local, CallTimeout: time.Second, CheckEvery: 50 * time.Millisecond}
	for _, f := range change {
		f(&config)
	}
	r, err := jobs.New(config)
	require.NoError(b.t, err)
	require.NoError(b.t, r.Start(context.WithoutCancel(b.t.Context())))
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(b.t, r.Stop(ctx))
	})
	return r
}

func (b *testBundle) place(method, country string, skus ...string) uuid.UUID {
	b.t.Helper()
	r := millrace.OrderRequest{PaymentMethod: method, Email: "ada@example.com",
		ShipTo: &millrace.Address{Name: "Ada", Line1: "1 Mill Lane", City: "Bath", Country: country}}
	for _, sku := range skus {
		r.Lines = append(r.Lines, millrace.LineRequest{SKU: sku, Quantity: 1})
	}
	placed, err := b.store.PlaceOrder(b.t.Context(), db.PlaceOrder{Principal: millrace.Principal{Subject: "ada"}, Key: uuid.NewString(),
		RequestHash: sha256.Sum256(nil), Request: r})
	require.NoError(b.t, err)
	return placed.Order.ID
}

func (b *testBundle) find(id uuid.UUID) *millrace.Order {
	b.t.Helper()
	o, err := b.store.FindOrder(b.t.Context(), id)
	require.NoError(b.t, err)
	return o
}

// until waits for an order to satisfy a condition.
func (b *testBundle) until(id uuid.UUID, what string, ok func(*millrace.Order) bool) *millrace.Order {
	b.t.Helper()
	var o *millrace.Order
	if !assert.Eventually(b.t, func() bool { o = b.find(id); return ok(o) }, soon, 10*time.Millisecond, "order never became %s", what) {
		b.t.Fatalf("order %+v\nshipment %+v\nevents %v", o, o.Shipment, b.events(id))
	}
	return o
}

func (b *testBundle) untilStatus(id uuid.UUID, s millrace.OrderStatus) *millrace.Order {
	b.t.Helper()
	return b.until(id, string(s), func(o *millrace.Order) bool { return o.Status == s })
}

func (b *testBundle) events(id uuid.UUID) (types []string) {
	b.t.Helper()
	events, err := b.store.ListEvents(b.t.Context(), id, 0, 100)
	require.NoError(b.t, err)
	for i, e := range events {
		require.EqualValues(b.t, i+1, e.Version, "versions are 1..n")
		types = append(types, string(e.Type))
	}
	return types
}

func (b *testBundle) ledger() map[uuid.UUID]simulated.Entry {
	b.t.Helper()
	ledger, err := simulated.Ledger(b.t.Context(), b.pool)
	require.NoError(b.t, err)
	return ledger
}

// requireConserved checks that stock is where it should be: on hand and shipped are what was stocked, nothing is negative, and what is
// reserved is what orders hold.
func (b *testBundle) requireConserved() {
	b.t.Helper()
	var wrong int
	require.NoError(b.t, b.pool.QueryRow(b.t.Context(), `
		SELECT count(*) FROM stock l
		LEFT JOIN (SELECT sku, location, sum(delta) AS stocked FROM inventory_adjustments GROUP BY 1, 2) a USING (sku, location)
		LEFT JOIN (SELECT sku, location, sum(quantity) FILTER (WHERE state = 'held') AS held, sum(quantity) FILTER (WHERE state = 'consumed') AS consumed
		           FROM reservations GROUP BY 1, 2) r USING (sku, location)
		WHERE on_hand + coalesce(consumed, 0) <> coalesce(stocked, 0) OR reserved <> coalesce(held, 0) OR on_hand < 0 OR reserved < 0`).Scan(&wrong))
	require.Zero(b.t, wrong, "inventory levels that do not add up")
}

var happyPath = []string{"order.placed", "stock.reserved", "payment.authorized", "payment.captured", "shipment.created",
	"shipment.in_transit", "shipment.delivered", "order.completed"}

func TestEachPaymentMethodAndSKUDoesWhatItSays(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work()
	for _, c := range []struct {
		name, method, country, sku string
		status                     millrace.OrderStatus
		payment                    millrace.PaymentStatus
		captures                   int
		last                       string
	}{
		{"approved", "pm_ok", "GB", "TEA-001", millrace.OrderCompleted, millrace.PaymentPaid, 1, "order.completed"},
		{"declined for good", "pm_declined", "GB", "TEA-001", millrace.OrderFailed, millrace.PaymentFailed, 0, "order.failed"},
		{"flaky at first", "pm_flaky", "GB", "TEA-001", millrace.OrderCompleted, millrace.PaymentPaid, 1, "order.completed"},
		{"slow", "pm_slow", "GB", "TEA-001", millrace.OrderCompleted, millrace.PaymentPaid, 1, "order.completed"},
		{"answer lost", "pm_lost_answer", "GB", "TEA-001", millrace.OrderCompleted, millrace.PaymentPaid, 1, "order.completed"},
		{"no rate", "pm_ok", "XX", "TEA-001", millrace.OrderOnHold, millrace.PaymentPaid, 1, "order.on_hold"},
		{"cannot be picked", "pm_ok", "GB", "NOPICK-1", millrace.OrderOnHold, millrace.PaymentPaid, 1, "order.on_hold"},
		{"no stock", "pm_ok", "GB", "GONE-000", millrace.OrderFailed, millrace.PaymentUnpaid, 0, "order.failed"},
	} {
		id := b.place(c.method, c.country, c.sku)
		t.Run(c.name, func(t *testing.T) {
			o := b.untilStatus(id, c.status)
			require.Equal(t, c.payment, o.PaymentStatus)
			require.Equal(t, c.captures, b.ledger()[id].Captures)
			types := b.events(id)
			require.Equal(t, c.last, types[len(types)-1])
			if c.status == millrace.OrderCompleted {
				require.Equal(t, happyPath, types)
			}
		})
	}
	b.requireConserved()
}

func TestABuyerWhoMustActIsWaitedFor(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work()
	server := httptest.NewServer(b.providers.Handler())
	t.Cleanup(server.Close)
	act := func(id uuid.UUID, what string) {
		o := b.untilStatus(id, millrace.OrderRequiresAction)
		resp, err := http.Post(server.URL+"/simulated/payments/"+o.Transactions[0].Reference+"/"+what, "", nil)
		require.NoError(t, err)
		resp.Body.Close()
		require.Less(t, resp.StatusCode, 400, resp.Status)
	}
	confirmed, declined := b.place("pm_3ds", "GB", "TEA-001"), b.place("pm_3ds", "GB", "TEA-001")
	act(confirmed, "confirm")
	act(declined, "decline")
	b.untilStatus(confirmed, millrace.OrderCompleted)
	require.Equal(t, millrace.PaymentFailed, b.untilStatus(declined, millrace.OrderFailed).PaymentStatus)
	b.requireConserved()
}

func TestABuyerWhoNeverActsLetsTheOrderExpire(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *db.Config) { c.Policy.ActionTimeout = 200 * time.Millisecond })
	b.work()
	id := b.place("pm_3ds", "GB", "RARE-010")
	b.untilStatus(id, millrace.OrderExpired)
	o := b.until(id, "voided", func(o *millrace.Order) bool { return len(o.Transactions) == 2 && o.Transactions[1].Settled() })
	require.Equal(t, millrace.PaymentExpired, o.PaymentStatus)
	require.Zero(t, b.ledger()[id].Captures)
	b.requireConserved()
}

func TestCaptureOnShipment(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *db.Config) { c.Policy.CaptureOnShipment = true })
	b.work()
	id := b.place("pm_ok", "GB", "TEA-001")
	b.untilStatus(id, millrace.OrderCompleted)
	types := b.events(id)
	require.Less(t, index(types, "shipment.created"), index(types, "payment.captured"))
	require.Equal(t, 1, b.ledger()[id].Captures)
}

func index(list []string, s string) int {
	for i, x := range list {
		if x == s {
			return i
		}
	}
	return -1
}

func TestCancelGivesStockAndMoneyBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work()
	// An order held for want of a rate is paid and not shipped.
	id := b.place("pm_ok", "XX", "RARE-010")
	b.untilStatus(id, millrace.OrderOnHold)
	for range 2 { // canceling twice is once
		_, err := b.store.CancelOrder(t.Context(), id, "changed my mind", "customer:ada")
		require.NoError(t, err)
	}
	o := b.until(id, "refunded", func(o *millrace.Order) bool { return o.PaymentStatus == millrace.PaymentRefunded })
	require.Equal(t, millrace.OrderCanceled, o.Status)
	require.Equal(t, int64(1250), b.ledger()[id].RefundedMinor)
	b.requireConserved()

	shipped := b.place("pm_ok", "GB", "TEA-001")
	b.untilStatus(shipped, millrace.OrderCompleted)
	_, err := b.store.CancelOrder(t.Context(), shipped, "", "customer:ada")
	require.Equal(t, millrace.CodeConflict, millrace.ErrorCode(err))
}

func TestCancelWhileTheGatewayIsAskedSendsTheMoneyBack(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work()
	id := b.place("pm_lost_answer", "GB", "RARE-010") // the charge is made at once, its answer is lost after a second
	b.until(id, "charged", func(*millrace.Order) bool { return b.ledger()[id].Captures == 1 })
	_, err := b.store.CancelOrder(t.Context(), id, "", "customer:ada")
	require.NoError(t, err)
	o := b.until(id, "refunded", func(o *millrace.Order) bool { return o.PaymentStatus == millrace.PaymentRefunded })
	require.Equal(t, millrace.OrderCanceled, o.Status)
	require.Equal(t, int64(1250), b.ledger()[id].RefundedMinor)
	b.requireConserved()
}
