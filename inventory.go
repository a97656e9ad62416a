package millrace

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Product is an entry of the catalogue. PriceMinor is in minor units of Currency.
type Product struct {
	SKU         string
	Name        string
	Description string
	PriceMinor  int64
	Currency    Currency
	Active      bool
	Available   int64 // on hand less reserved, over all locations, when it was read
	UpdatedAt   time.Time
}

// InventoryLevel is the stock of a SKU at a location: 0 <= Reserved <= OnHand, always.
type InventoryLevel struct {
	SKU      string
	Location string
	OnHand   int64
	Reserved int64
}

// DefaultLocation is where stock is kept unless said otherwise.
const DefaultLocation = "main"

// ReservationState is where a reservation stands. That an order is queued for stock, or was denied it, is said by the order.
type ReservationState string

// The states of a reservation.
const (
	ReservationHeld     ReservationState = "held"     // counted in Reserved
	ReservationConsumed ReservationState = "consumed" // left the shelf with a shipment
	ReservationReleased ReservationState = "released" // back for others
)

// Reservation is the stock of one SKU at one location that an order holds. An order has at most one for each pair.
type Reservation struct {
	SKU      string
	Location string
	Quantity int64
	State    ReservationState
}

// StockMove is a change of one inventory level, written together with the reservation that causes it.
type StockMove struct {
	SKU      string
	Location string
	Reserved int64 // added to what is reserved
	Shipped  int64 // taken off what is reserved and what is on hand
}

// Shelf is the stock from which orders are served one after another. It is built from locked inventory levels.
type Shelf struct {
	levels map[string][]*InventoryLevel // by SKU, locations in order
}

// NewShelf puts the levels on a shelf.
func NewShelf(levels []InventoryLevel) *Shelf {
	s := &Shelf{levels: make(map[string][]*InventoryLevel, len(levels))}
	for i := range levels {
		l := levels[i]
		s.levels[l.SKU] = append(s.levels[l.SKU], &l)
	}
	for _, at := range s.levels {
		slices.SortFunc(at, func(a, b *InventoryLevel) int {
			if a.Location < b.Location {
				return -1
			}
			return 1
		})
	}
	return s
}

// Take reserves the whole demand (quantity by SKU) or nothing. It prefers one location that has all of it, so that the order
// leaves in one parcel, and else takes what each location has, in the order of their names. When it returns false, short is the
// first SKU, by name, of which there is not enough.
func (s *Shelf) Take(demand map[string]int64) (taken []Reservation, short string, ok bool) {
	skus := make([]string, 0, len(demand))
	for sku := range demand {
		skus = append(skus, sku)
	}
	slices.Sort(skus)
	for _, sku := range skus {
		var free int64
		for _, l := range s.levels[sku] {
			free += l.OnHand - l.Reserved
		}
		if free < demand[sku] {
			return nil, sku, false
		}
	}
	whole, single := s.locationOfAll(skus, demand)
	for _, sku := range skus {
		left := demand[sku]
		for _, l := range s.levels[sku] {
			n := min(left, l.OnHand-l.Reserved)
			if n == 0 || single && l.Location != whole {
				continue
			}
			l.Reserved += n
			left -= n
			taken = append(taken, Reservation{SKU: sku, Location: l.Location, Quantity: n, State: ReservationHeld})
		}
	}
	return taken, "", true
}

// locationOfAll finds the first location that alone has the whole demand.
func (s *Shelf) locationOfAll(skus []string, demand map[string]int64) (string, bool) {
	if len(skus) == 0 {
		return "", false
	}
	for _, candidate := range s.levels[skus[0]] {
		if !slices.ContainsFunc(skus, func(sku string) bool { return s.freeAt(sku, candidate.Location) < demand[sku] }) {
			return candidate.Location, true
		}
	}
	return "", false
}

func (s *Shelf) freeAt(sku, location string) int64 {
	for _, l := range s.levels[sku] {
		if l.Location == location {
			return l.OnHand - l.Reserved
		}
	}
	return 0
}

// Warehouse picks and packs what was reserved. Implementations are in provider/. Calls with a key seen before repeat the first
// answer and do nothing else. A nil error comes with one of the outcomes; an error is a call that could not be made at all and is
// treated as OutcomeUnknown.
type Warehouse interface {
	// Name is the adapter's name, stored with what it answers.
	Name() string
	// Fulfill asks for an order to be picked and packed.
	Fulfill(ctx context.Context, r FulfillRequest) (FulfillResult, error)
	// Cancel takes a request to fulfill back; approved if nothing of it leaves the house any more.
	Cancel(ctx context.Context, key string) (FulfillResult, error)
}

// FulfillRequest asks for an order to be picked and packed.
type FulfillRequest struct {
	Key     string // idempotency key
	OrderID uuid.UUID
	Lines   []Reservation
	ShipTo  Address
}

// FulfillResult is the warehouse's answer. Code says why when it is declined.
type FulfillResult struct {
	Outcome Outcome
	Code    string
}
