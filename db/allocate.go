package db

import (
	"cmp"
	"context"
	"errors"
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
	for more := true; more; {
		var served []*millrace.Order
		var err error
		if served, more, err = s.allocate(ctx, ids); err != nil {
			return nil, fmt.Errorf("allocate stock: %w", err)
		}
		s.ring(served...) // there may be none: orders of the queue that were canceled or held are passed over
	}
	return make([]group.Outcome[struct{}], len(ids)), nil
}

// turn is what an allocation works on: orders locked in their places, up to which place stock has been offered before, and whether others
// may wait behind them.
type turn struct {
	orders    []*millrace.Order // in the order in which they were acknowledged
	allocated int64
	more      bool
}

// late reports whether there are orders that missed their turn.
func (t turn) late() bool { return len(t.orders) > 0 && t.orders[0].ReceivedSeq <= t.allocated }

// allocate serves, in one transaction, the next orders of the queue and those of ids that missed their turn because an operator held them
// when it came. It does nothing where none of ids waits any more. It returns the orders it served, and whether more may be left.
func (s *Store) allocate(ctx context.Context, ids []uuid.UUID) (served []*millrace.Order, more bool, err error) {
	first, takeTurn := s.lockTurn(ctx, ids)
	err = s.inTrips(ctx, first, func(c sender) (*changeSet, error) {
		t, err := takeTurn()
		if err != nil {
			return nil, err
		}
		shelf, err := s.lockShelf(ctx, c, t)
		if err != nil {
			return nil, err
		}
		more = t.more
		w := changeSet{whole: len(t.orders) > 0 && !t.late()} // before its turn an order has nothing but its lines
		at := s.now()
		last := t.allocated
		for _, o := range t.orders {
			last = max(last, o.ReceivedSeq)
			o.ReserveStock(shelf, s.config.Policy, at, "job:"+millrace.ReserveStockJob{}.Kind())
			if change := o.TakeChanges(); !change.Empty() {
				w.add(o, change)
				served = append(served, o)
			}
		}
		if last > t.allocated {
			w.allocated = last
		}
		return &w, nil
	})
	return served, more, err
}

// lockTurn asks for the allocation lock and for the orders to serve, and says what came of it once that was answered.
func (s *Store) lockTurn(ctx context.Context, ids []uuid.UUID) ([]question, func() (turn, error)) {
	var t turn
	var rows []dbsqlc.Order
	p := dbsqlc.LockQueuedOrdersParams{Ids: ids, PageSize: int32(s.config.MaxGroup)}
	lock := func(c dbsqlc.DBTX) (err error) {
		t.allocated, err = dbsqlc.New(c).LockAllocation(ctx, ids)
		if errors.Is(err, pgx.ErrNoRows) {
			t.allocated, err = nobodyWaits, nil
		}
		return err
	}
	orders := func(c dbsqlc.DBTX) (err error) {
		rows, err = dbsqlc.New(c).LockQueuedOrders(ctx, p)
		return err
	}
	questions := []question{lock, orders}
	if s.config.OutOfTurn { // everybody has missed theirs
		t.allocated, p.OutOfTurn = math.MaxInt64, math.MaxInt64
		questions = questions[1:]
	}
	return questions, func() (turn, error) {
		if t.allocated == nobodyWaits {
			return turn{}, nil
		}
		queued := 0
		for _, r := range rows {
			o, err := orderOf(r, withAddress)
			if err != nil {
				return turn{}, err
			}
			t.orders = append(t.orders, o)
			if o.ReceivedSeq > t.allocated {
				queued++
			}
		}
		t.more = queued == s.config.MaxGroup
		slices.SortFunc(t.orders, func(a, b *millrace.Order) int { return cmp.Compare(a.ReceivedSeq, b.ReceivedSeq) })
		return t, nil
	}
}

// nobodyWaits stands for the place of a turn that was not taken.
const nobodyWaits = -1

// lockShelf loads what the orders of a turn ask for and locks the inventory levels of all of it.
func (s *Store) lockShelf(ctx context.Context, c sender, t turn) (*millrace.Shelf, error) {
	if len(t.orders) == 0 {
		return millrace.NewShelf(nil), nil
	}
	p := withLines
	if t.late() { // a released order may hold an open payment from before
		p |= withTransactions
	}
	orders := make(map[uuid.UUID]*millrace.Order, len(t.orders))
	ids := make([]uuid.UUID, len(t.orders))
	for i, o := range t.orders {
		orders[o.ID], ids[i] = o, o.ID
	}
	var rows []dbsqlc.InventoryLevel
	err := ask(ctx, c, nil, func(c dbsqlc.DBTX) error {
		if _, collecting := c.(*asking); collecting {
			return collectParts(ctx, c, ids, p)
		}
		return loadParts(ctx, dbsqlc.New(c), orders, p)
	}, func(c dbsqlc.DBTX) (err error) {
		rows, err = dbsqlc.New(c).LockLevels(ctx, ids)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load what the queue asks for: %w", err)
	}
	levels := make([]millrace.InventoryLevel, len(rows))
	for i, r := range rows {
		levels[i] = millrace.InventoryLevel{SKU: r.Sku, Location: r.Location, OnHand: r.OnHand, Reserved: r.Reserved}
	}
	return millrace.NewShelf(levels), nil
}
