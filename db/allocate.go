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

// turn is what an allocation works on: orders locked in their places, up to which place stock has been offered before, whether others may
// wait behind them, and what they ask for.
type turn struct {
	orders    []*millrace.Order // in the order in which they were acknowledged
	allocated int64
	more      bool
	shelf     *millrace.Shelf
	places    map[[2]string]string // of the levels on the shelf, see changeSet
}

// allocate serves, in one transaction, the next orders of the queue and those of ids that missed their turn because an operator held them
// when it came. It does nothing where none of ids waits any more. It returns the orders it served, and whether more may be left.
func (s *Store) allocate(ctx context.Context, ids []uuid.UUID) (served []*millrace.Order, more bool, err error) {
	first, takeTurn := s.lockTurn(ctx, ids)
	err = s.inTrips(ctx, first, func(c sender) (*changeSet, error) {
		t, err := takeTurn(c)
		if err != nil {
			return nil, err
		}
		more = t.more
		w := changeSet{whole: true, places: t.places} // an order that waits for stock has nothing but its lines
		at := s.now()
		last := t.allocated
		for _, o := range t.orders {
			last = max(last, o.ReceivedSeq)
			o.ReserveStock(t.shelf, s.config.Policy, at, "job:"+millrace.ReserveStockJob{}.Kind())
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

// lockTurn asks for the allocation lock, for the orders to serve, and for what they ask for and the stock of it, and says what came of it
// once that was answered.
func (s *Store) lockTurn(ctx context.Context, ids []uuid.UUID) ([]question, func(sender) (turn, error)) {
	var allocated int64
	var orders []dbsqlc.Order
	var lines []dbsqlc.OrderLine
	var levels []dbsqlc.LockQueuedLevelsRow
	p := dbsqlc.LockQueuedOrdersParams{Ids: ids, PageSize: int32(s.config.MaxGroup)}
	questions := []question{func(c dbsqlc.DBTX) (err error) {
		allocated, err = dbsqlc.New(c).LockAllocation(ctx, ids)
		if errors.Is(err, pgx.ErrNoRows) {
			allocated, err = nobodyWaits, nil
		}
		return err
	}, func(c dbsqlc.DBTX) (err error) {
		orders, err = dbsqlc.New(c).LockQueuedOrders(ctx, p)
		return err
	}, func(c dbsqlc.DBTX) (err error) {
		lines, err = dbsqlc.New(c).QueuedLines(ctx, dbsqlc.QueuedLinesParams(p))
		return err
	}, func(c dbsqlc.DBTX) (err error) {
		levels, err = dbsqlc.New(c).LockQueuedLevels(ctx, dbsqlc.LockQueuedLevelsParams(p))
		return err
	}}
	if s.config.OutOfTurn { // everybody has missed theirs
		allocated, p.OutOfTurn = math.MaxInt64, math.MaxInt64
		questions = questions[1:]
	}
	return questions, func(c sender) (turn, error) {
		if allocated == nobodyWaits {
			return turn{}, nil
		}
		t := turn{allocated: allocated}
		queued := 0
		for _, r := range orders {
			o, err := orderOf(r, withAddress)
			if err != nil {
				return turn{}, err
			}
			t.orders = append(t.orders, o)
			if o.ReceivedSeq > allocated {
				queued++
			}
		}
		t.more = queued == s.config.MaxGroup
		slices.SortFunc(t.orders, func(a, b *millrace.Order) int { return cmp.Compare(a.ReceivedSeq, b.ReceivedSeq) })
		err := t.fill(ctx, c, lines, levels)
		return t, err
	}
}

// nobodyWaits stands for the place of a turn that was not taken.
const nobodyWaits = -1

// fill gives the orders their lines, and the turn the shelf. The lines and the levels were asked for before it was known whose: where
// whoever made the turn worth taking does not wait any more by the time that these questions come up, the answers are empty, and both
// are asked for again.
func (t *turn) fill(ctx context.Context, c sender, lines []dbsqlc.OrderLine, levels []dbsqlc.LockQueuedLevelsRow) error {
	orders := make(map[uuid.UUID]*millrace.Order, len(t.orders))
	ids := make([]uuid.UUID, len(t.orders))
	for i, o := range t.orders {
		orders[o.ID], ids[i] = o, o.ID
	}
	addLines(orders, lines)
	unread := func(o *millrace.Order) bool { return len(o.Lines) == 0 }
	if len(orders) > 0 && (len(levels) == 0 || slices.ContainsFunc(t.orders, unread)) {
		for _, o := range t.orders {
			o.Lines = nil
		}
		err := ask(ctx, c, nil, func(c dbsqlc.DBTX) error {
			rows, err := dbsqlc.New(c).Lines(ctx, ids)
			addLines(orders, rows)
			return err
		}, func(c dbsqlc.DBTX) error {
			rows, err := dbsqlc.New(c).LockLevels(ctx, ids)
			levels = levels[:0]
			for _, r := range rows {
				levels = append(levels, dbsqlc.LockQueuedLevelsRow(r))
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("load what the queue asks for: %w", err)
		}
	}
	stock := make([]millrace.InventoryLevel, len(levels))
	t.places = make(map[[2]string]string, len(levels))
	for i, r := range levels {
		t.places[[2]string{r.Sku, r.Location}] = r.Place
		stock[i] = millrace.InventoryLevel{SKU: r.Sku, Location: r.Location, OnHand: r.OnHand, Reserved: r.Reserved}
	}
	t.shelf = millrace.NewShelf(stock)
	return nil
}
