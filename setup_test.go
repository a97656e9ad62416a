package millrace_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
)

// noon is when everything happens, unless a step says later.
var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

const actor = "job:test"

var (
	policy     = millrace.PaymentPolicy{ActionTimeout: 30 * time.Minute}
	onShipment = millrace.PaymentPolicy{ActionTimeout: 30 * time.Minute, CaptureOnShipment: true}
	orderID    = uuid.MustParse("01890000-0000-7000-8000-000000000001")
	ada        = millrace.Customer{ID: uuid.MustParse("01890000-0000-7000-8000-0000000000aa"), Subject: "ada", Email: "ada@example.com",
		Address: &millrace.Address{Name: "Ada", Line1: "1 Mill Lane", City: "Bath", Country: "GB"}}
	catalogue = map[string]millrace.Product{
		"TEA-001": {SKU: "TEA-001", Name: "Tea", PriceMinor: 1250, Currency: "EUR", Active: true},
		"CUP-002": {SKU: "CUP-002", Name: "Cup", PriceMinor: 500, Currency: "EUR", Active: true},
		"YEN-003": {SKU: "YEN-003", Name: "Fan", PriceMinor: 900, Currency: "JPY", Active: true},
		"OLD-004": {SKU: "OLD-004", Name: "Old", PriceMinor: 100, Currency: "EUR"},
		"MAX-005": {SKU: "MAX-005", Name: "Max", PriceMinor: millrace.MaxAmount, Currency: "EUR", Active: true},
	}
)

// newOrder is two teas and a cup for 30.00 EUR, just placed, with what that noted taken.
func newOrder(t testing.TB) *millrace.Order {
	t.Helper()
	r := millrace.OrderRequest{PaymentMethod: "pm_ok", Lines: []millrace.LineRequest{{SKU: "TEA-001", Quantity: 1}, {SKU: "CUP-002", Quantity: 1}, {SKU: "TEA-001", Quantity: 1}}}
	o, err := millrace.NewOrder(orderID, &ada, &r, catalogue, noon, "customer:ada")
	require.NoError(t, err)
	o.TakeChanges()
	return o
}

// shelf has stock for newOrder, and nothing to spare.
func shelf() *millrace.Shelf {
	return millrace.NewShelf([]millrace.InventoryLevel{{SKU: "TEA-001", Location: "main", OnHand: 2}, {SKU: "CUP-002", Location: "main", OnHand: 1}})
}

// step is a command and whether the domain allows it; run leaves what it noted to be taken.
type step struct {
	name string
	code millrace.Code // of the error, "" for none
	do   func(*millrace.Order) error
}

func (s step) run(t testing.TB, o *millrace.Order) {
	t.Helper()
	require.Equal(t, s.code, millrace.ErrorCode(s.do(o)), s.name)
}

// refused is a step that the domain does not allow.
func refused(s step, code millrace.Code) step {
	s.code = code
	return s
}

func reserve(p millrace.PaymentPolicy) step {
	return step{name: "reserve", do: func(o *millrace.Order) error { o.ReserveStock(shelf(), p, noon, actor); return nil }}
}

func settle(n int32, r millrace.PaymentResult) step {
	return step{name: "payment " + string(r.Outcome), do: func(o *millrace.Order) error { return o.SettlePayment(n, r, policy, noon, actor) }}
}

func ship(outcome millrace.Outcome) step {
	return step{name: "shipment " + string(outcome), do: func(o *millrace.Order) error {
		return o.SettleShipment(millrace.LabelResult{Outcome: outcome, Code: "no_rate", Reference: "shp_1", Service: "ground", TrackingNumber: "T1", LabelURL: "/l"}, "simulated", noon, actor)
	}}
}

func track(s millrace.ShipmentState) step {
	return step{name: "parcel " + string(s), do: func(o *millrace.Order) error { return o.TrackShipment(millrace.TrackResult{State: s}, noon, actor) }}
}

func expire(after time.Duration) step {
	return step{name: "expire", do: func(o *millrace.Order) error { return o.Expire(noon.Add(after), actor) }}
}

func refund(amount int64, key string) step {
	return step{name: "refund " + key, do: func(o *millrace.Order) error { return o.Refund(amount, key, noon, "operator:grace") }}
}

var (
	reserved   = reserve(policy)
	soldOut    = step{name: "reserve nothing", do: func(o *millrace.Order) error { o.ReserveStock(millrace.NewShelf(nil), policy, noon, actor); return nil }}
	authorized = settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Gateway: "simulated", Reference: "pay_1"})
	paid       = settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Gateway: "simulated", Reference: "pay_1", Captured: true})
	declined   = settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: "insufficient_funds"})
	mustAct    = settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeRequiresAction, Reference: "pay_1", ActionURL: "/simulated/payments/pay_1"})
	lost       = settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeUnknown})
	pending    = settle(1, millrace.PaymentResult{Outcome: millrace.OutcomePending})
	captured   = settle(2, millrace.PaymentResult{Outcome: millrace.OutcomeApproved})
	shipped    = ship(millrace.OutcomeApproved)
	noRate     = ship(millrace.OutcomeDeclined)
	inTransit  = track(millrace.ShipmentInTransit)
	delivered  = track(millrace.ShipmentDelivered)
	cancel     = step{name: "cancel", do: func(o *millrace.Order) error { return o.Cancel("changed my mind", noon, "customer:ada") }}
	hold       = step{name: "hold", do: func(o *millrace.Order) error { return o.Hold("looks odd", noon, "operator:grace") }}
	release    = step{name: "release", do: func(o *millrace.Order) error { return o.Release(noon, "operator:grace") }}
	resume     = step{name: "resume", do: func(o *millrace.Order) error { return o.Resume(noon, "operator:grace") }}
	unlabeled  = step{name: "shipment canceled", do: func(o *millrace.Order) error { return o.ShipmentCanceled(noon, actor) }}
)
