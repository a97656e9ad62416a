package db

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"millrace"
	"millrace/db/dbsqlc"
	"millrace/db/group"
)

// FindOrder is an order with everything that belongs to it, or CodeNotFound.
func (s *Store) FindOrder(ctx context.Context, id uuid.UUID) (*millrace.Order, error) {
	orders, err := s.read(ctx, []uuid.UUID{id}, everything)
	if err != nil {
		return nil, translate(err)
	}
	if o := orders[id]; o != nil {
		return o, nil
	}
	return nil, errNoOrder()
}

// read reads orders by id with the parts asked for, in one round trip; those that do not exist are missing from the map.
func (s *Store) read(ctx context.Context, ids []uuid.UUID, p parts) (orders map[uuid.UUID]*millrace.Order, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	err = ask(ctx, s.pool, nil, load(ctx, ids, p, forReading, &orders))
	return orders, err
}

// WorkOrder is an order with what a job needs of it (all but its lines), or CodeNotFound. Jobs that ask at the same time share their
// queries, and the first after the commit that handed its job to a worker gets the order from that.
func (s *Store) WorkOrder(ctx context.Context, id uuid.UUID) (*millrace.Order, error) {
	if o := s.justWritten.take(id); o != nil {
		return o, nil
	}
	o, err := s.reads.Do(ctx, id)
	return o, translate(err)
}

func (s *Store) flushReads(ctx context.Context, ids []uuid.UUID) ([]group.Outcome[*millrace.Order], error) {
	orders, err := s.read(ctx, ids, whatJobsNeed)
	if err != nil {
		return nil, err
	}
	outcomes := make([]group.Outcome[*millrace.Order], len(ids))
	for i, id := range ids {
		if o := orders[id]; o != nil {
			outcomes[i].Answer = o.Clone() // callers of the same order must not share it
		} else {
			outcomes[i].Err = errNoOrder()
		}
	}
	return outcomes, nil
}

// OrderFilter selects orders. Zero fields select all.
type OrderFilter struct {
	CustomerID uuid.UUID
	Status     millrace.OrderStatus
	SKU        string
	From, To   time.Time // placed at or after From, before To
	Before     uuid.UUID // Next of the page before this one
	Limit      int
	Scan       int // orders to look at for one page at most (default 10,000, or 1,000 that lie apart)
}

// How many orders a page looks at: neighbours take a few milliseconds; of those of a customer or of a status each may have to be read
// from a place of its own.
const (
	scanNeighbours = 10_000
	scanScattered  = 1000
)

// OrderPage is one page of a list of orders, newest first.
type OrderPage struct {
	Orders []*millrace.Order
	Next   uuid.UUID // the Before of the next page, uuid.Nil after the last
}

// PageOrders lists orders, newest first, with their lines, in a time that does not grow with what is stored. A page may therefore be
// short, even empty, before the last: where none of the next Scan orders fit, Next says where to go on. Orders of a rare status are
// never looked for in vain, as they have an index.
func (s *Store) PageOrders(ctx context.Context, f OrderFilter) (OrderPage, error) {
	if f.Scan == 0 {
		f.Scan = scanScattered
		if f.CustomerID == uuid.Nil && !rare(f.Status) {
			f.Scan = scanNeighbours
		}
	}
	candidates, err := s.candidates(ctx, f)
	if err != nil {
		return OrderPage{}, translate(fmt.Errorf("list orders: %w", err))
	}
	var page OrderPage
	var ids []uuid.UUID
	for _, c := range candidates {
		if c.Fits && len(ids) == f.Limit {
			page.Next = ids[len(ids)-1]
			break
		}
		if c.Fits {
			ids = append(ids, c.ID)
		}
		if c.Place == int64(f.Scan) {
			page.Next = c.ID
		}
	}
	orders, err := s.read(ctx, ids, withAddress|withLines)
	if err != nil {
		return OrderPage{}, translate(err)
	}
	for _, id := range ids {
		if o := orders[id]; f.Status == "" || o.Status == f.Status { // else it moved on since it was found
			page.Orders = append(page.Orders, o)
		}
	}
	return page, nil
}

// candidates walks the index that finds the fewest orders which do not fit.
func (s *Store) candidates(ctx context.Context, f OrderFilter) ([]dbsqlc.ListOrdersRow, error) {
	p := dbsqlc.ListOrdersParams{Status: string(f.Status), Sku: f.SKU, Before: uuid.Max, Scan: int32(f.Scan), PageSize: int32(f.Limit) + 1}
	if !f.To.IsZero() {
		p.Before = firstID(f.To)
	}
	if f.Before != uuid.Nil && string(f.Before[:]) < string(p.Before[:]) {
		p.Before = f.Before
	}
	if !f.From.IsZero() {
		p.NotBefore = firstID(f.From)
	}
	var found []dbsqlc.ListOrdersRow
	switch q := s.queries(); {
	case f.CustomerID != uuid.Nil:
		rows, err := q.ListCustomersOrders(ctx, dbsqlc.ListCustomersOrdersParams{CustomerID: f.CustomerID, Status: p.Status, Sku: p.Sku,
			Before: p.Before, NotBefore: p.NotBefore, Scan: p.Scan, PageSize: p.PageSize})
		for _, r := range rows {
			found = append(found, dbsqlc.ListOrdersRow(r))
		}
		return found, err
	case rare(f.Status):
		rows, err := q.ListRareOrders(ctx, dbsqlc.ListRareOrdersParams{Status: p.Status, Sku: p.Sku, Before: p.Before,
			NotBefore: p.NotBefore, Scan: p.Scan, PageSize: p.PageSize})
		for _, r := range rows {
			found = append(found, dbsqlc.ListOrdersRow(r))
		}
		return found, err
	default:
		return q.ListOrders(ctx, p)
	}
}

// rare reports whether orders of a status are indexed by it, as the column rare_status has it.
func rare(s millrace.OrderStatus) bool {
	return s != "" && s != millrace.OrderPending && s != millrace.OrderProcessing && s != millrace.OrderCompleted
}

// firstID is the smallest UUIDv7 of a millisecond: ids of orders placed before it are smaller.
func firstID(t time.Time) uuid.UUID {
	var id uuid.UUID
	ms := max(t.UnixMilli(), 0)
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	return id
}

// CancelOrder ends an order before it ships: stock goes back, money is voided or refunded by a job. Canceling twice is once; an order
// that was shipped or has ended otherwise is CodeConflict.
func (s *Store) CancelOrder(ctx context.Context, id uuid.UUID, reason, actor string) (*millrace.Order, error) {
	return s.apply(ctx, id, everything, func(o *millrace.Order) error { return o.Cancel(reason, s.now(), actor) })
}

// HoldOrder stops an order until an operator releases or cancels it; CodeConflict for one that has ended.
func (s *Store) HoldOrder(ctx context.Context, id uuid.UUID, reason, actor string) (*millrace.Order, error) {
	return s.apply(ctx, id, 0, func(o *millrace.Order) error { return o.Hold(reason, s.now(), actor) })
}

// ReleaseOrder lets a held order go on; CodeConflict for one that has ended.
func (s *Store) ReleaseOrder(ctx context.Context, id uuid.UUID, actor string) (*millrace.Order, error) {
	return s.apply(ctx, id, everything, func(o *millrace.Order) error { return o.Release(s.now(), actor) })
}

// ResumeOrder makes sure that a job carries an order on; CodeConflict for one that has ended.
func (s *Store) ResumeOrder(ctx context.Context, id uuid.UUID, actor string) (*millrace.Order, error) {
	return s.apply(ctx, id, everything, func(o *millrace.Order) error { return o.Resume(s.now(), actor) })
}

// RefundOrder asks for amount minor units to be sent back, once for each key; the rest of what was captured if amount is 0.
// CodeConflict where less is left.
func (s *Store) RefundOrder(ctx context.Context, id uuid.UUID, amount int64, key, actor string) (*millrace.Order, error) {
	return s.apply(ctx, id, withTransactions, func(o *millrace.Order) error { return o.Refund(amount, key, s.now(), actor) })
}

// Jobs give the next commands the order as they know it: as WorkOrder or one of these commands returned it.

// SettlePayment records what a gateway said about an order's nth payment transaction, and its consequences.
func (s *Store) SettlePayment(ctx context.Context, o *millrace.Order, n int32, r millrace.PaymentResult, actor string) (*millrace.Order, error) {
	return s.applyTo(ctx, o, func(o *millrace.Order) error { return o.SettlePayment(n, r, s.config.Policy, s.now(), actor) })
}

// ExpireOrder ends an order whose buyer did not act in time; before that time it does nothing.
func (s *Store) ExpireOrder(ctx context.Context, o *millrace.Order, actor string) (*millrace.Order, error) {
	return s.applyTo(ctx, o, func(o *millrace.Order) error { return o.Expire(s.now(), actor) })
}

// SettleShipment records what became of an order's label, and its consequences.
func (s *Store) SettleShipment(ctx context.Context, o *millrace.Order, r millrace.LabelResult, carrier, actor string) (*millrace.Order, error) {
	return s.applyTo(ctx, o, func(o *millrace.Order) error { return o.SettleShipment(r, carrier, s.now(), actor) })
}

// TrackShipment records where an order's parcel is, and its consequences.
func (s *Store) TrackShipment(ctx context.Context, o *millrace.Order, r millrace.TrackResult, actor string) (*millrace.Order, error) {
	return s.applyTo(ctx, o, func(o *millrace.Order) error { return o.TrackShipment(r, s.now(), actor) })
}

// ShipmentCanceled records that a carrier took the label of an order back that has ended.
func (s *Store) ShipmentCanceled(ctx context.Context, o *millrace.Order, actor string) (*millrace.Order, error) {
	return s.applyTo(ctx, o, func(o *millrace.Order) error { return o.ShipmentCanceled(s.now(), actor) })
}
