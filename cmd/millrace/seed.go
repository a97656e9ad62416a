package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"millrace"
	"millrace/db"
	"millrace/db/migrations"
)

type seedCmd struct{ databaseFlag }

func (c *seedCmd) Run(ctx context.Context, io stdio) error {
	pool, err := db.NewPool(ctx, c.DatabaseURL, 2)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrations.Check(ctx, pool); err != nil {
		return err
	}
	store, err := db.NewStore(db.Config{Pool: pool, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer store.Close()
	n, err := seed(ctx, store)
	if err != nil {
		return err
	}
	fmt.Fprintf(io.out, "%d products added; what was there stayed as it was.\n", n)
	return nil
}

// catalogue is what a shop to try out sells, with what is on hand.
var catalogue = []struct {
	millrace.Product
	onHand int64
}{
	{millrace.Product{SKU: "TEA-001", Name: "Darjeeling, first flush", Description: "100 g of loose leaves, picked in March.", PriceMinor: 1250, Currency: "EUR"}, 1_000_000},
	{millrace.Product{SKU: "CUP-002", Name: "Porcelain cup", Description: "White, 180 ml, with its saucer.", PriceMinor: 890, Currency: "EUR"}, 1_000_000},
	{millrace.Product{SKU: "POT-003", Name: "Cast-iron pot", Description: "Enamelled inside, 0.8 l, with a strainer.", PriceMinor: 4900, Currency: "EUR"}, 1_000_000},
	{millrace.Product{SKU: "RARE-010", Name: "Aged pu-erh, 1996", Description: "Ten cakes, and no more where they came from.", PriceMinor: 18_000, Currency: "EUR"}, 10},
	{millrace.Product{SKU: "GONE-000", Name: "Silver needle", Description: "Sold out until spring.", PriceMinor: 3200, Currency: "EUR"}, 0},
}

// seed puts those products of the catalogue into the store that it lacks, and returns how many.
func seed(ctx context.Context, store *db.Store) (int, error) {
	there := make(map[string]bool)
	for after, more := "", true; more; {
		var page []millrace.Product
		var err error
		if page, more, err = store.ListProducts(ctx, true, after, 500); err != nil {
			return 0, err
		}
		for _, p := range page {
			there[p.SKU], after = true, p.SKU
		}
	}
	added := 0
	for _, c := range catalogue {
		if there[c.SKU] {
			continue
		}
		p := c.Product
		p.Active = true
		_, err := store.PutProduct(ctx, p)
		if err == nil {
			_, err = store.SetStock(ctx, p.SKU, millrace.DefaultLocation, c.onHand, "operator:seed")
		}
		if err != nil {
			return added, errors.Join(fmt.Errorf("seed %s", p.SKU), err)
		}
		added++
	}
	return added, nil
}
