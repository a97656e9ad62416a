package db_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
	"millrace/db/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }

// testBundle is a store on a database of its own, with a small catalogue.
type testBundle struct {
	t     testing.TB
	url   string
	pool  *pgxpool.Pool
	store *db.Store
	ada   millrace.Principal
}

func setup(t testing.TB, change ...func(*db.Config)) *testBundle {
	t.Helper()
	url := dbtest.Millrace(t)
	b := &testBundle{t: t, url: url, ada: millrace.Principal{Subject: "ada", Email: "ada@example.com", Name: "Ada", Roles: []millrace.Role{millrace.RoleCustomer}}}
	b.pool = b.newPool(8)
	b.store = b.newStore(b.pool, change...)
	for sku, stock := range map[string]int64{"TEA-001": 1_000_000, "CUP-002": 1_000_000, "RARE-010": 10, "GONE-000": 0} {
		b.stock(sku, stock)
	}
	return b
}

func (b *testBundle) newPool(conns int32) *pgxpool.Pool {
	b.t.Helper()
	pool, err := db.NewPool(b.t.Context(), b.url, conns)
	require.NoError(b.t, err)
	b.t.Cleanup(pool.Close)
	return pool
}

// oneFlush has a store write one group after the other, so that those who come during the first wait together.
func oneFlush(c *db.Config) { c.Flushes = 1 }

func (b *testBundle) newStore(pool *pgxpool.Pool, change ...func(*db.Config)) *db.Store {
	b.t.Helper()
	config := db.Config{Pool: pool}
	for _, f := range change {
		f(&config)
	}
	s, err := db.NewStore(config)
	require.NoError(b.t, err)
	b.t.Cleanup(s.Close)
	return s
}

func (b *testBundle) stock(sku string, n int64) {
	b.t.Helper()
	_, err := b.store.PutProduct(b.t.Context(), millrace.Product{SKU: sku, Name: sku, PriceMinor: 1250, Currency: "EUR", Active: true})
	require.NoError(b.t, err)
	_, err = b.store.SetStock(b.t.Context(), sku, millrace.DefaultLocation, n, "operator:test")
	require.NoError(b.t, err)
}

// request is an order of one of each SKU.
func request(skus ...string) millrace.OrderRequest {
	r := millrace.OrderRequest{PaymentMethod: "pm_ok", ShipTo: &millrace.Address{Name: "Ada", Line1: "1 Mill Lane", City: "Bath", Country: "GB"}}
	for _, sku := range skus {
		r.Lines = append(r.Lines, millrace.LineRequest{SKU: sku, Quantity: 1})
	}
	return r
}

func placement(p millrace.Principal, key string, r millrace.OrderRequest) db.PlaceOrder {
	body, _ := json.Marshal(r)
	return db.PlaceOrder{Principal: p, Key: key, RequestHash: sha256.Sum256(body), Request: r}
}

func (b *testBundle) place(skus ...string) uuid.UUID {
	b.t.Helper()
	placed, err := b.store.PlaceOrder(b.t.Context(), placement(b.ada, uuid.NewString(), request(skus...)))
	require.NoError(b.t, err)
	return placed.Order.ID
}

func (b *testBundle) find(id uuid.UUID) *millrace.Order {
	b.t.Helper()
	o, err := b.store.FindOrder(b.t.Context(), id)
	require.NoError(b.t, err)
	return o
}

func (b *testBundle) count(sql string, args ...any) (n int64) {
	b.t.Helper()
	require.NoError(b.t, b.pool.QueryRow(context.WithoutCancel(b.t.Context()), sql, args...).Scan(&n))
	return n
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

// drive takes an order through payment, shipment and delivery with answers that all say yes.
func (b *testBundle) drive(id uuid.UUID) {
	b.t.Helper()
	ctx := b.t.Context()
	require.NoError(b.t, b.store.ReserveStock(ctx, id))
	_, err := b.store.SettlePayment(ctx, b.find(id), 1, millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: "ch_1", Captured: true}, "job:test")
	require.NoError(b.t, err)
	_, err = b.store.SettleShipment(ctx, b.find(id), millrace.LabelResult{Outcome: millrace.OutcomeApproved, TrackingNumber: "T1"}, "simulated", "job:test")
	require.NoError(b.t, err)
	_, err = b.store.TrackShipment(ctx, b.find(id), millrace.TrackResult{State: millrace.ShipmentDelivered}, "job:test")
	require.NoError(b.t, err)
}

func TestAnOrderRunsItsLife(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place("TEA-001", "CUP-002", "TEA-001")
	start := time.Now()
	b.drive(id)
	t.Logf("four steps took %s", time.Since(start))

	o := b.find(id)
	require.Equal(t, millrace.OrderCompleted, o.Status)
	require.Equal(t, millrace.PaymentPaid, o.PaymentStatus)
	require.Equal(t, millrace.FulfillmentDelivered, o.FulfillmentStatus)
	require.Equal(t, []string{"order.placed", "stock.reserved", "payment.authorized", "payment.captured", "shipment.created",
		"shipment.in_transit", "shipment.delivered", "order.completed"}, b.events(id))
	levels, err := b.store.ListStock(t.Context(), "TEA-001")
	require.NoError(t, err)
	require.Equal(t, []millrace.InventoryLevel{{SKU: "TEA-001", Location: "main", OnHand: 999_998}}, levels)
	require.EqualValues(t, 4, b.count("SELECT count(*) FROM river.river_job"), "reserve, pay, ship, track")

	b.drive(id)
	require.Equal(t, o.Version, b.find(id).Version, "a second run of every step changes nothing")
	require.EqualValues(t, 4, b.count("SELECT count(*) FROM river.river_job"))
}
