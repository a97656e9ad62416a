package millrace_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"millrace"
)

// requireInvalid checks that an error is the caller's fault, says where, and says it in words.
func requireInvalid(t *testing.T, err error, field string) {
	t.Helper()
	if field == "" {
		require.NoError(t, err)
		return
	}
	var e *millrace.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, millrace.CodeInvalid, e.Code)
	require.Equal(t, field, e.Field)
	require.True(t, strings.HasSuffix(e.Message, "."), e.Message)
	require.NoError(t, e.Cause)
}

func TestValidateSaysWhichFieldIsWrong(t *testing.T) {
	t.Parallel()
	line := millrace.LineRequest{SKU: "TEA-001", Quantity: 1}
	for _, c := range []struct {
		name   string
		change func(*millrace.OrderRequest)
		field  string
	}{
		{"a good order", func(*millrace.OrderRequest) {}, ""},
		{"two lines with one SKU", func(r *millrace.OrderRequest) { r.Lines = append(r.Lines, line) }, ""},
		{"as many lines as may be", func(r *millrace.OrderRequest) { r.Lines = repeat(line, millrace.MaxLines) }, ""},
		{"one too many", func(r *millrace.OrderRequest) { r.Lines = repeat(line, millrace.MaxLines+1) }, "lines"},
		{"no lines", func(r *millrace.OrderRequest) { r.Lines = nil }, "lines"},
		{"no SKU", func(r *millrace.OrderRequest) { r.Lines = append(r.Lines, millrace.LineRequest{Quantity: 1}) }, "lines[1].sku"},
		{"a SKU in small letters", func(r *millrace.OrderRequest) { r.Lines[0].SKU = "tea-001" }, "lines[0].sku"},
		{"a SKU too long", func(r *millrace.OrderRequest) { r.Lines[0].SKU = strings.Repeat("A", 65) }, "lines[0].sku"},
		{"the longest SKU", func(r *millrace.OrderRequest) { r.Lines[0].SKU = strings.Repeat("A", 64) }, ""},
		{"a SKU with a newline", func(r *millrace.OrderRequest) { r.Lines[0].SKU = "TEA\n" }, "lines[0].sku"},
		{"nothing of it", func(r *millrace.OrderRequest) { r.Lines[0].Quantity = 0 }, "lines[0].quantity"},
		{"less than nothing of it", func(r *millrace.OrderRequest) { r.Lines[0].Quantity = -1 }, "lines[0].quantity"},
		{"too much of it", func(r *millrace.OrderRequest) { r.Lines[0].Quantity = millrace.MaxQuantity + 1 }, "lines[0].quantity"},
		{"as much of it as may be", func(r *millrace.OrderRequest) { r.Lines[0].Quantity = millrace.MaxQuantity }, ""},
		{"a known currency", func(r *millrace.OrderRequest) { r.Currency = "EUR" }, ""},
		{"an unknown currency", func(r *millrace.OrderRequest) { r.Currency = "XXX" }, "currency"},
		{"no payment method", func(r *millrace.OrderRequest) { r.PaymentMethod = "" }, "payment_method"},
		{"a payment method with a space", func(r *millrace.OrderRequest) { r.PaymentMethod = "pm ok" }, "payment_method"},
		{"an e-mail address", func(r *millrace.OrderRequest) { r.Email = "ada@example.com" }, ""},
		{"not an e-mail address", func(r *millrace.OrderRequest) { r.Email = "ada" }, "email"},
		{"two at signs", func(r *millrace.OrderRequest) { r.Email = "a@b@c" }, "email"},
		{"an e-mail address with a newline", func(r *millrace.OrderRequest) { r.Email = "a@b\n.example" }, "email"},
		{"an e-mail address with a name", func(r *millrace.OrderRequest) { r.Email = "Ada <ada@example.com>" }, "email"},
		{"the customer's own address", func(r *millrace.OrderRequest) { r.ShipTo = nil }, ""},
		{"no name", func(r *millrace.OrderRequest) { r.ShipTo.Name = " " }, "ship_to.name"},
		{"no street", func(r *millrace.OrderRequest) { r.ShipTo.Line1 = "" }, "ship_to.line1"},
		{"no city", func(r *millrace.OrderRequest) { r.ShipTo.City = "" }, "ship_to.city"},
		{"a country's name", func(r *millrace.OrderRequest) { r.ShipTo.Country = "Germany" }, "ship_to.country"},
		{"a country in small letters", func(r *millrace.OrderRequest) { r.ShipTo.Country = "de" }, "ship_to.country"},
		{"a zero byte", func(r *millrace.OrderRequest) { r.ShipTo.Line2 = "a\x00b" }, "ship_to.line2"},
		{"bad UTF-8", func(r *millrace.OrderRequest) { r.ShipTo.Region = "\xff" }, "ship_to.region"},
		{"the longest text", func(r *millrace.OrderRequest) { r.ShipTo.City = strings.Repeat("x", 200) }, ""},
		{"a text too long", func(r *millrace.OrderRequest) { r.ShipTo.City = strings.Repeat("x", 201) }, "ship_to.city"},
		{"a postal code of two lines", func(r *millrace.OrderRequest) { r.ShipTo.PostalCode = "1\r\n2" }, "ship_to.postal_code"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := millrace.OrderRequest{Lines: []millrace.LineRequest{line}, PaymentMethod: "pm_ok",
				ShipTo: &millrace.Address{Name: "Ada", Line1: "1 Mill Lane", City: "Bath", Country: "GB"}}
			c.change(&r)
			requireInvalid(t, r.Validate(), c.field)
		})
	}
}

func repeat[T any](x T, n int) []T {
	list := make([]T, n)
	for i := range list {
		list[i] = x
	}
	return list
}

func TestProductsAreValidated(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*millrace.Product)
		field  string
	}{
		{"a good product", func(*millrace.Product) {}, ""},
		{"no SKU", func(p *millrace.Product) { p.SKU = "" }, "sku"},
		{"no name", func(p *millrace.Product) { p.Name = "" }, "name"},
		{"a description of several lines", func(p *millrace.Product) { p.Description = "one\ntwo" }, ""},
		{"a description too long", func(p *millrace.Product) { p.Description = strings.Repeat("x", 2001) }, "description"},
		{"a description with a zero byte", func(p *millrace.Product) { p.Description = "\x00" }, "description"},
		{"a description in bad UTF-8", func(p *millrace.Product) { p.Description = "\xff" }, "description"},
		{"no price", func(p *millrace.Product) { p.PriceMinor = 0 }, "price_minor"},
		{"a negative price", func(p *millrace.Product) { p.PriceMinor = -1 }, "price_minor"},
		{"a price too high", func(p *millrace.Product) { p.PriceMinor = millrace.MaxAmount + 1 }, "price_minor"},
		{"no currency", func(p *millrace.Product) { p.Currency = "" }, "currency"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := catalogue["TEA-001"]
			c.change(&p)
			requireInvalid(t, p.Validate(), c.field)
		})
	}
}

func TestNewOrderRefusesWhatTheCatalogueCannotServe(t *testing.T) {
	t.Parallel()
	bare := millrace.Customer{ID: ada.ID, Subject: "ada"}
	for _, c := range []struct {
		name     string
		customer millrace.Customer
		currency millrace.Currency
		lines    []millrace.LineRequest
		field    string
		says     string
	}{
		{"an unknown SKU", ada, "", []millrace.LineRequest{{SKU: "TEA-001", Quantity: 1}, {SKU: "NIL-000", Quantity: 1}}, "lines[1].sku", "There is no product NIL-000"},
		{"a product that is not sold any more", ada, "", []millrace.LineRequest{{SKU: "OLD-004", Quantity: 1}}, "lines[0].sku", "There is no product OLD-004"},
		{"two currencies", ada, "", []millrace.LineRequest{{SKU: "TEA-001", Quantity: 1}, {SKU: "YEN-003", Quantity: 1}}, "lines[1].sku", "YEN-003 is sold in JPY"},
		{"another currency than asked for", ada, "USD", []millrace.LineRequest{{SKU: "TEA-001", Quantity: 1}}, "lines[0].sku", "TEA-001 is sold in EUR"},
		{"a line that overflows", ada, "", []millrace.LineRequest{{SKU: "MAX-005", Quantity: 2}}, "", "split the order"},
		{"a total that overflows", ada, "", []millrace.LineRequest{{SKU: "MAX-005", Quantity: 1}, {SKU: "TEA-001", Quantity: 1}}, "", "split the order"},
		{"no address", bare, "", []millrace.LineRequest{{SKU: "TEA-001", Quantity: 1}}, "ship_to", "An address is needed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := millrace.OrderRequest{Lines: c.lines, Currency: c.currency, PaymentMethod: "pm_ok"}
			o, err := millrace.NewOrder(orderID, &c.customer, &r, catalogue, noon, actor)
			require.Nil(t, o)
			var e *millrace.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, millrace.CodeInvalid, e.Code)
			require.Equal(t, c.field, e.Field)
			require.Contains(t, e.Message, c.says)
		})
	}
}

func TestErrorsKeepTheirCauseToThemselves(t *testing.T) {
	t.Parallel()
	cause := errors.New("password authentication failed")
	err := millrace.WrapError(millrace.CodeUnavailable, cause, "Try again in %d s.", 5)
	require.Equal(t, "Try again in 5 s.", err.Message)
	require.ErrorIs(t, err, cause)
	require.Contains(t, err.Error(), "password", "the log says all")
	require.Equal(t, "conflict: no", millrace.Errorf(millrace.CodeConflict, "no").Error())

	require.Equal(t, millrace.Code(""), millrace.ErrorCode(nil))
	require.Equal(t, millrace.CodeUnavailable, millrace.ErrorCode(errors.Join(cause, err)))
	require.Equal(t, millrace.CodeInternal, millrace.ErrorCode(cause))
}

func TestAPrincipalHasTheRolesOfItsToken(t *testing.T) {
	t.Parallel()
	p := millrace.Principal{Roles: []millrace.Role{millrace.RoleCustomer}}
	require.True(t, p.Is(millrace.RoleCustomer))
	require.False(t, p.Is(millrace.RoleOperator))
}
