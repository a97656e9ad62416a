package db_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

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
	sum := "SELECT sum(on_hand)::bigint FROM inventory_levels"
	before := b.count(sum)
	var place string
	require.NoError(t, b.pool.QueryRow(t.Context(), "SELECT ctid::text FROM inventory_levels WHERE sku = 'TEA-001'").Scan(&place))
	q := dbsqlc.New(b.pool)
	require.NoError(t, q.MoveLockedStock(t.Context(), dbsqlc.MoveLockedStockParams{Places: []string{place}, OnHands: []int64{1}, Reserveds: []int64{0}}))
	require.Equal(t, before+1, b.count(sum))
	require.ErrorContains(t, q.MoveLockedStock(t.Context(), dbsqlc.MoveLockedStockParams{Places: []string{place}, OnHands: []int64{1}, Reserveds: []int64{0}}),
		"division by zero", "it was updated since, and is elsewhere")
	require.Equal(t, before+1, b.count(sum))
}
