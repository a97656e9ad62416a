package db

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"millrace"
	"millrace/db/dbsqlc"
)

// MaxOnHand bounds the stock of a SKU at a location.
const MaxOnHand = int64(1_000_000_000)

// ListProducts lists products by SKU, from the one after after, at most limit of them; more reports whether there are others.
func (s *Store) ListProducts(ctx context.Context, includeInactive bool, after string, limit int) (products []millrace.Product, more bool, err error) {
	rows, err := s.queries().ListProducts(ctx, dbsqlc.ListProductsParams{After: after, IncludeInactive: includeInactive, PageSize: int32(limit) + 1})
	if err != nil {
		return nil, false, translate(fmt.Errorf("list products: %w", err))
	}
	if more = len(rows) > limit; more {
		rows = rows[:limit]
	}
	products = make([]millrace.Product, len(rows))
	for i, r := range rows {
		products[i] = millrace.Product{SKU: r.Sku, Name: r.Name, Description: r.Description, PriceMinor: r.PriceMinor, Currency: r.Currency,
			Active: r.Active, Available: r.Available, UpdatedAt: localTime(r.UpdatedAt)}
	}
	return products, more, nil
}

// PutProduct makes a product or changes it, and reports which. Orders placed after it returns are priced by it.
func (s *Store) PutProduct(ctx context.Context, p millrace.Product) (created bool, err error) {
	if err := p.Validate(); err != nil {
		return false, err
	}
	created, err = s.queries().PutProduct(ctx, dbsqlc.PutProductParams{Sku: p.SKU, Name: p.Name, Description: p.Description,
		PriceMinor: p.PriceMinor, Currency: p.Currency, Active: p.Active, UpdatedAt: s.now()})
	return created, translate(err)
}

// SetStock sets what is on hand of a SKU at a location, and notes the difference. Codes: not_found for an unknown SKU, conflict where
// orders hold more than that, invalid for a negative or huge quantity.
func (s *Store) SetStock(ctx context.Context, sku, location string, onHand int64, actor string) (millrace.InventoryLevel, error) {
	if onHand < 0 || onHand > MaxOnHand {
		return millrace.InventoryLevel{}, millrace.InvalidField("on_hand", "What is on hand is a whole number from 0 to %d.", MaxOnHand)
	}
	if err := millrace.ValidateText("location", location, true); err != nil {
		return millrace.InventoryLevel{}, err
	}
	var level millrace.InventoryLevel
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		q := dbsqlc.New(tx)
		exists, err := q.ProductExists(ctx, sku)
		if err != nil {
			return err
		}
		if !exists {
			return millrace.Errorf(millrace.CodeNotFound, "There is no product %s: make it first with POST /v1/products.", sku)
		}
		if err := q.CreateLevel(ctx, dbsqlc.CreateLevelParams{Sku: sku, Location: location}); err != nil {
			return err
		}
		if err := q.LockLevel(ctx, dbsqlc.LockLevelParams{Sku: sku, Location: location}); err != nil {
			return err
		}
		before, err := q.StockAt(ctx, dbsqlc.StockAtParams{Sku: sku, Location: location})
		if err != nil {
			return err
		}
		if onHand < before.Reserved {
			return millrace.Errorf(millrace.CodeConflict, "Orders hold %d of %s at %s: no less can be on hand.", before.Reserved, sku, location)
		}
		level = millrace.InventoryLevel{SKU: sku, Location: location, OnHand: onHand, Reserved: before.Reserved}
		if onHand == before.OnHand {
			return nil
		}
		if err := q.MoveOnHand(ctx, dbsqlc.MoveOnHandParams{Sku: sku, Location: location, Delta: onHand - before.OnHand}); err != nil {
			return err
		}
		return q.InsertAdjustment(ctx, dbsqlc.InsertAdjustmentParams{Sku: sku, Location: location, Delta: onHand - before.OnHand, Actor: actor, At: s.now()})
	})
	return level, translate(err)
}

// bookedAtOnce is of how many transactions BookShipped takes off what they shipped in one of its own: few enough that orders which want the
// same products wait a moment only.
const bookedAtOnce = 200

// BookShipped takes what has shipped off the levels of stock. A step that ships only notes that, so that a level is written once for many
// orders and no order waits for it; whoever reads stock reads it less what is noted.
func (s *Store) BookShipped(ctx context.Context) error {
	for {
		booked, err := s.queries().BookShippedStock(ctx, bookedAtOnce)
		if err != nil {
			return translate(fmt.Errorf("book what has shipped: %w", err))
		}
		if booked < bookedAtOnce {
			return nil
		}
	}
}

// Shipped has a value when something shipped that is to be booked.
func (s *Store) Shipped() <-chan struct{} { return s.shipped }

// ListStock lists the levels of a SKU by location, or CodeNotFound for an unknown SKU.
func (s *Store) ListStock(ctx context.Context, sku string) ([]millrace.InventoryLevel, error) {
	q := s.queries()
	if exists, err := q.ProductExists(ctx, sku); err != nil {
		return nil, translate(err)
	} else if !exists {
		return nil, millrace.Errorf(millrace.CodeNotFound, "There is no product %s.", sku)
	}
	rows, err := q.Stock(ctx, sku)
	if err != nil {
		return nil, translate(err)
	}
	levels := make([]millrace.InventoryLevel, len(rows))
	for i, r := range rows {
		levels[i] = millrace.InventoryLevel{SKU: r.Sku, Location: r.Location, OnHand: r.OnHand, Reserved: r.Reserved}
	}
	return levels, nil
}
