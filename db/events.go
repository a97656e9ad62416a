package db

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"millrace"
	"millrace/db/dbsqlc"
)

// ListEvents lists an order's events from the one after version after, at most limit of them.
func (s *Store) ListEvents(ctx context.Context, orderID uuid.UUID, after int32, limit int) ([]millrace.Event, error) {
	rows, err := s.queries().ListEvents(ctx, dbsqlc.ListEventsParams{OrderID: orderID, After: after, PageSize: int32(limit)})
	return eventsOf(rows), translate(err)
}

// EventsAfter reads the events that each cursor has not seen, at most limitEach for each, sorted by order and version.
func (s *Store) EventsAfter(ctx context.Context, cursors []millrace.EventCursor, limitEach int) ([]millrace.Event, error) {
	p := dbsqlc.EventsAfterParams{LimitEach: int32(limitEach)}
	for _, c := range cursors {
		p.OrderIds = append(p.OrderIds, c.OrderID)
		p.Afters = append(p.Afters, c.After)
	}
	rows, err := s.queries().EventsAfter(ctx, p)
	if err != nil {
		return nil, translate(fmt.Errorf("read events: %w", err))
	}
	events := make([]millrace.Event, len(rows))
	for i, r := range rows {
		events[i] = eventOf(r)
	}
	return events, nil
}

// Watermark is a Tx such that every event which is not visible yet will have at least that Tx. Who has read all events visible now
// and goes on from the watermark misses none, though it may see some again.
func (s *Store) Watermark(ctx context.Context) (int64, error) {
	tx, err := s.queries().Watermark(ctx)
	return tx, translate(err)
}

// CustomerEventsSince reads the events of a customer's orders, or of all orders for uuid.Nil, written by transactions from tx on and
// placed after a position; sorted by position, at most limit of them.
func (s *Store) CustomerEventsSince(ctx context.Context, customerID uuid.UUID, tx int64, after millrace.EventPosition, limit int) ([]millrace.Event, error) {
	q := s.queries()
	if customerID == uuid.Nil {
		rows, err := q.EventsSince(ctx, dbsqlc.EventsSinceParams{Tx: tx, AfterTx: after.Tx, AfterOrder: after.OrderID,
			AfterVersion: after.Version, PageSize: int32(limit)})
		return eventsOf(rows), translate(err)
	}
	rows, err := q.CustomerEventsSince(ctx, dbsqlc.CustomerEventsSinceParams{CustomerID: customerID, Tx: tx, AfterTx: after.Tx,
		AfterOrder: after.OrderID, AfterVersion: after.Version, PageSize: int32(limit)})
	return eventsOf(rows), translate(err)
}

func eventsOf(rows []dbsqlc.OrderEvent) []millrace.Event {
	events := make([]millrace.Event, len(rows))
	for i, r := range rows {
		events[i] = eventOf(r)
	}
	return events
}

func eventOf(r dbsqlc.OrderEvent) millrace.Event {
	return millrace.Event{OrderID: r.OrderID, Version: r.Version, Type: r.Type, Status: r.Status, PaymentStatus: r.PaymentStatus,
		FulfillmentStatus: r.FulfillmentStatus, Data: r.Data, Actor: r.Actor, At: localTime(r.At), CustomerID: r.CustomerID, Tx: r.Tx}
}
