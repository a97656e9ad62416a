package millrace_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"millrace"
)

func TestAShelfGivesTheWholeDemandOrNothing(t *testing.T) {
	t.Parallel()
	skus, locations := []string{"A", "B", "C"}, []string{"east", "main", "west"}
	rapid.Check(t, func(t *rapid.T) {
		var levels []millrace.InventoryLevel
		free := make(map[[2]string]int64)
		for _, sku := range skus {
			for _, location := range locations {
				if rapid.Bool().Draw(t, "there is "+sku+" in "+location) {
					onHand := rapid.Int64Range(0, 9).Draw(t, "on hand")
					l := millrace.InventoryLevel{SKU: sku, Location: location, OnHand: onHand, Reserved: rapid.Int64Range(0, onHand).Draw(t, "reserved")}
					levels = append(levels, l)
					free[[2]string{sku, location}] = l.OnHand - l.Reserved
				}
			}
		}
		levels = rapid.Permutation(levels).Draw(t, "levels")
		shelf := millrace.NewShelf(levels)
		of := func(sku string) (n int64) {
			for k, v := range free {
				if k[0] == sku {
					n += v
				}
			}
			return n
		}
		for range rapid.IntRange(1, 8).Draw(t, "orders") {
			demand := rapid.MapOfN(rapid.SampledFrom(skus), rapid.Int64Range(1, 9), 1, 3).Draw(t, "demand")
			var lacking []string
			for _, sku := range slices.Sorted(maps.Keys(demand)) {
				if of(sku) < demand[sku] {
					lacking = append(lacking, sku)
				}
			}
			single := slices.ContainsFunc(locations, func(location string) bool {
				for sku, n := range demand {
					if free[[2]string{sku, location}] < n {
						return false
					}
				}
				return true
			})
			taken, short, ok := shelf.Take(demand)
			require.Equal(t, len(lacking) == 0, ok, "what is there is given, what is not is not")
			if !ok {
				require.Empty(t, taken)
				require.Equal(t, lacking[0], short)
				continue
			}
			got, from := make(map[string]int64), make(map[string]bool)
			for _, r := range taken {
				require.Positive(t, r.Quantity)
				require.Equal(t, millrace.ReservationHeld, r.State)
				k := [2]string{r.SKU, r.Location}
				free[k] -= r.Quantity
				require.GreaterOrEqual(t, free[k], int64(0), "never more than there is")
				got[r.SKU] += r.Quantity
				from[r.Location] = true
			}
			require.Equal(t, demand, got, "the whole demand and no more")
			if single {
				require.Len(t, from, 1, "one parcel where one location has all")
			}
		}
	})
}

func TestAShelfTakesFromLocationsInTheOrderOfTheirNames(t *testing.T) {
	t.Parallel()
	s := millrace.NewShelf([]millrace.InventoryLevel{{SKU: "A", Location: "west", OnHand: 2}, {SKU: "A", Location: "east", OnHand: 2}, {SKU: "A", Location: "main", OnHand: 3, Reserved: 1}})
	taken, _, ok := s.Take(map[string]int64{"A": 5})
	require.True(t, ok)
	require.Equal(t, []millrace.Reservation{{SKU: "A", Location: "east", Quantity: 2, State: millrace.ReservationHeld},
		{SKU: "A", Location: "main", Quantity: 2, State: millrace.ReservationHeld}, {SKU: "A", Location: "west", Quantity: 1, State: millrace.ReservationHeld}}, taken)
	_, short, ok := s.Take(map[string]int64{"A": 2})
	require.False(t, ok)
	require.Equal(t, "A", short)
	taken, _, ok = s.Take(nil)
	require.True(t, ok)
	require.Empty(t, taken)
}
