package db_test

import (
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// move adds to the stock of some SKUs, each by so much.
func (b *testBundle) move(pool *pgxpool.Pool, skus []string, onHand, reserved int64) error {
	locations, onHands, reserveds := make([]string, len(skus)), make([]int64, len(skus)), make([]int64, len(skus))
	for i := range skus {
		locations[i], onHands[i], reserveds[i] = "main", onHand, reserved
	}
	_, err := pool.Exec(b.t.Context(), "SELECT move_stock($1, $2, $3, $4)", skus, locations, onHands, reserveds)
	return err
}

// Moves of the same levels wait for each other, whatever order they name them in, and none is lost. That a level is updated by its place is
// right only because it was locked there by an earlier statement: by one statement, moves that waited would find nothing to update.
func TestMovesOfStockAtTheSameTimeAddUp(t *testing.T) {
	t.Parallel()
	b := setup(t)
	skus := make([]string, 30)
	for i := range skus {
		skus[i] = fmt.Sprintf("S-%02d", i)
	}
	_, err := b.pool.Exec(t.Context(), `WITH p AS (INSERT INTO products (sku, name, price_minor, currency, updated_at) SELECT unnest($1::text[]), 'x', 1, 'EUR', now() RETURNING sku)
		INSERT INTO inventory_levels (sku, location, on_hand) SELECT sku, 'main', 0 FROM p`, skus)
	require.NoError(t, err)
	const movers, moves = 8, 40
	pool := b.newPool(movers)
	release := b.lock("SELECT FROM inventory_levels WHERE sku = 'S-15'") // so that they begin together
	done := make(chan error, movers)
	for range movers {
		go func() {
			for range moves {
				if err := b.move(pool, shuffled(skus)[:20], 2, 1); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	b.untilBlocked(1)
	release()
	for range movers {
		require.NoError(t, <-done)
	}
	require.EqualValues(t, movers*moves*20*2, b.count("SELECT sum(on_hand)::bigint FROM inventory_levels WHERE sku LIKE 'S-%'"))
	require.EqualValues(t, movers*moves*20, b.count("SELECT sum(reserved)::bigint FROM inventory_levels WHERE sku LIKE 'S-%'"))
}

func TestStockThatDoesNotExistIsNotMoved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	all := "SELECT sum(on_hand)::bigint FROM inventory_levels"
	before := b.count(all)
	require.ErrorContains(t, b.move(b.pool, []string{"TEA-001", "NO-SUCH-SKU"}, 1, 0), "1 of 2 stock levels do not exist")
	require.Equal(t, before, b.count(all), "nor is what does")
	require.NoError(t, b.move(b.pool, []string{"TEA-001", "CUP-002"}, 1, 0))
	require.Equal(t, before+2, b.count(all))
}
