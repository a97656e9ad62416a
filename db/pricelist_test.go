package db_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
)

// tea is a product of a price.
func tea(price int64) millrace.Product {
	return millrace.Product{SKU: "TEA-001", Name: "Tea", PriceMinor: price, Currency: "EUR", Active: true}
}

// Processes remember prices. Whatever one of them answered about a change, no other sells by what was before.
func TestAnOrderIsNeverPricedBelowAPriceThatWasAnsweredBeforeIt(t *testing.T) {
	t.Parallel()
	oneAndMany(t, func(t *testing.T, change func(*db.Config)) {
		b := setup(t, change)
		stores := b.stores(3, change)
		const rises, orders = 60, 300
		var answered atomic.Int64
		answered.Store(1250)
		b.concurrently(orders+1, func(i int) error {
			if i == 0 {
				for rise := range int64(rises) {
					if _, err := b.store.PutProduct(t.Context(), tea(2000+rise)); err != nil {
						return err
					}
					answered.Store(2000 + rise)
				}
				return nil
			}
			atLeast := answered.Load()
			placed, err := stores[i%3].PlaceOrder(t.Context(), placement(b.ada, fmt.Sprint("k", i), request("TEA-001")))
			if err != nil {
				return err
			}
			if paid := b.find(placed.Order.ID).Lines[0].UnitPriceMinor; paid < atLeast {
				return fmt.Errorf("sold at %d after %d was answered", paid, atLeast)
			}
			return nil
		})
		b.requireSound()
	})
}

func TestAChangeMadePastTheStoreIsNoticed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	exec := func(sql string) {
		_, err := b.pool.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
	price := func() int64 {
		return b.find(b.place("TEA-001", "CUP-002")).Lines[0].UnitPriceMinor
	}
	require.EqualValues(t, 1250, price())
	exec("UPDATE products SET price_minor = 1300 WHERE sku = 'TEA-001'")
	require.EqualValues(t, 1300, price())
	exec("UPDATE products SET active = false WHERE sku = 'TEA-001'")
	_, err := b.store.PlaceOrder(t.Context(), placement(b.ada, "k1", request("TEA-001")))
	requireCode(t, millrace.CodeInvalid, err)
	exec("UPDATE products SET active = true WHERE sku = 'TEA-001'")
	require.EqualValues(t, 1300, price())
	require.EqualValues(t, 3, b.count("SELECT count(*) FROM orders"), "what was priced by an outdated list was not written")
	b.requireSound()
}

// The first order reads the prices of a small shop; those after it find them.
func TestPricesAreReadOnceForEachVersion(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s, trips := b.counted()
	place := func(sku string) int {
		return trips.during(func() {
			_, err := s.PlaceOrder(t.Context(), placement(b.ada, uuid.NewString(), request(sku)))
			require.NoError(t, err)
		})
	}
	place("TEA-001")
	require.Equal(t, 1, place("CUP-002"))
	_, err := s.PutProduct(t.Context(), tea(1300))
	require.NoError(t, err)
	require.Greater(t, place("TEA-001"), 1)
	require.Equal(t, 1, place("CUP-002"))
}

// A product that is read later than others, after a change, must not be remembered with what they were before it.
func TestPricesOfTwoVersionsAreNotMixed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.pool.Exec(t.Context(), `INSERT INTO products (sku, name, price_minor, currency, updated_at)
		SELECT format('A-%s', n), 'In front', 1, 'EUR', now() FROM generate_series(1, 1000) n`) // which are all that is read ahead
	require.NoError(t, err)
	other := b.stores(1)[0]
	b.place("TEA-001") // remembered
	_, err = other.PutProduct(t.Context(), tea(1300))
	require.NoError(t, err)
	o := b.find(b.place("TEA-001", "CUP-002")) // one remembered, one not
	require.EqualValues(t, 1300, o.Lines[0].UnitPriceMinor)
	require.EqualValues(t, 1250, o.Lines[1].UnitPriceMinor)
}
