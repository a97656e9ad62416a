package millrace_test

import (
	"math"
	"math/big"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"millrace"
)

// exact is a sum or product as it is in arithmetic without an end, and whether it is one that an order may come to.
func exact(n *big.Int) (int64, bool) {
	ok := n.Sign() >= 0 && n.Cmp(big.NewInt(millrace.MaxAmount)) <= 0
	return n.Int64(), ok
}

func TestLineTotalIsExactOrAnError(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		price := rapid.OneOf(rapid.Int64Range(0, 100_000), rapid.Int64()).Draw(t, "price")
		quantity := rapid.OneOf(rapid.IntRange(0, millrace.MaxQuantity), rapid.Int()).Draw(t, "quantity")
		want, ok := exact(new(big.Int).Mul(big.NewInt(price), big.NewInt(int64(quantity))))
		got, err := millrace.LineTotal(price, quantity)
		if price < 0 || quantity < 0 || !ok {
			require.Equal(t, millrace.CodeInvalid, millrace.ErrorCode(err))
			require.Zero(t, got)
			return
		}
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

func TestAddAmountsIsExactOrAnError(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		amounts := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(0, 1_000_000), rapid.Int64Range(0, millrace.MaxAmount), rapid.Int64()), 0, 8).Draw(t, "amounts")
		sum, negative := new(big.Int), false
		for _, a := range amounts {
			sum.Add(sum, big.NewInt(a))
			negative = negative || a < 0
		}
		want, ok := exact(sum)
		got, err := millrace.AddAmounts(amounts...)
		if negative || !ok {
			require.Equal(t, millrace.CodeInvalid, millrace.ErrorCode(err))
			return
		}
		require.NoError(t, err)
		require.Equal(t, want, got)
	})
}

func TestAmountsAtTheLimit(t *testing.T) {
	t.Parallel()
	got, err := millrace.LineTotal(millrace.MaxAmount, 1)
	require.NoError(t, err)
	require.Equal(t, millrace.MaxAmount, got)
	_, err = millrace.LineTotal(millrace.MaxAmount, 2)
	require.Equal(t, millrace.CodeInvalid, millrace.ErrorCode(err))
	_, err = millrace.LineTotal(1<<62, 4) // 2^64, which leaves nothing in 64 bits
	require.Equal(t, millrace.CodeInvalid, millrace.ErrorCode(err))
	_, err = millrace.AddAmounts(millrace.MaxAmount, 1)
	require.Equal(t, millrace.CodeInvalid, millrace.ErrorCode(err))
	require.Equal(t, millrace.MaxAmount, int64(float64(millrace.MaxAmount)), "exact in a JSON number that is read as a double")
}

func TestApportionSumsExactlyAndIsFair(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.OneOf(rapid.Int64Range(0, 1000), rapid.Int64Range(0, math.MaxInt64)).Draw(t, "total")
		weights := rapid.SliceOfN(rapid.OneOf(rapid.Int64Range(0, 100), rapid.Int64Range(0, math.MaxInt64/8)), 1, 8).
			Filter(func(w []int64) bool {
				for _, x := range w {
					if x > 0 {
						return true
					}
				}
				return false
			}).Draw(t, "weights")
		parts, err := millrace.Apportion(total, weights)
		require.NoError(t, err)
		sum, weight := new(big.Int), new(big.Int)
		for i := range parts {
			sum.Add(sum, big.NewInt(parts[i]))
			weight.Add(weight, big.NewInt(weights[i]))
		}
		require.Equal(t, total, sum.Int64(), "the parts sum to the total")
		for i, p := range parts {
			// A part differs from its exact share by less than one unit.
			share := new(big.Int).Mul(big.NewInt(total), big.NewInt(weights[i]))
			down := new(big.Int).Div(share, weight).Int64()
			require.True(t, p == down || p == down+1, "part %d is %d, its share rounded down is %d", i, p, down)
			if new(big.Int).Mod(share, weight).Sign() == 0 {
				require.Equal(t, down, p, "a share without a remainder gets nothing more")
			}
			for j, q := range parts {
				if weights[i] == weights[j] && i < j {
					require.True(t, p == q || p == q+1, "of equals the first gets the unit that is left")
				}
				if weights[i] > weights[j] {
					require.GreaterOrEqual(t, p, q, "who weighs more gets no less")
				}
			}
		}
	})
}

func TestApportionRefusesWhatCannotBeDivided(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		total   int64
		weights []int64
	}{
		"no weights": {1, nil}, "no weight": {1, []int64{0, 0}}, "a negative weight": {1, []int64{2, -1}}, "a negative total": {-1, []int64{1}},
		"weights that overflow": {1, []int64{math.MaxInt64, 1}},
	} {
		_, err := millrace.Apportion(c.total, c.weights)
		require.Equal(t, millrace.CodeInternal, millrace.ErrorCode(err), name)
	}
	parts, err := millrace.Apportion(100, []int64{1, 1, 1})
	require.NoError(t, err)
	require.Equal(t, []int64{34, 33, 33}, parts)
}

func TestFormatWritesAmountsForPeople(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		currency millrace.Currency
		minor    int64
		want     string
	}{
		{"EUR", 1250, "12.50 EUR"}, {"EUR", 5, "0.05 EUR"}, {"EUR", 0, "0.00 EUR"}, {"EUR", -1250, "-12.50 EUR"}, {"JPY", 1250, "1250 JPY"},
		{"JPY", -1, "-1 JPY"}, {"KWD", 1250, "1.250 KWD"}, {"KWD", 1, "0.001 KWD"}, {"EUR", math.MinInt64, "-92233720368547758.08 EUR"},
	} {
		require.Equal(t, c.want, c.currency.Format(c.minor))
	}
}

// Read back as a number, what Format writes is the amount again.
func TestFormatLosesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := rapid.SampledFrom([]millrace.Currency{"EUR", "JPY", "KWD"}).Draw(t, "currency")
		minor := rapid.Int64().Draw(t, "minor")
		text, ok := strings.CutSuffix(c.Format(minor), " "+string(c))
		require.True(t, ok)
		exponent, known := c.Exponent()
		require.True(t, known)
		if exponent > 0 {
			dot := strings.IndexByte(text, '.')
			require.Equal(t, exponent, len(text)-dot-1, text)
		}
		back, ok := new(big.Int).SetString(strings.Replace(text, ".", "", 1), 10)
		require.True(t, ok, text)
		require.Equal(t, big.NewInt(minor), back)
	})
}

func TestCurrenciesHaveTheExponentsOfISO4217(t *testing.T) {
	t.Parallel()
	for c, want := range map[millrace.Currency]int{"EUR": 2, "USD": 2, "JPY": 0, "KRW": 0, "CLP": 0, "ISK": 0, "VND": 0, "KWD": 3, "BHD": 3, "TND": 3} {
		got, ok := c.Exponent()
		require.True(t, ok && c.Valid(), c)
		require.Equal(t, want, got, c)
	}
	for _, c := range []millrace.Currency{"", "eur", "EURO", "XXX", "€"} {
		require.False(t, c.Valid(), c)
	}
}
