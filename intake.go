package millrace

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Limits of an order. They bound what one request can cost.
const (
	MaxLines    = 100
	MaxQuantity = 10_000 // of one line
)

// OrderRequest is what a customer asks for. It names no prices: those come from the catalogue.
type OrderRequest struct {
	Lines         []LineRequest
	Currency      Currency // optional; the products' own
	PaymentMethod string   // the payment method's token
	ShipTo        *Address // optional; the address stored with the customer
	Email         string   // optional; the customer's own
}

// LineRequest is one line of an OrderRequest. Several lines may name the same SKU.
type LineRequest struct {
	SKU      string
	Quantity int32
}

var (
	skuPattern     = regexp.MustCompile(`^[A-Z0-9][A-Z0-9._-]{0,63}$`)
	methodPattern  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$`)
	countryPattern = regexp.MustCompile(`^[A-Z]{2}$`)
)

// Validate checks everything that can be checked without the catalogue.
func (r *OrderRequest) Validate() error {
	if len(r.Lines) == 0 {
		return InvalidField("lines", "An order needs at least one line.")
	}
	if len(r.Lines) > MaxLines {
		return InvalidField("lines", "An order has at most %d lines: split it.", MaxLines)
	}
	for i, l := range r.Lines {
		if !skuPattern.MatchString(l.SKU) {
			return InvalidField(fmt.Sprintf("lines[%d].sku", i), "A SKU is 1 to 64 capital letters, digits, dots, dashes or underscores, as GET /v1/products lists them.")
		}
		if l.Quantity < 1 || l.Quantity > MaxQuantity {
			return InvalidField(fmt.Sprintf("lines[%d].quantity", i), "A quantity is a whole number from 1 to %d.", MaxQuantity)
		}
	}
	if r.Currency != "" && !r.Currency.Valid() {
		return InvalidField("currency", "Unknown currency: give an ISO 4217 code such as EUR, or leave it out.")
	}
	if !methodPattern.MatchString(r.PaymentMethod) {
		return InvalidField("payment_method", "A payment method is a token of 1 to 128 letters, digits, dashes or underscores.")
	}
	if r.Email != "" {
		if err := ValidateEmail("email", r.Email); err != nil {
			return err
		}
	}
	if r.ShipTo != nil {
		return r.ShipTo.Validate("ship_to")
	}
	return nil
}

// Validate checks an address; field is where it stands in the request.
func (a *Address) Validate(field string) error {
	for _, f := range []struct {
		name, value string
		required    bool
	}{
		{"name", a.Name, true}, {"line1", a.Line1, true}, {"line2", a.Line2, false}, {"city", a.City, true},
		{"region", a.Region, false}, {"postal_code", a.PostalCode, false}, {"phone", a.Phone, false},
	} {
		if err := ValidateText(field+"."+f.name, f.value, f.required); err != nil {
			return err
		}
	}
	if !countryPattern.MatchString(a.Country) {
		return InvalidField(field+".country", "A country is a two-letter ISO 3166-1 code such as DE.")
	}
	return nil
}

// maxText is the longest free text accepted, in bytes.
const maxText = 200

// ValidateText checks a line of free text: printable, at most 200 bytes, and not blank where it is required.
func ValidateText(field, s string, required bool) error {
	switch {
	case required && strings.TrimSpace(s) == "":
		return InvalidField(field, "%s is required.", field)
	case len(s) > maxText:
		return InvalidField(field, "%s is longer than %d bytes.", field, maxText)
	case !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }):
		return InvalidField(field, "%s may hold printable characters only.", field)
	}
	return nil
}

// ValidateEmail checks the rough shape of an e-mail address; whether it works, only sending tells.
func ValidateEmail(field, s string) error {
	local, domain, ok := strings.Cut(s, "@")
	if !ok || local == "" || domain == "" || strings.ContainsAny(s, " <>,;\"") || strings.Contains(domain, "@") {
		return InvalidField(field, "%s must be an e-mail address such as name@example.com.", field)
	}
	return ValidateText(field, s, true)
}

// Validate checks a catalogue entry.
func (p *Product) Validate() error {
	if !skuPattern.MatchString(p.SKU) {
		return InvalidField("sku", "A SKU is 1 to 64 capital letters, digits, dots, dashes or underscores.")
	}
	if err := ValidateText("name", p.Name, true); err != nil {
		return err
	}
	if len(p.Description) > 2000 || !utf8.ValidString(p.Description) || strings.ContainsRune(p.Description, 0) {
		return InvalidField("description", "A description is at most 2000 bytes of text.")
	}
	if p.PriceMinor < 1 || p.PriceMinor > MaxAmount {
		return InvalidField("price_minor", "A price is a whole number of minor units from 1 to %d.", MaxAmount)
	}
	if !p.Currency.Valid() {
		return InvalidField("currency", "Unknown currency: give an ISO 4217 code such as EUR.")
	}
	return nil
}

// NewOrder prices a valid request from the catalogue (products by SKU) and makes it a placed order with its first event. The
// customer's own e-mail and address stand in for those that the request leaves out.
func NewOrder(id uuid.UUID, c *Customer, r *OrderRequest, catalogue map[string]Product, at time.Time, actor string) (*Order, error) {
	o := &Order{ID: id, CustomerID: c.ID, Currency: r.Currency, PaymentMethod: r.PaymentMethod, Email: r.Email, ShipTo: r.ShipTo}
	if o.Email == "" {
		o.Email = c.Email
	}
	if o.ShipTo == nil {
		o.ShipTo = c.Address
	}
	if o.ShipTo == nil {
		return nil, InvalidField("ship_to", "An address is needed: give ship_to, or store one with PUT /v1/customers/me.")
	}
	totals := make([]int64, len(r.Lines))
	o.Lines = make([]OrderLine, len(r.Lines))
	for i, l := range r.Lines {
		field := fmt.Sprintf("lines[%d]", i)
		p, ok := catalogue[l.SKU]
		if !ok || !p.Active {
			return nil, InvalidField(field+".sku", "There is no product %s: GET /v1/products lists what there is.", l.SKU)
		}
		if o.Currency == "" {
			o.Currency = p.Currency
		}
		if p.Currency != o.Currency {
			return nil, InvalidField(field+".sku", "%s is sold in %s: one order has one currency, and this one's is %s.", l.SKU, p.Currency, o.Currency)
		}
		total, err := LineTotal(p.PriceMinor, int(l.Quantity))
		if err != nil {
			return nil, err
		}
		totals[i] = total
		o.Lines[i] = OrderLine{N: int32(i) + 1, SKU: l.SKU, Name: p.Name, Quantity: l.Quantity, UnitPriceMinor: p.PriceMinor, TotalMinor: total}
	}
	var err error
	if o.TotalMinor, err = AddAmounts(totals...); err != nil {
		return nil, err
	}
	o.Place(at, actor)
	return o, nil
}

// AsPlaced is the order as Place left it, whatever has happened to it since; personal data that was erased stays erased.
func (o *Order) AsPlaced() *Order {
	p := &Order{ID: o.ID, CustomerID: o.CustomerID, Currency: o.Currency, TotalMinor: o.TotalMinor, Lines: slices.Clone(o.Lines),
		PaymentMethod: o.PaymentMethod, Email: o.Email, ShipTo: o.ShipTo}
	p.Place(o.PlacedAt, "")
	p.changes = Changes{}
	return p
}
