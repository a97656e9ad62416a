package main

import "testing"

func TestOutOfTurn(t *testing.T) {
	t.Parallel()
	const got, denied = true, false
	order := func(sku string, posted, acknowledged int64, got bool) attempt {
		return attempt{sku: sku, posted: posted, acknowledged: acknowledged, got: got}
	}
	for name, test := range map[string]struct {
		attempts []attempt
		want     int
	}{
		"an order posted after another's answer got what that was denied":  {[]attempt{order("a", 1, 5, denied), order("a", 6, 9, got)}, 1},
		"the order in which they are listed does not matter":               {[]attempt{order("a", 6, 9, got), order("a", 1, 5, denied)}, 1},
		"each order that got ahead counts":                                 {[]attempt{order("a", 1, 5, denied), order("a", 6, 7, got), order("a", 8, 9, got), order("a", 3, 4, got)}, 2},
		"any of those denied may be the one that was passed over":          {[]attempt{order("a", 7, 9, denied), order("a", 1, 2, denied), order("a", 3, 8, got)}, 1},
		"orders under way at the same time may come in any order":          {[]attempt{order("a", 1, 5, denied), order("a", 4, 9, got)}, 0},
		"who is denied after the last unit was given has no complaint":     {[]attempt{order("a", 1, 2, got), order("a", 3, 4, denied)}, 0},
		"an answer at the very time of the other's post does not prove it": {[]attempt{order("a", 1, 5, denied), order("a", 5, 9, got)}, 0},
		"another product's stock is another queue":                         {[]attempt{order("a", 1, 5, denied), order("b", 6, 9, got)}, 0},
		"no orders": {nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if n := outOfTurn(test.attempts); n != test.want {
				t.Errorf("counted %d, want %d", n, test.want)
			}
		})
	}
}
