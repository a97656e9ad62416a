package millrace

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
)

// Currency is an ISO 4217 alphabetic code.
type Currency string

// exponents holds the currencies a shop can price in, with the number of decimal digits of their minor unit (ISO 4217).
var exponents = map[Currency]int{
	"AED": 2, "ARS": 2, "AUD": 2, "BGN": 2, "BRL": 2, "CAD": 2, "CHF": 2, "CLP": 0, "CNY": 2, "COP": 2, "CZK": 2, "DKK": 2,
	"EGP": 2, "EUR": 2, "GBP": 2, "HKD": 2, "HUF": 2, "IDR": 2, "ILS": 2, "INR": 2, "ISK": 0, "JPY": 0, "KRW": 0, "KWD": 3,
	"BHD": 3, "JOD": 3, "OMR": 3, "TND": 3, "MXN": 2, "MYR": 2, "NOK": 2, "NZD": 2, "PHP": 2, "PLN": 2, "RON": 2, "SAR": 2,
	"SEK": 2, "SGD": 2, "THB": 2, "TRY": 2, "TWD": 2, "UAH": 2, "USD": 2, "VND": 0, "ZAR": 2,
}

// Exponent is the number of decimal digits of the minor unit (0, 2 or 3); false for a currency not known here.
func (c Currency) Exponent() (int, bool) {
	e, ok := exponents[c]
	return e, ok
}

// Valid reports whether c is a known ISO 4217 code.
func (c Currency) Valid() bool {
	_, ok := exponents[c]
	return ok
}

// Format writes an amount of minor units for a person: 1250 EUR is "12.50 EUR", 1250 JPY is "1250 JPY".
func (c Currency) Format(minor int64) string {
	e := exponents[c]
	if e == 0 {
		return strconv.FormatInt(minor, 10) + " " + string(c)
	}
	sign := ""
	magnitude := uint64(minor)
	if minor < 0 {
		sign, magnitude = "-", -magnitude
	}
	digits := strconv.FormatUint(magnitude, 10)
	if len(digits) <= e {
		digits = strings.Repeat("0", e+1-len(digits)) + digits
	}
	cut := len(digits) - e
	return fmt.Sprintf("%s%s.%s %s", sign, digits[:cut], digits[cut:], c)
}

// MaxAmount is the largest amount, in minor units, that an order or a line may come to. It leaves room to add without overflow
// and stays exact in a JSON number read as a double.
const MaxAmount = int64(1)<<53 - 1

// errAmount is what an amount past MaxAmount comes to, whichever sum it came from.
func errAmount() *Error {
	return Errorf(CodeInvalid, "The total is larger than an order may be (%d minor units): split the order.", MaxAmount)
}

// LineTotal is quantity times unit price in minor units, or CodeInvalid where that is more than MaxAmount.
func LineTotal(unitPrice int64, quantity int) (int64, error) {
	if unitPrice < 0 || quantity < 0 {
		return 0, Errorf(CodeInvalid, "A price and a quantity cannot be negative.")
	}
	hi, lo := bits.Mul64(uint64(unitPrice), uint64(quantity))
	if hi != 0 || lo > uint64(MaxAmount) {
		return 0, errAmount()
	}
	return int64(lo), nil
}

// AddAmounts is the sum of non-negative amounts in minor units, or CodeInvalid where that is more than MaxAmount.
func AddAmounts(amounts ...int64) (int64, error) {
	var sum int64
	for _, a := range amounts {
		if a < 0 || a > MaxAmount || sum > MaxAmount-a {
			return 0, errAmount()
		}
		sum += a
	}
	return sum, nil
}

// Apportion divides total among the weights in proportion, in whole minor units, so that the parts sum to total exactly: what
// rounding down leaves over goes, one unit each, to the parts with the largest remainders (the first of equals). The weights
// must be non-negative with a positive sum, and total non-negative.
func Apportion(total int64, weights []int64) ([]int64, error) {
	var sum uint64
	for _, w := range weights {
		if w < 0 || sum > math.MaxInt64-uint64(w) {
			return nil, Errorf(CodeInternal, "weights must be non-negative and sum to less than 2^63")
		}
		sum += uint64(w)
	}
	if sum == 0 || total < 0 {
		return nil, Errorf(CodeInternal, "an allocation needs a positive weight and a total that is not negative")
	}
	parts := make([]int64, len(weights))
	remainders := make([]uint64, len(weights))
	left := total
	for i, w := range weights {
		hi, lo := bits.Mul64(uint64(total), uint64(w))
		quotient, remainder := bits.Div64(hi, lo, sum)
		parts[i], remainders[i] = int64(quotient), remainder
		left -= int64(quotient)
	}
	for ; left > 0; left-- {
		best := -1
		for i, r := range remainders {
			if r > 0 && (best < 0 || r > remainders[best]) {
				best = i
			}
		}
		parts[best]++
		remainders[best] = 0
	}
	return parts, nil
}
