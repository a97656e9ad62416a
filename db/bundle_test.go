package db_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
)

// soon is how long the tests wait for what must come: long, since a test must not fail because the machine is slow.
const soon = time.Minute

// stores makes n stores, each with a pool of its own as another process would have.
func (b *testBundle) stores(n int, change ...func(*db.Config)) []*db.Store {
	b.t.Helper()
	list := make([]*db.Store, n)
	for i := range list {
		list[i] = b.newStore(b.newPool(4), change...)
	}
	return list
}

func maxGroup(n int) func(*db.Config) { return func(c *db.Config) { c.MaxGroup = n } }

// oneAndMany runs a test with groups of one and with groups of hundreds: nothing but speed may differ.
func oneAndMany(t *testing.T, f func(t *testing.T, change func(*db.Config))) {
	t.Helper()
	for _, n := range []int{1, 256} {
		t.Run(fmt.Sprintf("groups of at most %d", n), func(t *testing.T) {
			t.Parallel()
			f(t, maxGroup(n))
		})
	}
}

// lock locks what a query selects, on a connection of its own, until release is called.
func (b *testBundle) lock(query string) (release func()) {
	b.t.Helper()
	conn, err := pgx.Connect(b.t.Context(), b.url)
	require.NoError(b.t, err)
	_, err = conn.Exec(b.t.Context(), "BEGIN; "+query+" FOR UPDATE")
	require.NoError(b.t, err)
	release = sync.OnceFunc(func() {
		if err := conn.Close(context.Background()); err != nil { // which rolls back
			b.t.Error(err)
		}
	})
	b.t.Cleanup(release)
	return release
}

const (
	intakeCounter     = "SELECT FROM counters WHERE name = 'received'"
	allocationCounter = "SELECT FROM counters WHERE name = 'allocated'"
)

// untilBlocked waits until n of the database's sessions wait for a lock.
func (b *testBundle) untilBlocked(n int64) {
	b.t.Helper()
	require.Eventually(b.t, func() bool {
		return b.count("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") >= n
	}, soon, 5*time.Millisecond, "nobody waits for the lock")
}

// placeMany places n orders with some clients at a time and returns their ids.
func (b *testBundle) placeMany(n int, skus ...string) []uuid.UUID {
	b.t.Helper()
	ids := make([]uuid.UUID, n)
	b.concurrently(n, func(i int) error {
		placed, err := b.store.PlaceOrder(b.t.Context(), placement(b.ada, uuid.NewString(), request(skus...)))
		ids[i] = placed.Order.ID
		return err
	})
	return ids
}

// concurrently runs f for 0 to n-1 at the same time and fails the test with the errors.
func (b *testBundle) concurrently(n int, f func(i int) error) {
	b.t.Helper()
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f(i); err != nil {
				b.t.Errorf("%d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if b.t.Failed() {
		b.t.FailNow()
	}
}

// requireSound checks what must hold of every database at any time: events without holes that agree with their orders, orders
// numbered without holes, stock that is conserved and never oversold, money taken once at most and never more sent back than taken.
func (b *testBundle) requireSound() {
	b.t.Helper()
	for what, query := range map[string]string{
		"orders whose events are not 1..n": `SELECT count(*) FROM (SELECT order_id FROM order_events GROUP BY order_id HAVING count(*) <> max(version) OR min(version) <> 1) x`,
		"orders that are not as their last event says": `SELECT count(*) FROM orders o JOIN order_events e ON e.order_id = o.id AND e.version =
			(SELECT max(version) FROM order_events x WHERE x.order_id = o.id)
			WHERE (o.status, o.payment_status, o.fulfillment_status, o.version) IS DISTINCT FROM (e.status, e.payment_status, e.fulfillment_status, e.version)`,
		"orders without an event, a line or a key": `SELECT count(*) FROM orders o WHERE NOT EXISTS (SELECT FROM order_events e WHERE e.order_id = o.id)
			OR NOT EXISTS (SELECT FROM order_lines l WHERE l.order_id = o.id) OR NOT EXISTS (SELECT FROM idempotency_keys k WHERE k.order_id = o.id)`,
		"keys, lines or events without an order": `SELECT (SELECT count(*) FROM idempotency_keys k WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = k.order_id))
			+ (SELECT count(*) FROM order_lines l WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = l.order_id))
			+ (SELECT count(*) FROM order_events e WHERE NOT EXISTS (SELECT FROM orders o WHERE o.id = e.order_id))`,
		"orders without a customer":        `SELECT count(*) FROM orders o WHERE NOT EXISTS (SELECT FROM customers c WHERE c.id = o.customer_id)`,
		"holes in received_seq":            `SELECT (SELECT value FROM counters WHERE name = 'received') - count(*) + abs(coalesce(max(received_seq), 0) - count(*)) FROM orders`,
		"orders whose lines sum otherwise": `SELECT count(*) FROM orders o WHERE total_minor <> (SELECT sum(total_minor) FROM order_lines l WHERE l.order_id = o.id)`,
		"stock levels that do not add up": `SELECT count(*) FROM stock l
			LEFT JOIN (SELECT sku, location, sum(delta) AS stocked FROM inventory_adjustments GROUP BY 1, 2) a USING (sku, location)
			LEFT JOIN (SELECT sku, location, sum(quantity) FILTER (WHERE state = 'held') AS held, sum(quantity) FILTER (WHERE state = 'consumed') AS consumed
			           FROM reservations GROUP BY 1, 2) r USING (sku, location)
			WHERE on_hand + coalesce(consumed, 0) <> coalesce(stocked, 0) OR reserved <> coalesce(held, 0) OR on_hand < 0 OR reserved < 0 OR reserved > on_hand`,
		"orders that hold another amount than they ask for": `SELECT count(*) FROM (SELECT order_id, sku, sum(quantity) AS n FROM reservations GROUP BY 1, 2) r
			JOIN (SELECT order_id, sku, sum(quantity) AS n FROM order_lines GROUP BY 1, 2) l USING (order_id, sku) WHERE r.n <> l.n`,
		"ended orders that hold stock": `SELECT count(*) FROM orders o JOIN reservations r ON r.order_id = o.id AND r.state = 'held'
			WHERE o.status IN ('completed', 'canceled', 'failed', 'expired')`,
		"orders that were charged twice, or sent back more than was taken": `SELECT count(*) FROM (SELECT order_id,
			count(*) FILTER (WHERE kind = 'capture' AND state = 'succeeded') AS captures,
			coalesce(sum(amount_minor) FILTER (WHERE kind = 'capture' AND state = 'succeeded'), 0) AS captured,
			coalesce(sum(amount_minor) FILTER (WHERE kind = 'refund' AND state <> 'failed'), 0) AS back
			FROM payment_transactions GROUP BY 1) x WHERE captures > 1 OR back > captured`,
		"orders past the allocation that still wait for their first turn": `SELECT count(*) FROM orders o JOIN counters c ON c.name = 'allocated' AND o.received_seq <= c.value
			WHERE o.status = 'pending' AND o.version = 1`,
	} {
		require.Zero(b.t, b.count(query), what)
	}
}

// shuffled is a list in another order.
func shuffled[T any](list []T) []T {
	list = slices.Clone(list)
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

func pick[T any](list []T) T { return list[rand.N(len(list))] }

// requireCode checks an error's code, and that what it tells the caller gives nothing away.
func requireCode(t testing.TB, code millrace.Code, err error) {
	t.Helper()
	require.Equal(t, code, millrace.ErrorCode(err), "%v", err)
}
