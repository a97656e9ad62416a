package db

import (
	"context"
	"fmt"
	"maps"
	"sync/atomic"

	"millrace"
	"millrace/db/dbsqlc"
)

// catalogue is what some products were at a version of the whole catalogue, which every change of any product moves on.
type catalogue struct {
	version  int64
	products map[string]millrace.Product // by SKU; those that do not exist are left out
	source   source
}

// source says what a catalogue is by.
type source bool

const (
	readNow    source = false
	remembered source = true // so that it may have changed since
)

// priceList remembers products. What it remembers may be outdated: who sells by it has the transaction compare the version, and
// forgets the list where it differs. The zero value is empty and ready.
type priceList struct {
	current atomic.Pointer[versionedPrices]
}

type versionedPrices struct {
	version  int64
	products cache[string, millrace.Product]
}

// forget empties the list, if it is still of a version.
func (l *priceList) forget(version int64) {
	if p := l.current.Load(); p != nil && p.version == version {
		l.current.CompareAndSwap(p, nil)
	}
}

// expect empties the list if it is of another version.
func (l *priceList) expect(version int64) {
	if p := l.current.Load(); p != nil && p.version != version {
		l.current.CompareAndSwap(p, nil)
	}
}

// readAhead is how many products an empty list is begun with: a shop that has no more reads prices once for each version.
const readAhead = 1000

// find is the products of some SKUs as they were at one version. What is not remembered is read.
func (l *priceList) find(ctx context.Context, q *dbsqlc.Queries, skus []string) (catalogue, error) {
	known := l.current.Load()
	found := catalogue{products: make(map[string]millrace.Product, len(skus))}
	missing := skus
	if known != nil {
		found.version, found.source, missing = known.version, remembered, nil
		for _, sku := range skus {
			if p, ok := known.products.get(sku); ok {
				found.products[sku] = p
			} else {
				missing = append(missing, sku)
			}
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	ahead := int32(0)
	if known == nil {
		ahead = readAhead
	}
	read, err := readProducts(ctx, q, missing, ahead)
	if err != nil || len(read.products) == 0 {
		return found, err
	}
	if known != nil && read.version != known.version { // what was found is of another day: all of it is needed anew
		if read, err = readProducts(ctx, q, skus, readAhead); err != nil {
			return catalogue{}, err
		}
		found.products = map[string]millrace.Product{}
	}
	found.version, found.source = read.version, readNow
	maps.Copy(found.products, read.products)
	l.remember(read)
	return found, nil
}

// remember adds products to the list, or starts a new one if they are of a later version.
func (l *priceList) remember(c catalogue) {
	for {
		p := l.current.Load()
		if p == nil || p.version < c.version {
			next := &versionedPrices{version: c.version}
			if !l.current.CompareAndSwap(p, next) {
				continue
			}
			p = next
		}
		if p.version == c.version {
			for sku, product := range c.products {
				p.products.put(sku, product)
			}
		}
		return
	}
}

// readProducts reads the products of some SKUs, and so many others.
func readProducts(ctx context.Context, q *dbsqlc.Queries, skus []string, ahead int32) (catalogue, error) {
	rows, err := q.ProductsBySKU(ctx, dbsqlc.ProductsBySKUParams{Skus: skus, Ahead: ahead})
	if err != nil {
		return catalogue{}, fmt.Errorf("read the catalogue: %w", err)
	}
	c := catalogue{products: make(map[string]millrace.Product, len(rows))}
	for _, p := range rows {
		c.version = p.Version
		c.products[p.Sku] = millrace.Product{SKU: p.Sku, Name: p.Name, PriceMinor: p.PriceMinor, Currency: p.Currency, Active: p.Active}
	}
	return c, nil
}
