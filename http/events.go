package http

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"time"

	"github.com/google/uuid"

	"millrace"
)

func (s *Server) registerEvents() {
	handle(s, operation{id: "list-events", method: http.MethodGet, path: "/v1/orders/{id}/events", tag: "orders", summary: "List what happened to an order",
		description: "The first is version 1; there are no holes. The same events come live from the order's stream.",
		who:         participants, success: http.StatusOK}, s.listEvents)
}

// Event is one change of an order, and the states that it left the order in.
type Event struct {
	OrderID           uuid.UUID         `json:"order_id" format:"uuid"`
	Version           int32             `json:"version" minimum:"1"`
	Type              eventType         `json:"type"`
	Status            orderStatus       `json:"status"`
	PaymentStatus     paymentStatus     `json:"payment_status"`
	FulfillmentStatus fulfillmentStatus `json:"fulfillment_status"`
	At                time.Time         `json:"at"`
	Data              json.RawMessage   `json:"data" doc:"an object that depends on the type"`
	Actor             string            `json:"actor,omitempty" doc:"who or what caused it; for operators only"`
}

type listEventsInput struct {
	ID     orderID `path:"id" doc:"the order's id"`
	After  int32   `query:"after" minimum:"0" maximum:"2147483647" doc:"only versions above it"`
	Cursor string  `query:"cursor" maxLength:"200" doc:"next_cursor of the page before"`
	Limit  int     `query:"limit" minimum:"1" maximum:"500" default:"100"`
}

// EventPage is one page of an order's events.
type EventPage struct {
	Events     []Event `json:"events"`
	NextCursor string  `json:"next_cursor,omitempty" doc:"left out on the last page"`
}

type eventPageOutput struct{ Body EventPage }

func (s *Server) listEvents(ctx context.Context, in *listEventsInput) (*eventPageOutput, error) {
	after, err := decodeVersionCursor(in.Cursor)
	if err != nil {
		return nil, err
	}
	p, o, err := s.orderOf(ctx, uuid.UUID(in.ID))
	if err != nil {
		return nil, err
	}
	events, err := s.config.Store.ListEvents(ctx, o.ID, max(after, in.After), in.Limit+1)
	if err != nil {
		return nil, err
	}
	page := EventPage{Events: []Event{}}
	if len(events) > in.Limit {
		events = events[:in.Limit]
		page.NextCursor = encodeCursor(eventCursor, binary.BigEndian.AppendUint32(nil, uint32(events[in.Limit-1].Version)))
	}
	for _, e := range events {
		page.Events = append(page.Events, eventFor(p, e))
	}
	return &eventPageOutput{page}, nil
}

func eventFor(viewer millrace.Principal, e millrace.Event) Event {
	v := Event{OrderID: e.OrderID, Version: e.Version, Type: eventType(e.Type), Status: orderStatus(e.Status),
		PaymentStatus: paymentStatus(e.PaymentStatus), FulfillmentStatus: fulfillmentStatus(e.FulfillmentStatus), At: e.At, Data: e.Data}
	if viewer.Is(millrace.RoleOperator) {
		v.Actor = e.Actor
	}
	return v
}

func decodeVersionCursor(cursor string) (int32, error) {
	key, err := decodeCursor(eventCursor, cursor)
	if err != nil || key == nil {
		return 0, err
	}
	if len(key) != 4 || key[0] > 0x7f {
		return 0, errCursor()
	}
	return int32(binary.BigEndian.Uint32(key)), nil
}
