package db

import (
	"context"
	"time"

	"github.com/google/uuid"

	"millrace"
	"millrace/db/dbsqlc"
)

// GivenUpOrders is the orders whose jobs were discarded or canceled since a time.
func (s *Store) GivenUpOrders(ctx context.Context, since time.Time) ([]uuid.UUID, error) {
	kinds := []string{millrace.ReserveStockJob{}.Kind(), millrace.PaymentJob{}.Kind(), millrace.ShipOrderJob{}.Kind(),
		millrace.TrackShipmentJob{}.Kind(), millrace.CancelShipmentJob{}.Kind()}
	ids, err := s.queries().GivenUpOrders(ctx, dbsqlc.GivenUpOrdersParams{Since: &since, Kinds: kinds})
	return ids, translate(err)
}

// OrderIDsBefore is the newest ids of orders older than an id, at most limit of them.
func (s *Store) OrderIDsBefore(ctx context.Context, before uuid.UUID, limit int) ([]uuid.UUID, error) {
	ids, err := s.queries().OrderIDsBefore(ctx, dbsqlc.OrderIDsBeforeParams{Before: before, PageSize: int32(limit)})
	return ids, translate(err)
}

// RescueStranded looks among orders for those that only a job can take on and that have none (guarantee 8). Such an order is put on
// hold with the reason; one that has ended but still has money under way gets a new job. It returns the orders it found.
func (s *Store) RescueStranded(ctx context.Context, among []uuid.UUID, reason, actor string) ([]uuid.UUID, error) {
	if len(among) == 0 {
		return nil, nil
	}
	ids, err := s.queries().StrandedOrders(ctx, among)
	if err != nil {
		return nil, translate(err)
	}
	for _, id := range ids {
		_, err := s.apply(ctx, id, everything, func(o *millrace.Order) error {
			switch {
			case !o.Waits():
				return nil
			case o.Status.Final():
				return o.Resume(s.now(), actor)
			}
			return o.Hold(reason, s.now(), actor)
		})
		if err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// DropOldKeys forgets idempotency keys from before a time and returns how many.
func (s *Store) DropOldKeys(ctx context.Context, before time.Time) (int64, error) {
	n, err := s.queries().DropOldKeys(ctx, before)
	return n, translate(err)
}

// QueueDepth is how many jobs of a queue are due, and how long the first of them has waited.
type QueueDepth struct {
	Queue  string
	Depth  int64
	Oldest time.Duration
}

// QueueDepths measures the queues; one without a due job is missing.
func (s *Store) QueueDepths(ctx context.Context) ([]QueueDepth, error) {
	rows, err := s.queries().QueueDepths(ctx)
	if err != nil {
		return nil, translate(err)
	}
	depths := make([]QueueDepth, len(rows))
	for i, r := range rows {
		depths[i] = QueueDepth{Queue: r.Queue, Depth: r.Depth, Oldest: time.Duration(r.OldestSeconds * float64(time.Second))}
	}
	return depths, nil
}
