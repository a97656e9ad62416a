package db

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"millrace"
	"millrace/db/dbsqlc"
	"millrace/db/group"
)

// ReserveStock has an order offered stock in its turn: in the order in which orders were acknowledged, whichever job asks first. When
// it returns nil, the order has been served, by this call or by another; what it got is in its events.
func (s *Store) ReserveStock(ctx context.Context, orderID uuid.UUID) error {
	_, err := s.allocation.Do(ctx, orderID)
	return translate(err)
}

// flushAllocation serves the queue of orders until all that were asked for have had their turn. Whoever holds the allocation lock
// serves every queued order, so a job that comes late finds its work done.
func (s *Store) flushAllocation(ctx context.Context, ids []uuid.UUID) ([]group.Outcome[struct{}], error) {
	outcomes := make([]group.Outcome[struct{}], len(ids))
	for {
		waiting, err := s.awaitingStock(ctx, ids)
		if err != nil {
			return nil, err
		}
		if len(waiting) == 0 {
			return outcomes, nil
		}
		served, err := s.allocate(ctx, waiting)
		if err != nil {
			return nil, fmt.Errorf("allocate stock: %w", err)
		}
		s.ring(served...) // there may be none: orders of the queue that were canceled or held are passed over
	}
}

// awaitingStock is those of the orders that are still pending, with their places in the queue.
func (s *Store) awaitingStock(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]int64, error) {
	rows, err := s.queries().AwaitingStock(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("find the orders that wait for stock: %w", err)
	}
	waiting := make(map[uuid.UUID]int64, len(rows))
	for _, r := range rows {
		waiting[r.ID] = r.ReceivedSeq
	}
	return waiting, nil
}

// allocate serves, in one transaction, the next orders of the queue and those of waiting that missed their turn because an operator
// held them when it came. It returns the orders it served.
func (s *Store) allocate(ctx context.Context, waiting map[uuid.UUID]int64) (served []*millrace.Order, err error) {
	err = s.inTx(ctx, func(tx pgx.Tx) error {
		q := dbsqlc.New(tx)
		allocated, err := s.lockTurn(ctx, q)
		if err != nil {
			return err
		}
		late := []uuid.UUID{}
		for id, seq := range waiting {
			if seq <= allocated {
				late = append(late, id)
			}
		}
		queue, err := lockQueue(ctx, q, late, allocated, s.config.MaxGroup)
		if err != nil {
			return err
		}
		shelf, err := lockShelf(ctx, q, queue)
		if err != nil {
			return err
		}
		var w changeSet
		at, last := s.now(), allocated
		for _, o := range queue {
			last = max(last, o.ReceivedSeq)
			o.ReserveStock(shelf, s.config.Policy, at, "job:"+millrace.ReserveStockJob{}.Kind())
			if change := o.TakeChanges(); !change.Empty() {
				w.add(o, change)
				served = append(served, o)
			}
		}
		if last > allocated {
			if err := q.SetAllocated(ctx, last); err != nil {
				return fmt.Errorf("move the allocation on: %w", err)
			}
		}
		return s.write(ctx, tx, &w)
	})
	return served, err
}

// lockTurn takes the allocation lock and says up to which order stock was offered; to all of them, without a lock, out of turn.
func (s *Store) lockTurn(ctx context.Context, q *dbsqlc.Queries) (int64, error) {
	if s.config.OutOfTurn {
		return math.MaxInt64, nil
	}
	allocated, err := q.LockAllocation(ctx)
	if err != nil {
		return 0, fmt.Errorf("lock the allocation: %w", err)
	}
	return allocated, nil
}

// lockQueue locks and loads the orders to serve, in the order in which they were acknowledged.
func lockQueue(ctx context.Context, q *dbsqlc.Queries, late []uuid.UUID, allocated int64, limit int) ([]*millrace.Order, error) {
	rows, err := q.LockQueuedOrders(ctx, dbsqlc.LockQueuedOrdersParams{Late: late, Allocated: allocated, PageSize: int32(limit)})
	if err != nil {
		return nil, fmt.Errorf("lock the queue: %w", err)
	}
	orders := make(map[uuid.UUID]*millrace.Order, len(rows))
	queue := make([]*millrace.Order, 0, len(rows))
	for _, r := range rows {
		o, err := orderOf(r, 0)
		if err != nil {
			return nil, err
		}
		orders[o.ID] = o
		queue = append(queue, o)
	}
	slices.SortFunc(queue, func(a, b *millrace.Order) int { return cmp.Compare(a.ReceivedSeq, b.ReceivedSeq) })
	// A released order may hold an open payment from before; an order in the queue for the first time has nothing but its lines.
	p := withLines
	if len(late) > 0 {
		p |= withTransactions
	}
	return queue, loadParts(ctx, q, orders, p)
}

// lockShelf locks the inventory levels of all that the queue asks for.
func lockShelf(ctx context.Context, q *dbsqlc.Queries, queue []*millrace.Order) (*millrace.Shelf, error) {
	wanted := make(map[string]bool)
	for _, o := range queue {
		for _, l := range o.Lines {
			wanted[l.SKU] = true
		}
	}
	skus := make([]string, 0, len(wanted))
	for sku := range wanted {
		skus = append(skus, sku)
	}
	rows, err := q.LockLevels(ctx, skus)
	if err != nil {
		return nil, fmt.Errorf("lock inventory levels: %w", err)
	}
	levels := make([]millrace.InventoryLevel, len(rows))
	for i, r := range rows {
		levels[i] = millrace.InventoryLevel{SKU: r.Sku, Location: r.Location, OnHand: r.OnHand, Reserved: r.Reserved}
	}
	return millrace.NewShelf(levels), nil
}
