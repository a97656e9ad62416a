package millrace

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// EventType names what happened to an order. It is the SSE event name and never holds a newline.
type EventType string

// The event types.
const (
	EventOrderPlaced           EventType = "order.placed"
	EventStockReserved         EventType = "stock.reserved"
	EventStockRejected         EventType = "stock.rejected"
	EventPaymentAuthorized     EventType = "payment.authorized"
	EventPaymentCaptured       EventType = "payment.captured"
	EventPaymentDeclined       EventType = "payment.declined"
	EventPaymentRequiresAction EventType = "payment.requires_action"
	EventPaymentRefunded       EventType = "payment.refunded"
	EventPaymentVoided         EventType = "payment.voided"
	EventShipmentCreated       EventType = "shipment.created"
	EventShipmentInTransit     EventType = "shipment.in_transit"
	EventShipmentDelivered     EventType = "shipment.delivered"
	EventOrderCompleted        EventType = "order.completed"
	EventOrderCanceled         EventType = "order.canceled"
	EventOrderFailed           EventType = "order.failed"
	EventOrderExpired          EventType = "order.expired"
	EventOrderOnHold           EventType = "order.on_hold"
	EventOrderReleased         EventType = "order.released"
)

// EventTypes lists every type, in the order in which they may first come up.
func EventTypes() []EventType {
	return []EventType{EventOrderPlaced, EventStockReserved, EventStockRejected, EventPaymentAuthorized, EventPaymentCaptured,
		EventPaymentDeclined, EventPaymentRequiresAction, EventPaymentRefunded, EventPaymentVoided, EventShipmentCreated,
		EventShipmentInTransit, EventShipmentDelivered, EventOrderCompleted, EventOrderCanceled, EventOrderFailed,
		EventOrderExpired, EventOrderOnHold, EventOrderReleased}
}

// Event is one change of an order, together with the states that it left the order in. Version counts an order's events from 1
// without a hole. Data holds no personal data: ids, amounts, codes, tracking numbers.
type Event struct {
	OrderID           uuid.UUID
	Version           int32
	Type              EventType
	Status            OrderStatus
	PaymentStatus     PaymentStatus
	FulfillmentStatus FulfillmentStatus
	Data              json.RawMessage // one JSON object on one line
	Actor             string          // who or what caused it: "customer:<subject>", "operator:<subject>" or "job:<kind>"
	At                time.Time
	CustomerID        uuid.UUID // whose order it is; not part of what is shown

	// Tx is the database's id of the transaction that wrote the event, 0 before it is stored. Streams of many orders resume
	// by it: see db.Store.Watermark.
	Tx int64
}

// eventData is what an event says besides its type and the order's states. Customers read it: no personal data, no operators' notes.
type eventData struct {
	AmountMinor    int64    `json:"amount_minor,omitempty"`
	TotalMinor     int64    `json:"total_minor,omitempty"`
	Currency       Currency `json:"currency,omitempty"`
	Transaction    int32    `json:"transaction,omitempty"`
	Lines          int      `json:"lines,omitempty"`
	Reservations   int      `json:"reservations,omitempty"`
	Carrier        string   `json:"carrier,omitempty"`
	Service        string   `json:"service,omitempty"`
	TrackingNumber string   `json:"tracking_number,omitempty"`
	Reference      string   `json:"reference,omitempty"`
	ActionURL      string   `json:"action_url,omitempty"`
	ExpiresAt      string   `json:"expires_at,omitempty"`
	Reason         string   `json:"reason,omitempty"`
	Code           string   `json:"code,omitempty"`
	SKU            string   `json:"sku,omitempty"`
}
