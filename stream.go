package millrace

import "github.com/google/uuid"

// Ring says that an order may have new events. It is a hint, not the truth: it may come twice, too early or never.
type Ring struct {
	OrderID    uuid.UUID
	CustomerID uuid.UUID
}

// EventCursor asks for the events of one order with a version above After.
type EventCursor struct {
	OrderID uuid.UUID
	After   int32
}

// EventPosition is a place in the order in which events of many orders are read: by transaction, then order, then version. The zero
// value is before all of them.
//
// A transaction's id is drawn when it begins to write, so events come up at positions that were read past already. Whoever reads on
// from a place therefore starts again at a watermark taken before: see db.Store.Watermark.
type EventPosition struct {
	Tx      int64
	OrderID uuid.UUID
	Version int32
}

// Position is the place of e among the events of many orders.
func (e *Event) Position() EventPosition {
	return EventPosition{Tx: e.Tx, OrderID: e.OrderID, Version: e.Version}
}
