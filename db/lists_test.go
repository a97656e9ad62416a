package db_test

import (
	"cmp"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"millrace"
	"millrace/db"
)

// listed is a shop's orders as lists see them: of a few customers, statuses and SKUs, an hour apart.
type listed struct {
	customers []uuid.UUID
	skus      []string
	first     time.Time
	n         int
}

// storeListed writes orders whose status, customer and SKUs are random, most of them completed, oldest first.
func (b *testBundle) storeListed(n int) listed {
	b.t.Helper()
	l := listed{customers: []uuid.UUID{uuid.New(), uuid.New(), uuid.New()}, skus: []string{"TEA-001", "CUP-002", "RARE-010"}, n: n,
		first: time.Now().Add(-time.Duration(n) * time.Hour).Truncate(time.Millisecond)}
	for i := range n {
		status := millrace.OrderCompleted
		if rand.N(3) == 0 {
			status = pick(millrace.OrderStatuses())
		}
		skus := shuffled(l.skus)[:1+rand.N(2)]
		b.storeOrder(int64(i), l.at(i), pick(l.customers), status, skus...)
	}
	return l
}

// at is when the ith order was placed.
func (l listed) at(i int) time.Time { return l.first.Add(time.Duration(i) * time.Hour) }

// storeOrder writes an order past all rules, as one that was placed at a time.
func (b *testBundle) storeOrder(seq int64, at time.Time, customer uuid.UUID, status millrace.OrderStatus, skus ...string) uuid.UUID {
	b.t.Helper()
	id := uuid.New()
	for i := range 6 {
		id[i] = byte(at.UnixMilli() >> (40 - 8*i))
	}
	id[6] = id[6]&0x0f | 0x70
	_, err := b.pool.Exec(b.t.Context(), `INSERT INTO orders (id, customer_id, received_seq, status, payment_status, fulfillment_status, version, currency, total_minor,
		payment_method, email, placed_at, updated_at) VALUES ($1, $2, $3, $4, 'unpaid', 'unfulfilled', 1, 'EUR', 1, 'pm_ok', '', $5, $5)`, id, customer, 1_000_000+seq, status, at)
	require.NoError(b.t, err)
	for n, sku := range skus {
		_, err := b.pool.Exec(b.t.Context(), `INSERT INTO order_lines (order_id, n, sku, name, quantity, unit_price_minor, total_minor) VALUES ($1, $2, $3, 'X', 1, 1, 1)`, id, n+1, sku)
		require.NoError(b.t, err)
	}
	return id
}

// plainly is the ids that a filter selects, newest first, by a query that takes no short cut.
func (b *testBundle) plainly(t require.TestingT, f db.OrderFilter) (ids []uuid.UUID) {
	rows, err := b.pool.Query(b.t.Context(), `SELECT id FROM orders o
		WHERE ($1::uuid = '00000000-0000-0000-0000-000000000000' OR customer_id = $1) AND ($2::text = '' OR status = $2)
		  AND ($3::text = '' OR EXISTS (SELECT FROM order_lines WHERE order_id = o.id AND sku = $3))
		  AND ($4::timestamptz IS NULL OR placed_at >= $4) AND ($5::timestamptz IS NULL OR placed_at < $5)
		ORDER BY placed_at DESC`, f.CustomerID, string(f.Status), f.SKU, orNull(f.From), orNull(f.To))
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var id uuid.UUID
		require.NoError(t, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(t, rows.Err())
	return ids
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// filters draws any filter, with limits on a page that are often too narrow.
func (l listed) filters() *rapid.Generator[db.OrderFilter] {
	return rapid.Custom(func(t *rapid.T) db.OrderFilter {
		f := db.OrderFilter{
			CustomerID: rapid.SampledFrom(append([]uuid.UUID{uuid.Nil, uuid.New()}, l.customers...)).Draw(t, "customer"),
			Status:     rapid.SampledFrom(append([]millrace.OrderStatus{"", "unheard of"}, millrace.OrderStatuses()...)).Draw(t, "status"),
			SKU:        rapid.SampledFrom(append([]string{"", "", "NIL-000"}, l.skus...)).Draw(t, "sku"),
			Limit:      rapid.IntRange(1, 30).Draw(t, "limit"),
			Scan:       rapid.SampledFrom([]int{0, 1, 2, 7, 20, l.n, 10 * l.n}).Draw(t, "scan"),
		}
		if rapid.Bool().Draw(t, "from") {
			f.From = l.at(rapid.IntRange(-1, l.n).Draw(t, "first"))
		}
		if rapid.Bool().Draw(t, "to") {
			f.To = l.at(rapid.IntRange(-1, l.n).Draw(t, "last"))
		}
		return f
	})
}

// Whatever is asked for in pages of any size, however few orders a page may look at, each order that fits is shown once, newest first.
func TestPagesShowWhatAPlainQueryFinds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	l := b.storeListed(400)
	filters := l.filters()
	rapid.Check(t, func(rt *rapid.T) {
		f := filters.Draw(rt, "filter")
		want := b.plainly(rt, f)
		indexed := f.CustomerID == uuid.Nil && f.SKU == "" && f.Status != "" && !moves(f.Status)
		var got []uuid.UUID
		for pages := 0; ; pages++ {
			page, err := b.store.PageOrders(t.Context(), f)
			require.NoError(rt, err)
			require.LessOrEqual(rt, len(page.Orders), f.Limit)
			for _, o := range page.Orders {
				require.NotEmpty(rt, o.Lines, "with their lines")
				got = append(got, o.ID)
			}
			if page.Next == uuid.Nil {
				break
			}
			require.True(rt, f.Before == uuid.Nil || string(page.Next[:]) < string(f.Before[:]), "the next page is further on")
			require.True(rt, !indexed || len(page.Orders) == min(f.Limit, cmp.Or(f.Scan, f.Limit)), "an order of a rare status is not looked for in vain")
			f.Before = page.Next
		}
		require.Equal(rt, want, got)
	})
}

// moves reports whether orders have a status only until the next step, or are done as most are.
func moves(s millrace.OrderStatus) bool {
	return s == millrace.OrderPending || s == millrace.OrderProcessing || s == millrace.OrderCompleted
}

// An order of a rare status is found at once, whatever lies before it, and no order that has left the status is. Of the statuses that
// every order passes a page looks at the newest, and says that there may be more.
func TestOrdersOfARareStatusAreFoundAtOnce(t *testing.T) {
	t.Parallel()
	for _, status := range millrace.OrderStatuses() {
		t.Run(string(status), func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			l := listed{first: time.Now().Add(-time.Hour * 24)}
			other := millrace.OrderCompleted
			if status == other {
				other = millrace.OrderProcessing
			}
			id := b.storeOrder(0, l.at(0), uuid.New(), status, "TEA-001")
			for i := range 10 {
				b.storeOrder(int64(i)+1, l.at(i+1), uuid.New(), other, "TEA-001")
			}
			f := db.OrderFilter{Status: status, Limit: 5, Scan: 6}
			page, err := b.store.PageOrders(t.Context(), f)
			require.NoError(t, err)
			if moves(status) {
				require.Empty(t, page.Orders)
				require.NotEqual(t, uuid.Nil, page.Next)
				f.Before = page.Next
				page, err = b.store.PageOrders(t.Context(), f)
				require.NoError(t, err)
			}
			require.Len(t, page.Orders, 1)
			require.Equal(t, id, page.Orders[0].ID)
			require.Equal(t, uuid.Nil, page.Next)

			_, err = b.pool.Exec(t.Context(), "UPDATE orders SET status = $2 WHERE id = $1", id, other)
			require.NoError(t, err)
			page, err = b.store.PageOrders(t.Context(), db.OrderFilter{Status: status, Limit: 5})
			require.NoError(t, err)
			require.Equal(t, db.OrderPage{}, page)
		})
	}
}

// The steps that every order goes through change no index: what is indexed of orders does not change on the way (HOT).
func TestCommonStepsLeaveTheIndexesOfOrdersAlone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.storeOrder(0, time.Now(), uuid.New(), millrace.OrderPending, "TEA-001")
	tx, err := b.pool.Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(t.Context())
	hot := func() (n int) {
		require.NoError(t, tx.QueryRow(t.Context(), "SELECT pg_stat_get_xact_tuples_hot_updated('orders'::regclass)").Scan(&n))
		return n
	}
	for i, s := range []millrace.OrderStatus{millrace.OrderProcessing, millrace.OrderProcessing, millrace.OrderCompleted} {
		_, err := tx.Exec(t.Context(), "UPDATE orders SET status = $2, version = version + 1, payment_status = 'paid', fulfillment_status = 'fulfilled', updated_at = now() WHERE id = $1", id, s)
		require.NoError(t, err)
		require.Equal(t, i+1, hot())
	}
	_, err = tx.Exec(t.Context(), "UPDATE orders SET status = 'canceled' WHERE id = $1", id)
	require.NoError(t, err)
	require.Equal(t, 3, hot(), "or the test would tell nothing")
}
