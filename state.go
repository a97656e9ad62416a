package millrace

import "slices"

// OrderStatus is where an order as a whole stands.
type OrderStatus string

// The order's statuses. The last four are final.
const (
	OrderPending        OrderStatus = "pending"         // taken in, waiting for stock
	OrderProcessing     OrderStatus = "processing"      // stock is held; payment and shipment are under way
	OrderRequiresAction OrderStatus = "requires_action" // the buyer must act, at the bank for instance
	OrderOnHold         OrderStatus = "on_hold"         // an operator must act
	OrderCompleted      OrderStatus = "completed"
	OrderCanceled       OrderStatus = "canceled"
	OrderFailed         OrderStatus = "failed"
	OrderExpired        OrderStatus = "expired"
)

// orderMoves is the table of legal moves; docs/states.md draws it, and a test compares the two. Staying is always legal.
var orderMoves = map[OrderStatus][]OrderStatus{
	OrderPending:        {OrderProcessing, OrderOnHold, OrderCanceled, OrderFailed},
	OrderProcessing:     {OrderCompleted, OrderRequiresAction, OrderOnHold, OrderCanceled, OrderFailed},
	OrderRequiresAction: {OrderProcessing, OrderOnHold, OrderCanceled, OrderFailed, OrderExpired},
	OrderOnHold:         {OrderPending, OrderProcessing, OrderRequiresAction, OrderCanceled, OrderFailed},
	OrderCompleted:      {},
	OrderCanceled:       {},
	OrderFailed:         {},
	OrderExpired:        {},
}

// OrderStatuses lists every status of an order.
func OrderStatuses() []OrderStatus {
	return []OrderStatus{OrderPending, OrderProcessing, OrderRequiresAction, OrderOnHold, OrderCompleted, OrderCanceled,
		OrderFailed, OrderExpired}
}

// Final reports whether no move leads out of s.
func (s OrderStatus) Final() bool { return len(orderMoves[s]) == 0 }

// MayBecome reports whether an order in status s may move to status to, or stay in it.
func (s OrderStatus) MayBecome(to OrderStatus) bool {
	return s == to || slices.Contains(orderMoves[s], to)
}

// PaymentStatus is where the money of an order stands.
type PaymentStatus string

// The payment statuses.
const (
	PaymentUnpaid            PaymentStatus = "unpaid"
	PaymentPending           PaymentStatus = "pending" // the gateway is being asked
	PaymentAuthorized        PaymentStatus = "authorized"
	PaymentPartiallyPaid     PaymentStatus = "partially_paid"
	PaymentPaid              PaymentStatus = "paid"
	PaymentPartiallyRefunded PaymentStatus = "partially_refunded"
	PaymentRefunded          PaymentStatus = "refunded"
	PaymentVoided            PaymentStatus = "voided"
	PaymentExpired           PaymentStatus = "expired"
	PaymentFailed            PaymentStatus = "failed"
)

// FulfillmentStatus is where the goods of an order stand.
type FulfillmentStatus string

// The fulfillment statuses.
const (
	FulfillmentUnfulfilled FulfillmentStatus = "unfulfilled"
	FulfillmentOnHold      FulfillmentStatus = "on_hold"
	FulfillmentInProgress  FulfillmentStatus = "in_progress" // a label is being bought
	FulfillmentPartial     FulfillmentStatus = "partially_fulfilled"
	FulfillmentFulfilled   FulfillmentStatus = "fulfilled" // handed to the carrier
	FulfillmentDelivered   FulfillmentStatus = "delivered"
	FulfillmentCanceled    FulfillmentStatus = "canceled"
)
