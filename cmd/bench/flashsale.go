package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace"
	"millrace/db"
)

type flashsaleCmd struct {
	commonFlags
	Orders    int `default:"20000" help:"Orders, of one unit each."`
	Units     int `default:"1000" help:"Units in stock."`
	Processes int `default:"4" help:"Processes that take orders in and work them off."`
	Clients   int `default:"64" help:"Buyers at a time in each process."`
	Spread    int `default:"1000" help:"Products over which the same orders and units are spread to compare; a divisor of the units."`

	program string // to sell with; this one if ""
}

// Validate is called by kong.
func (c *flashsaleCmd) Validate() error {
	switch {
	case c.Orders < 1 || c.Units < 1 || c.Processes < 1 || c.Clients < 1 || c.Spread < 1:
		return errors.New("--orders, --units, --processes, --clients and --spread must be at least 1")
	case c.Units%c.Spread != 0:
		return fmt.Errorf("--spread=%d does not divide --units=%d evenly", c.Spread, c.Units)
	}
	return nil
}

// sale is the outcome of one sale.
type sale struct {
	decided    float64 // orders/s, from the first post until each order had stock or was denied it
	taken      float64 // orders/s, until the last was acknowledged
	soldOut    float64 // seconds from the first post to the last unit
	sold       int     // units that orders were given
	oversold   int     // units that orders were given beyond the stock, or beyond what left the shelves
	violations int     // orders that got stock which an order acknowledged before they were posted was denied
}

// attempt is an order as its buyer saw it, in nanoseconds of the clock that all processes of this machine share.
type attempt struct {
	id                   uuid.UUID
	sku                  string
	posted, acknowledged int64
	got                  bool
}

// Run measures.
func (c *flashsaleCmd) Run(ctx context.Context, stdio stdio) (err error) {
	b, err := c.newBed(ctx, stdio, 2*c.Rounds)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	r := &report{Command: "flashsale"}
	if r.Machine, r.Settings, err = describe(ctx, b.url); err != nil {
		return err
	}
	r.Settings["orders"], r.Settings["units"], r.Settings["processes"], r.Settings["clients"] = itoa(c.Orders), itoa(c.Units), itoa(c.Processes), itoa(c.Clients*c.Processes)
	var rates, spread, taken, soldOut, sold, oversold, violations []float64
	for round := range c.Rounds {
		for _, skus := range []int{1, c.Spread} {
			b.step("round %d: %d orders for %d units of %d products", round+1, c.Orders, c.Units, skus)
			s, err := c.sell(ctx, b, skus)
			if err != nil {
				return err
			}
			oversold, violations = append(oversold, float64(s.oversold)), append(violations, float64(s.violations))
			if skus == 1 {
				rates, taken = append(rates, s.decided), append(taken, s.taken)
				soldOut, sold = append(soldOut, s.soldOut), append(sold, float64(s.sold))
			} else {
				spread = append(spread, s.decided)
			}
		}
	}
	r.add("one product, acknowledged", "orders/s", taken...)
	r.add("one product, stock given or denied", "orders/s", rates...)
	r.add(fmt.Sprintf("%d products, stock given or denied", c.Spread), "orders/s", spread...)
	r.add("one product, sold out after", "s", soldOut...)
	r.add("one product, units sold", "units", sold...)
	r.add("oversold", "units", oversold...)
	r.add("out of turn", "orders", violations...)
	r.atMost("oversold units, of all rounds", slices.Max(oversold), 0)
	r.atMost("first-come-first-served violations, of all rounds", slices.Max(violations), 0)
	r.atLeast("units sold, of all rounds", slices.Min(sold), float64(min(c.Units, c.Orders)))
	r.atLeast("rate against spread products", r.add("one product against many", "times", ratios(rates, spread)...), 0.8)
	return r.write(stdio.out, c.JSON)
}

// sell holds one sale on a fresh database.
func (c *flashsaleCmd) sell(ctx context.Context, b *bed, skus int) (s sale, err error) {
	url, err := b.freshDatabase(ctx, skus)
	if err != nil {
		return s, err
	}
	pool, err := db.NewPool(ctx, url, 2)
	if err != nil {
		return s, err
	}
	defer pool.Close()
	attempts, err := c.hold(ctx, url, pool, skus)
	if err != nil {
		return s, err
	}
	return judge(ctx, pool, attempts, c.Units)
}

// hold has processes take in and work off the orders of a sale until each was offered stock, and returns what their buyers saw.
func (c *flashsaleCmd) hold(ctx context.Context, url string, pool *pgxpool.Pool, skus int) (attempts []attempt, err error) {
	if _, err := pool.Exec(ctx, "UPDATE inventory_levels SET on_hand = $1", c.Units/skus); err != nil {
		return nil, err
	}
	sellers := make([]*seller, c.Processes)
	defer func() {
		for _, p := range sellers {
			if p != nil {
				err = errors.Join(err, p.stop())
			}
		}
	}()
	for i := range sellers {
		n := c.Orders / c.Processes
		if i < c.Orders%c.Processes {
			n++
		}
		if sellers[i], err = startSeller(ctx, c.program, "--orders="+strconv.Itoa(n), "--clients="+strconv.Itoa(c.Clients), "--skus="+strconv.Itoa(skus), "--database-url="+url); err != nil {
			return nil, err
		}
	}
	for _, p := range sellers {
		if err := p.expect("ready"); err != nil {
			return nil, err
		}
	}
	for _, p := range sellers {
		if err := p.say("go"); err != nil {
			return nil, err
		}
	}
	for _, p := range sellers {
		of, err := p.attempts()
		if err != nil {
			return nil, err
		}
		attempts = append(attempts, of...)
	}
	return attempts, awaitDecisions(ctx, pool, len(attempts))
}

// awaitDecisions waits until every order was offered stock, in its turn.
func awaitDecisions(ctx context.Context, pool *pgxpool.Pool, orders int) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		var allocated int
		if err := pool.QueryRow(ctx, "SELECT value FROM counters WHERE name = 'allocated'").Scan(&allocated); err != nil {
			return fmt.Errorf("wait for %d orders to be offered stock: %w", orders, err)
		}
		if allocated >= orders {
			return nil
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("of %d orders, %d were offered stock: %w", orders, allocated, err)
		}
	}
}

// judge compares what the database holds with what the buyers saw.
func judge(ctx context.Context, pool *pgxpool.Pool, attempts []attempt, units int) (s sale, err error) {
	decisions := make(map[uuid.UUID]bool, len(attempts))
	var lastDecision, lastUnit time.Time
	rows, err := pool.Query(ctx, "SELECT order_id, type = $1, at FROM order_events WHERE type IN ($1, $2)", millrace.EventStockReserved, millrace.EventStockRejected)
	if err != nil {
		return s, err
	}
	var id uuid.UUID
	var got bool
	var at time.Time
	_, err = pgx.ForEachRow(rows, []any{&id, &got, &at}, func() error {
		if _, twice := decisions[id]; twice {
			return fmt.Errorf("order %s was offered stock twice", id)
		}
		decisions[id] = got
		if at.After(lastDecision) {
			lastDecision = at
		}
		if got && at.After(lastUnit) {
			lastUnit = at
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	first, last := attempts[0].posted, int64(0)
	for i := range attempts {
		a := &attempts[i]
		got, decided := decisions[a.id]
		if !decided {
			return s, fmt.Errorf("order %s was acknowledged and never offered stock", a.id)
		}
		if a.got = got; got {
			s.sold++
		}
		first, last = min(first, a.posted), max(last, a.acknowledged)
	}
	n := float64(len(attempts))
	s.taken = n / time.Duration(last-first).Seconds()
	s.decided = n / lastDecision.Sub(time.Unix(0, first)).Seconds()
	s.soldOut = lastUnit.Sub(time.Unix(0, first)).Seconds()
	s.violations = outOfTurn(attempts)
	// What orders hold or have taken may exceed neither the stock nor what the shelves gave.
	var reserved, gone int
	err = pool.QueryRow(ctx, `SELECT (SELECT coalesce(sum(quantity), 0) FROM reservations WHERE state IN ('held', 'committed', 'consumed')),
		$1 - sum(on_hand) + sum(reserved) FROM inventory_levels`, units).Scan(&reserved, &gone)
	s.oversold = max(reserved-units, reserved-gone, s.sold-units, 0)
	return s, err
}

// outOfTurn counts the orders that got stock although an order for the same product, acknowledged before they were posted, was denied it.
func outOfTurn(attempts []attempt) (violations int) {
	denied := make(map[string]int64) // when the first of those denied was acknowledged, by product
	for _, a := range attempts {
		if at, known := denied[a.sku]; !a.got && (!known || a.acknowledged < at) {
			denied[a.sku] = a.acknowledged
		}
	}
	for _, a := range attempts {
		if at, known := denied[a.sku]; a.got && known && at < a.posted {
			violations++
		}
	}
	return violations
}

// requestFor is a request for one unit.
func requestFor(sku string) db.PlaceOrder {
	return db.PlaceOrder{Key: uuid.NewString(), RequestHash: sha256.Sum256([]byte("bench")),
		Request: millrace.OrderRequest{PaymentMethod: "pm_ok", Email: "bench@example.com",
			ShipTo: &millrace.Address{Name: "Ada Lovelace", Line1: "12 Mill Lane", City: "Bath", PostalCode: "BA1 1AA", Country: "GB"},
			Lines:  []millrace.LineRequest{{SKU: sku, Quantity: 1}}}}
}
