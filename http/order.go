package http

import (
	"time"

	"github.com/google/uuid"

	"millrace"
)

// Order is an order as clients see it. Amounts are in minor units of Currency.
type Order struct {
	ID                uuid.UUID         `json:"id" format:"uuid"`
	Status            orderStatus       `json:"status"`
	PaymentStatus     paymentStatus     `json:"payment_status"`
	FulfillmentStatus fulfillmentStatus `json:"fulfillment_status"`
	Version           int32             `json:"version" minimum:"1" doc:"that of the order's last event"`
	Currency          string            `json:"currency" minLength:"3" maxLength:"3" doc:"ISO 4217"`
	TotalMinor        int64             `json:"total_minor" doc:"the sum of the lines"`
	CapturedMinor     int64             `json:"captured_minor" doc:"taken from the buyer so far"`
	RefundedMinor     int64             `json:"refunded_minor" doc:"sent back to the buyer so far"`
	Lines             []OrderLine       `json:"lines"`
	ShipTo            *millrace.Address `json:"ship_to,omitempty" doc:"left out once erased"`
	Email             string            `json:"email,omitempty" doc:"left out once erased"`
	PaymentMethod     string            `json:"payment_method"`
	HoldReason        string            `json:"hold_reason,omitempty" doc:"why it is on hold; for operators only"`
	PlacedAt          time.Time         `json:"placed_at"`
	UpdatedAt         time.Time         `json:"updated_at"`
	Shipment          *Shipment         `json:"shipment,omitempty"`
	Links             OrderLinks        `json:"links"`
}

// OrderLine is one line of an order, at the price it had when it was placed.
type OrderLine struct {
	N              int32  `json:"n" minimum:"1"`
	SKU            string `json:"sku"`
	Name           string `json:"name"`
	Quantity       int32  `json:"quantity" minimum:"1"`
	UnitPriceMinor int64  `json:"unit_price_minor"`
	TotalMinor     int64  `json:"total_minor"`
}

// Shipment is an order's parcel.
type Shipment struct {
	State          shipmentState `json:"state"`
	Carrier        string        `json:"carrier,omitempty"`
	Service        string        `json:"service,omitempty"`
	TrackingNumber string        `json:"tracking_number,omitempty"`
}

// OrderLinks are the paths at which more of an order is found.
type OrderLinks struct {
	Self   string `json:"self"`
	Events string `json:"events"`
	Stream string `json:"stream" doc:"Server-Sent Events"`
}

// OrderSummary is an order in a list: without the sums of its payments and its shipment.
type OrderSummary struct {
	ID                uuid.UUID         `json:"id" format:"uuid"`
	Status            orderStatus       `json:"status"`
	PaymentStatus     paymentStatus     `json:"payment_status"`
	FulfillmentStatus fulfillmentStatus `json:"fulfillment_status"`
	Version           int32             `json:"version" minimum:"1"`
	Currency          string            `json:"currency" minLength:"3" maxLength:"3"`
	TotalMinor        int64             `json:"total_minor"`
	Lines             []OrderLine       `json:"lines"`
	HoldReason        string            `json:"hold_reason,omitempty" doc:"why it is on hold; for operators only"`
	PlacedAt          time.Time         `json:"placed_at"`
	UpdatedAt         time.Time         `json:"updated_at"`
	Links             OrderLinks        `json:"links"`
}

// orderFor is an order as its viewer may see it.
func orderFor(viewer millrace.Principal, o *millrace.Order) *Order {
	v := &Order{ID: o.ID, Status: orderStatus(o.Status), PaymentStatus: paymentStatus(o.PaymentStatus),
		FulfillmentStatus: fulfillmentStatus(o.FulfillmentStatus), Version: o.Version, Currency: string(o.Currency), TotalMinor: o.TotalMinor,
		CapturedMinor: o.CapturedMinor(), RefundedMinor: o.RefundedMinor(), Lines: linesOf(o), ShipTo: o.ShipTo, Email: o.Email,
		PaymentMethod: o.PaymentMethod, HoldReason: holdReasonFor(viewer, o), PlacedAt: o.PlacedAt, UpdatedAt: o.UpdatedAt, Links: linksOf(o.ID)}
	if sh := o.Shipment; sh != nil {
		v.Shipment = &Shipment{State: shipmentState(sh.State), Carrier: sh.Carrier, Service: sh.Service, TrackingNumber: sh.TrackingNumber}
	}
	return v
}

func summaryFor(viewer millrace.Principal, o *millrace.Order) OrderSummary {
	return OrderSummary{ID: o.ID, Status: orderStatus(o.Status), PaymentStatus: paymentStatus(o.PaymentStatus),
		FulfillmentStatus: fulfillmentStatus(o.FulfillmentStatus), Version: o.Version, Currency: string(o.Currency), TotalMinor: o.TotalMinor,
		Lines: linesOf(o), HoldReason: holdReasonFor(viewer, o), PlacedAt: o.PlacedAt, UpdatedAt: o.UpdatedAt, Links: linksOf(o.ID)}
}

func linesOf(o *millrace.Order) []OrderLine {
	lines := make([]OrderLine, len(o.Lines))
	for i, l := range o.Lines {
		lines[i] = OrderLine(l)
	}
	return lines
}

func holdReasonFor(viewer millrace.Principal, o *millrace.Order) string {
	if viewer.Is(millrace.RoleOperator) {
		return o.HoldReason
	}
	return ""
}

func linksOf(id uuid.UUID) OrderLinks {
	self := orderPath(id)
	return OrderLinks{Self: self, Events: self + "/events", Stream: self + "/stream"}
}

func orderPath(id uuid.UUID) string { return "/v1/orders/" + id.String() }
