package db

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"millrace"
	"millrace/db/dbsqlc"
)

// parts says which of an order's parts to load besides its header.
type parts uint8

const (
	withLines parts = 1 << iota
	withTransactions
	withReservations
	withShipment
	withAddress
	everything = withAddress | withLines | withTransactions | withReservations | withShipment
)

// lockMode says whether orders are read to be changed.
type lockMode bool

const (
	forReading lockMode = false
	forUpdate  lockMode = true
)

// loadOrders reads orders by id, with the parts asked for; those that do not exist are missing from the map. Locked orders are read
// after the lock was had, so that the parts are as of then.
func loadOrders(ctx context.Context, c dbsqlc.DBTX, ids []uuid.UUID, p parts, lock lockMode) (map[uuid.UUID]*millrace.Order, error) {
	q := dbsqlc.New(c)
	read := q.Orders
	if lock == forUpdate {
		read = q.LockOrders
	}
	rows, err := read(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("load orders: %w", err)
	}
	orders := make(map[uuid.UUID]*millrace.Order, len(rows))
	for _, r := range rows {
		if orders[r.ID], err = orderOf(r, p); err != nil {
			return nil, err
		}
	}
	return orders, loadParts(ctx, q, orders, p)
}

// loadParts reads parts of orders that are loaded; those of others, which were asked for as well, are left out.
func loadParts(ctx context.Context, q *dbsqlc.Queries, orders map[uuid.UUID]*millrace.Order, p parts) error {
	ids := make([]uuid.UUID, 0, len(orders))
	for id := range orders {
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil
	}
	if p&withLines != 0 {
		rows, err := q.Lines(ctx, ids)
		if err != nil {
			return fmt.Errorf("load lines: %w", err)
		}
		addLines(orders, rows)
	}
	if p&withTransactions != 0 {
		rows, err := q.Transactions(ctx, ids)
		if err != nil {
			return fmt.Errorf("load payment transactions: %w", err)
		}
		for _, r := range rows {
			o := orders[r.OrderID]
			if o == nil {
				continue
			}
			o.Transactions = append(o.Transactions, millrace.PaymentTransaction{N: r.N, Kind: r.Kind, State: r.State, AmountMinor: r.AmountMinor,
				WithCapture: r.WithCapture, Key: r.Key, Gateway: r.Gateway, Reference: r.Reference, Code: r.Code,
				RequestedAt: localTime(r.RequestedAt), ExpiresAt: r.ExpiresAt})
		}
	}
	if p&withReservations != 0 {
		rows, err := q.Reservations(ctx, ids)
		if err != nil {
			return fmt.Errorf("load reservations: %w", err)
		}
		for _, r := range rows {
			if o := orders[r.OrderID]; o != nil {
				o.Reservations = append(o.Reservations, millrace.Reservation{SKU: r.Sku, Location: r.Location, Quantity: r.Quantity, State: r.State})
			}
		}
	}
	if p&withShipment != 0 {
		rows, err := q.Shipments(ctx, ids)
		if err != nil {
			return fmt.Errorf("load shipments: %w", err)
		}
		for _, r := range rows {
			if o := orders[r.OrderID]; o != nil {
				o.Shipment = &millrace.Shipment{ID: r.ID, State: r.State, Carrier: r.Carrier, Reference: r.Reference,
					Service: r.Service, TrackingNumber: r.TrackingNumber, LabelURL: r.LabelUrl}
			}
		}
	}
	return nil
}

func orderOf(r dbsqlc.Order, p parts) (*millrace.Order, error) {
	var shipTo *millrace.Address
	if p&withAddress != 0 {
		var err error
		if shipTo, err = parseAddress(r.ShipTo); err != nil {
			return nil, fmt.Errorf("read the address of order %s: %w", r.ID, err)
		}
	}
	return &millrace.Order{ID: r.ID, CustomerID: r.CustomerID, ReceivedSeq: r.ReceivedSeq, Status: r.Status, PaymentStatus: r.PaymentStatus,
		FulfillmentStatus: r.FulfillmentStatus, Version: r.Version, Currency: r.Currency, TotalMinor: r.TotalMinor,
		PaymentMethod: r.PaymentMethod, Email: r.Email, ShipTo: shipTo, HoldReason: r.HoldReason, PlacedAt: localTime(r.PlacedAt),
		UpdatedAt: localTime(r.UpdatedAt), Revision: r.Revision}, nil
}

// addLines gives orders their lines.
func addLines(orders map[uuid.UUID]*millrace.Order, rows []dbsqlc.OrderLine) {
	for _, r := range rows {
		if o := orders[r.OrderID]; o != nil {
			o.Lines = append(o.Lines, millrace.OrderLine{N: r.N, SKU: r.Sku, Name: r.Name, Quantity: r.Quantity,
				UnitPriceMinor: r.UnitPriceMinor, TotalMinor: r.TotalMinor})
		}
	}
}
