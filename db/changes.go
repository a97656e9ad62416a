package db

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"millrace"
	"millrace/db/dbsqlc"
)

// changeSet gathers the changes of many orders as columns, one statement for each table.
type changeSet struct {
	orders       map[uuid.UUID]*millrace.Order // as they stand last
	noticed      map[uuid.UUID]*millrace.Order // those of them in which something changed that others can see
	events       dbsqlc.InsertEventsParams
	transactions dbsqlc.UpsertTransactionsParams
	reservations dbsqlc.UpsertReservationsParams
	shipments    dbsqlc.UpsertShipmentsParams
	stock        map[[2]string]millrace.StockMove // by SKU and location: a statement must not touch a row twice
	places       map[[2]string]string             // where the transaction has locked them all; nil: it has not
	jobs         []millrace.Job
	allocated    int64 // up to which order stock has been offered; 0 where that did not change
	whole        bool  // the orders have all parts that jobs need

	// Where the last row of a transaction, a reservation or a shipment stands, so that a second change of it in the same set
	// replaces the first.
	transactionAt map[transactionKey]int
	reservationAt map[reservationKey]int
	shipmentAt    map[uuid.UUID]int
}

type transactionKey struct {
	order uuid.UUID
	n     int32
}

type reservationKey struct {
	order         uuid.UUID
	sku, location string
}

// add adds a change of an order, which is then at its next revision, one for all changes of the set.
func (w *changeSet) add(o *millrace.Order, c millrace.Changes) {
	if w.orders == nil {
		w.orders = make(map[uuid.UUID]*millrace.Order)
		w.noticed = make(map[uuid.UUID]*millrace.Order)
		w.stock = make(map[[2]string]millrace.StockMove)
		w.transactionAt = make(map[transactionKey]int)
		w.reservationAt = make(map[reservationKey]int)
		w.shipmentAt = make(map[uuid.UUID]int)
	}
	if w.orders[o.ID] == nil {
		o.Revision++
	}
	w.orders[o.ID] = o
	if len(c.Events) > 0 {
		w.noticed[o.ID] = o
	}
	for _, e := range c.Events {
		w.addEvent(e)
	}
	for _, t := range c.Transactions {
		w.addTransaction(o.ID, t)
	}
	for _, r := range c.Reservations {
		w.addReservation(o.ID, r)
	}
	if c.Shipment != nil {
		w.addShipment(o.ID, c.Shipment)
	}
	for _, m := range c.Stock {
		k := [2]string{m.SKU, m.Location}
		sum := w.stock[k]
		w.stock[k] = millrace.StockMove{SKU: m.SKU, Location: m.Location, Reserved: sum.Reserved + m.Reserved, Shipped: sum.Shipped + m.Shipped}
	}
	w.jobs = append(w.jobs, c.Jobs...)
}

func (w *changeSet) addEvent(e millrace.Event) {
	p := &w.events
	p.OrderIds = append(p.OrderIds, e.OrderID)
	p.Versions = append(p.Versions, e.Version)
	p.Types = append(p.Types, string(e.Type))
	p.Statuses = append(p.Statuses, string(e.Status))
	p.PaymentStatuses = append(p.PaymentStatuses, string(e.PaymentStatus))
	p.FulfillmentStatuses = append(p.FulfillmentStatuses, string(e.FulfillmentStatus))
	p.Datas = append(p.Datas, e.Data)
	p.Actors = append(p.Actors, e.Actor)
	p.Ats = append(p.Ats, e.At)
	p.CustomerIds = append(p.CustomerIds, e.CustomerID)
}

func (w *changeSet) addTransaction(order uuid.UUID, t millrace.PaymentTransaction) {
	var expires time.Time // zero stands for none, since an array of times has no empty place
	if t.ExpiresAt != nil {
		expires = *t.ExpiresAt
	}
	p := &w.transactions
	if i, ok := w.transactionAt[transactionKey{order, t.N}]; ok {
		p.States[i], p.Gateways[i], p.TransactionReferences[i], p.Codes[i], p.ExpiresAts[i] = string(t.State), t.Gateway, t.Reference, t.Code, expires
		return
	}
	w.transactionAt[transactionKey{order, t.N}] = len(p.OrderIds)
	p.OrderIds = append(p.OrderIds, order)
	p.Ns = append(p.Ns, t.N)
	p.Kinds = append(p.Kinds, string(t.Kind))
	p.States = append(p.States, string(t.State))
	p.Amounts = append(p.Amounts, t.AmountMinor)
	p.WithCaptures = append(p.WithCaptures, t.WithCapture)
	p.Keys = append(p.Keys, t.Key)
	p.Gateways = append(p.Gateways, t.Gateway)
	p.TransactionReferences = append(p.TransactionReferences, t.Reference)
	p.Codes = append(p.Codes, t.Code)
	p.RequestedAts = append(p.RequestedAts, t.RequestedAt)
	p.ExpiresAts = append(p.ExpiresAts, expires)
}

func (w *changeSet) addReservation(order uuid.UUID, r millrace.Reservation) {
	p := &w.reservations
	k := reservationKey{order, r.SKU, r.Location}
	if i, ok := w.reservationAt[k]; ok {
		p.States[i] = string(r.State)
		return
	}
	w.reservationAt[k] = len(p.OrderIds)
	p.OrderIds = append(p.OrderIds, order)
	p.Skus = append(p.Skus, r.SKU)
	p.Locations = append(p.Locations, r.Location)
	p.Quantities = append(p.Quantities, r.Quantity)
	p.States = append(p.States, string(r.State))
}

func (w *changeSet) addShipment(order uuid.UUID, sh *millrace.Shipment) {
	p := &w.shipments
	if i, ok := w.shipmentAt[order]; ok {
		p.States[i], p.Carriers[i], p.ShipmentReferences[i], p.Services[i] = string(sh.State), sh.Carrier, sh.Reference, sh.Service
		p.TrackingNumbers[i], p.LabelUrls[i] = sh.TrackingNumber, sh.LabelURL
		return
	}
	w.shipmentAt[order] = len(p.OrderIds)
	p.OrderIds = append(p.OrderIds, order)
	p.Ids = append(p.Ids, sh.ID)
	p.States = append(p.States, string(sh.State))
	p.Carriers = append(p.Carriers, sh.Carrier)
	p.ShipmentReferences = append(p.ShipmentReferences, sh.Reference)
	p.Services = append(p.Services, sh.Service)
	p.TrackingNumbers = append(p.TrackingNumbers, sh.TrackingNumber)
	p.LabelUrls = append(p.LabelUrls, sh.LabelURL)
}

// ids are the orders in which something changed that others can see.
func (w *changeSet) ids() []uuid.UUID {
	ids := make([]uuid.UUID, 0, len(w.noticed))
	for id := range w.noticed {
		ids = append(ids, id)
	}
	return ids
}

// collect turns the change set into statements.
func (w *changeSet) collect(ctx context.Context, q *dbsqlc.Queries) error {
	var err error
	do := func(rows int, f func() error) {
		if rows > 0 && err == nil {
			err = f()
		}
	}
	updates := headers(w.orders)
	reserved, shipped := w.stockMoves()
	do(len(updates.Ids), func() error { return q.UpdateOrders(ctx, updates) })
	do(len(w.events.OrderIds), func() error { return q.InsertEvents(ctx, w.events) })
	do(len(w.transactions.OrderIds), func() error { return q.UpsertTransactions(ctx, w.transactions) })
	do(len(w.reservations.OrderIds), func() error { return q.UpsertReservations(ctx, w.reservations) })
	do(len(w.shipments.OrderIds), func() error { return q.UpsertShipments(ctx, w.shipments) })
	do(len(reserved.Quantities), func() error {
		if w.places == nil {
			return q.ReserveStock(ctx, reserved.ReserveStockParams)
		}
		return q.ReserveLockedStock(ctx, dbsqlc.ReserveLockedStockParams{Places: reserved.places, Quantities: reserved.Quantities})
	})
	do(len(shipped.Quantities), func() error { return q.InsertShippedStock(ctx, shipped) })
	do(int(min(w.allocated, 1)), func() error { return q.SetAllocated(ctx, w.allocated) })
	return err
}

// headers is what UpdateOrders is given, in the order of the ids.
func headers(orders map[uuid.UUID]*millrace.Order) dbsqlc.UpdateOrdersParams {
	sorted := slices.SortedFunc(maps.Values(orders), func(a, b *millrace.Order) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	var p dbsqlc.UpdateOrdersParams
	for _, o := range sorted {
		p.Ids = append(p.Ids, o.ID)
		p.Statuses = append(p.Statuses, string(o.Status))
		p.PaymentStatuses = append(p.PaymentStatuses, string(o.PaymentStatus))
		p.FulfillmentStatuses = append(p.FulfillmentStatuses, string(o.FulfillmentStatus))
		p.Versions = append(p.Versions, o.Version)
		p.HoldReasons = append(p.HoldReasons, o.HoldReason)
		p.UpdatedAts = append(p.UpdatedAts, o.UpdatedAt)
		p.Revisions = append(p.Revisions, o.Revision)
	}
	return p
}

// reservedStock is what is reserved more, or less, of levels, with the place of each if these are known.
type reservedStock struct {
	dbsqlc.ReserveStockParams
	places []string
}

// stockMoves are the moves of stock as columns.
func (w *changeSet) stockMoves() (reserved reservedStock, shipped dbsqlc.InsertShippedStockParams) {
	for level, m := range w.stock {
		if m.Reserved != 0 {
			reserved.Skus = append(reserved.Skus, m.SKU)
			reserved.Locations = append(reserved.Locations, m.Location)
			reserved.Quantities = append(reserved.Quantities, m.Reserved)
			reserved.places = append(reserved.places, w.places[level])
		}
		if m.Shipped != 0 {
			shipped.Skus = append(shipped.Skus, m.SKU)
			shipped.Locations = append(shipped.Locations, m.Location)
			shipped.Quantities = append(shipped.Quantities, m.Shipped)
		}
	}
	return reserved, shipped
}

// ships reports whether stock leaves the house.
func (w *changeSet) ships() bool {
	for _, m := range w.stock {
		if m.Shipped != 0 {
			return true
		}
	}
	return false
}

// addressJSON is how an address is stored; nil for none.
func addressJSON(a *millrace.Address) (json.RawMessage, error) {
	if a == nil {
		return nil, nil
	}
	return json.Marshal(a)
}

// parseAddress reads a stored address.
func parseAddress(body json.RawMessage) (*millrace.Address, error) {
	if body == nil {
		return nil, nil
	}
	var a millrace.Address
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, err
	}
	return &a, nil
}

// localTime keeps a time that came from Postgres in UTC.
func localTime(t time.Time) time.Time { return t.UTC() }
