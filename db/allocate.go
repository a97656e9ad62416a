package db

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/google/uuid"

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
	waiting, err := s.awaitingStock(ctx, ids)
	if err != nil {
		return nil, err
	}
	for len(waiting) > 0 {
		served, last, err := s.allocate(ctx, waiting)
		if err != nil {
			return nil, fmt.Errorf("allocate stock: %w", err)
		}
		s.ring(served...) // there may be none: orders of the queue that were canceled or held are passed over
		maps.DeleteFunc(waiting, func(_ uuid.UUID, seq int64) bool { return seq <= last })
	}
	return make([]group.Outcome[struct{}], len(ids)), nil
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
// held them when it came. It returns the orders it served, and up to which order of the queue stock has been offered by now.
func (s *Store) allocate(ctx context.Context, waiting map[uuid.UUID]int64) (served []*millrace.Order, last int64, err error) {
	var turn []question
	allocated := int64(math.MaxInt64) // out of turn, everybody has missed theirs
	if !s.config.OutOfTurn {
		turn = append(turn, func(c dbsqlc.DBTX) (err error) {
			allocated, err = dbsqlc.New(c).LockAllocation(ctx)
			return err
		})
	}
	err = s.inTrips(ctx, turn, func(c sender) (*changeSet, error) {
		late := []uuid.UUID{}
		for id, seq := range waiting {
			if seq <= allocated {
				late = append(late, id)
			}
		}
		queue, err := lockQueue(ctx, c, late, allocated, s.config.MaxGroup)
		if err != nil {
			return nil, err
		}
		shelf, err := lockShelf(ctx, c, queue)
		if err != nil {
			return nil, err
		}
		var w changeSet
		at := s.now()
		last = allocated
		for _, o := range queue {
			last = max(last, o.ReceivedSeq)
			o.ReserveStock(shelf, s.config.Policy, at, "job:"+millrace.ReserveStockJob{}.Kind())
			if change := o.TakeChanges(); !change.Empty() {
				w.add(o, change)
				served = append(served, o)
			}
		}
		if last > allocated {
			w.allocated = last
		}
		return &w, nil
	})
	return served, last, err
}

// lockQueue locks and loads the orders to serve, in the order in which they were acknowledged.
func lockQueue(ctx context.Context, c sender, late []uuid.UUID, allocated int64, limit int) ([]*millrace.Order, error) {
	var rows []dbsqlc.Order
	err := ask(ctx, c, nil, func(c dbsqlc.DBTX) (err error) {
		rows, err = dbsqlc.New(c).LockQueuedOrders(ctx, dbsqlc.LockQueuedOrdersParams{Late: late, Allocated: allocated, PageSize: int32(limit)})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lock the queue: %w", err)
	}
	orders := make(map[uuid.UUID]*millrace.Order, len(rows))
	queue := make([]*millrace.Order, 0, len(rows))
	ids := make([]uuid.UUID, 0, len(rows))
	for _, r := range rows {
		o, err := orderOf(r, 0)
		if err != nil {
			return nil, err
		}
		orders[o.ID] = o
		queue = append(queue, o)
		ids = append(ids, o.ID)
	}
	slices.SortFunc(queue, func(a, b *millrace.Order) int { return cmp.Compare(a.ReceivedSeq, b.ReceivedSeq) })
	// A released order may hold an open payment from before; an order in the queue for the first time has nothing but its lines.
	p := withLines
	if len(late) > 0 {
		p |= withTransactions
	}
	if len(ids) == 0 {
		return nil, nil
	}
	return queue, ask(ctx, c, nil, func(c dbsqlc.DBTX) error {
		if _, collecting := c.(*asking); collecting {
			return collectParts(ctx, c, ids, p)
		}
		return loadParts(ctx, dbsqlc.New(c), orders, p)
	})
}

// lockShelf locks the inventory levels of all that the queue asks for.
func lockShelf(ctx context.Context, c sender, queue []*millrace.Order) (*millrace.Shelf, error) {
	wanted := make(map[string]bool)
	for _, o := range queue {
		for _, l := range o.Lines {
			wanted[l.SKU] = true
		}
	}
	if len(wanted) == 0 {
		return millrace.NewShelf(nil), nil
	}
	var rows []dbsqlc.InventoryLevel
	err := ask(ctx, c, nil, func(c dbsqlc.DBTX) (err error) {
		rows, err = dbsqlc.New(c).LockLevels(ctx, slices.Collect(maps.Keys(wanted)))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("lock inventory levels: %w", err)
	}
	levels := make([]millrace.InventoryLevel, len(rows))
	for i, r := range rows {
		levels[i] = millrace.InventoryLevel{SKU: r.Sku, Location: r.Location, OnHand: r.OnHand, Reserved: r.Reserved}
	}
	return millrace.NewShelf(levels), nil
}
