package db_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
	"millrace/db/dbsqlc"
)

// An allocation moves stock where it has locked it. Where somebody else moves a level while it waits for that, this is where the level went to.
func TestStockThatMovesWhileItIsWaitedForIsReserved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	reserved := func() int64 {
		return b.count("SELECT reserved FROM inventory_levels WHERE sku = 'TEA-001'")
	}
	onHand := b.count("SELECT on_hand FROM inventory_levels WHERE sku = 'TEA-001'")
	id := b.place("TEA-001", "CUP-002")
	conn, err := pgx.Connect(t.Context(), b.url)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), "BEGIN; UPDATE inventory_levels SET on_hand = on_hand + 1; UPDATE inventory_levels SET on_hand = on_hand - 1")
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- b.store.ReserveStock(t.Context(), id) }()
	b.untilBlocked(1)
	_, err = conn.Exec(t.Context(), "COMMIT")
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.EqualValues(t, 1, reserved())
	require.Equal(t, onHand, b.count("SELECT on_hand FROM inventory_levels WHERE sku = 'TEA-001'"))
	b.requireSound()
}

// A move that does not find all levels where they are said to be fails whole.
func TestAMoveOfStockThatIsNotThereFails(t *testing.T) {
	t.Parallel()
	b := setup(t)
	sum := "SELECT sum(reserved)::bigint FROM inventory_levels"
	before := b.count(sum)
	var place string
	require.NoError(t, b.pool.QueryRow(t.Context(), "SELECT ctid::text FROM inventory_levels WHERE sku = 'TEA-001'").Scan(&place))
	q := dbsqlc.New(b.pool)
	require.NoError(t, q.ReserveLockedStock(t.Context(), dbsqlc.ReserveLockedStockParams{Places: []string{place}, Quantities: []int64{1}}))
	require.Equal(t, before+1, b.count(sum))
	require.ErrorContains(t, q.ReserveLockedStock(t.Context(), dbsqlc.ReserveLockedStockParams{Places: []string{place}, Quantities: []int64{1}}),
		"division by zero", "it was updated since, and is elsewhere")
	require.Equal(t, before+1, b.count(sum))
}

// ship has orders reserved, paid and shipped.
func (b *testBundle) ship(ids ...uuid.UUID) {
	b.t.Helper()
	for _, id := range ids {
		for _, d := range []deed{reserve, settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Captured: true}), labeled} {
			require.NoError(b.t, d(b.t.Context(), b.store, id))
		}
	}
}

// What ships is noted, read with the stock at once, and taken off the levels later.
func TestWhatShipsIsTakenOffTheStockLater(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stock("RARE-010", 10)
	level := func() []int64 {
		return []int64{b.count("SELECT on_hand FROM inventory_levels WHERE sku = 'RARE-010'"), b.count("SELECT reserved FROM inventory_levels WHERE sku = 'RARE-010'")}
	}
	requireStock := func(onHand, reserved int64) {
		t.Helper()
		levels, err := b.store.ListStock(t.Context(), "RARE-010")
		require.NoError(t, err)
		require.Equal(t, []millrace.InventoryLevel{{SKU: "RARE-010", Location: "main", OnHand: onHand, Reserved: reserved}}, levels)
		products, _, err := b.store.ListProducts(t.Context(), false, "RARE-00", 1)
		require.NoError(t, err)
		require.Equal(t, "RARE-010", products[0].SKU)
		require.Equal(t, onHand-reserved, products[0].Available)
	}
	booked := func() bool {
		select {
		case <-b.store.Shipped():
			return true
		default:
			return false
		}
	}
	ids := b.placeMany(4, "RARE-010")
	require.NoError(t, reserve(t.Context(), b.store, ids[3]))
	require.False(t, booked())
	b.ship(ids[:3]...)
	require.True(t, booked())
	require.False(t, booked(), "it says so once")
	require.Equal(t, []int64{10, 4}, level())
	requireStock(7, 1)

	_, err := b.store.SetStock(t.Context(), "RARE-010", "main", 0, "operator:test")
	require.Equal(t, millrace.CodeConflict, millrace.ErrorCode(err))
	require.ErrorContains(t, err, "Orders hold 1 of RARE-010")
	set, err := b.store.SetStock(t.Context(), "RARE-010", "main", 5, "operator:test") // counted after the three had left
	require.NoError(t, err)
	require.Equal(t, millrace.InventoryLevel{SKU: "RARE-010", Location: "main", OnHand: 5, Reserved: 1}, set)
	require.EqualValues(t, -2, b.count("SELECT delta FROM inventory_adjustments ORDER BY id DESC LIMIT 1"))
	requireStock(5, 1)

	require.NoError(t, b.store.BookShipped(t.Context()))
	require.Equal(t, []int64{5, 1}, level())
	requireStock(5, 1)
	require.NoError(t, b.store.BookShipped(t.Context()))
	require.Equal(t, []int64{5, 1}, level())
	b.requireSound()
}

// More than is booked at once is booked whole, though several processes do so and others want the same products.
func TestAllThatShippedIsBookedOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const each = 150
	_, err := b.pool.Exec(t.Context(), "UPDATE inventory_levels SET on_hand = 1000, reserved = 900 WHERE sku IN ('TEA-001', 'CUP-002')")
	require.NoError(t, err)
	for range each {
		_, err := b.pool.Exec(t.Context(), `INSERT INTO shipped_stock (skus, locations, quantities) VALUES ('{TEA-001,CUP-002}', '{main,main}', '{2,1}'), ('{CUP-002,NONE-1}', '{main,main}', '{1,1}')`)
		require.NoError(t, err)
	}
	stores := b.stores(3)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b.concurrently(6, func(i int) error {
		if i < 3 {
			return stores[i].BookShipped(ctx)
		}
		_, err := stores[i-3].SetStock(ctx, "TEA-001", "annex", int64(i), "operator:test")
		return err
	})
	require.EqualValues(t, 0, b.count("SELECT count(*) FROM shipped_stock"))
	for _, sku := range []string{"TEA-001", "CUP-002"} {
		require.EqualValues(t, 1000-2*each, b.count("SELECT on_hand FROM inventory_levels WHERE location = 'main' AND sku = $1", sku))
		require.EqualValues(t, 900-2*each, b.count("SELECT reserved FROM inventory_levels WHERE location = 'main' AND sku = $1", sku))
	}
}

// An operator who counts what is there while it is booked gets what he counted.
func TestStockIsSetWhileWhatShippedIsBooked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stock("RARE-010", 10)
	b.ship(b.placeMany(3, "RARE-010")...)
	unlock := b.lock("SELECT FROM inventory_levels WHERE sku = 'RARE-010'")
	done := make(chan error, 2)
	go func() { done <- b.store.BookShipped(t.Context()) }()
	b.untilBlocked(1)
	other := b.newStore(b.newPool(2), func(*db.Config) {})
	go func() {
		_, err := other.SetStock(t.Context(), "RARE-010", "main", 6, "operator:test")
		done <- err
	}()
	b.untilBlocked(2)
	unlock()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	require.EqualValues(t, 6, b.count("SELECT on_hand FROM inventory_levels WHERE sku = 'RARE-010'"))
	require.EqualValues(t, 0, b.count("SELECT reserved FROM inventory_levels WHERE sku = 'RARE-010'"))
	require.EqualValues(t, 0, b.count("SELECT count(*) FROM shipped_stock"))
	b.requireSound()
}
