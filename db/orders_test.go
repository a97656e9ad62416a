package db_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"millrace"
	"millrace/db"
)

// Pages of any size with any filter show each order that was there once, newest first, while others come in.
func TestPagesShowEachOrderOnceWhileOthersComeIn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	grace := millrace.Principal{Subject: "grace", Email: "grace@example.com"}
	people := []millrace.Principal{b.ada, grace}
	skus := []string{"TEA-001", "CUP-002"}
	place := func(who millrace.Principal, sku string) uuid.UUID {
		placed, err := b.store.PlaceOrder(t.Context(), placement(who, uuid.NewString(), request(sku)))
		require.NoError(t, err)
		return placed.Order.ID
	}
	for i := range 30 {
		id := place(people[i%2], skus[i/2%2])
		if i%3 == 0 {
			require.NoError(t, cancel(t.Context(), b.store, id))
		}
	}
	customers := []uuid.UUID{uuid.Nil}
	for _, p := range people {
		c, err := b.store.FindCustomer(t.Context(), p.Subject)
		require.NoError(t, err)
		customers = append(customers, c.ID)
	}
	rapid.Check(t, func(rt *rapid.T) {
		f := db.OrderFilter{
			CustomerID: rapid.SampledFrom(customers).Draw(rt, "customer"),
			Status:     rapid.SampledFrom([]millrace.OrderStatus{"", millrace.OrderPending, millrace.OrderCanceled, millrace.OrderExpired}).Draw(rt, "status"),
			SKU:        rapid.SampledFrom([]string{"", "TEA-001", "CUP-002", "NIL-000"}).Draw(rt, "sku"),
			Limit:      rapid.IntRange(1, 40).Draw(rt, "limit"),
		}
		want := b.matching(f)
		var got []uuid.UUID
		for more := true; more; {
			page, err := b.store.PageOrders(t.Context(), f)
			require.NoError(rt, err)
			more = page.Next != uuid.Nil
			require.LessOrEqual(rt, len(page.Orders), f.Limit)
			require.True(rt, !more || len(page.Orders) == f.Limit, "a page before the last is full where so few are looked at")
			for _, o := range page.Orders {
				require.Len(rt, o.Lines, 1, "with their lines")
				got = append(got, o.ID)
			}
			require.LessOrEqual(rt, len(got), len(want), "pages come to an end")
			if more {
				f.Before = page.Next
				if rapid.Bool().Draw(rt, "another comes in") {
					place(b.ada, "TEA-001")
				}
			}
		}
		require.Equal(rt, want, got)
	})
}

// matching is the ids that a filter selects, newest first, by other means than the store's.
func (b *testBundle) matching(f db.OrderFilter) (ids []uuid.UUID) {
	b.t.Helper()
	rows, err := b.pool.Query(b.t.Context(), `SELECT o.id, o.customer_id, o.status, array(SELECT sku FROM order_lines l WHERE l.order_id = o.id) FROM orders o ORDER BY received_seq DESC`)
	require.NoError(b.t, err)
	defer rows.Close()
	for rows.Next() {
		var id, customer uuid.UUID
		var status millrace.OrderStatus
		var skus []string
		require.NoError(b.t, rows.Scan(&id, &customer, &status, &skus))
		if (f.CustomerID == uuid.Nil || f.CustomerID == customer) && (f.Status == "" || f.Status == status) && (f.SKU == "" || slices.Contains(skus, f.SKU)) {
			ids = append(ids, id)
		}
	}
	require.NoError(b.t, rows.Err())
	return ids
}

func TestOrdersAreFoundByTheTimeTheyWerePlaced(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var ids []uuid.UUID
	var between []time.Time // after each order, and before the next
	for range 3 {
		ids = append(ids, b.place("TEA-001"))
		<-time.After(3 * time.Millisecond) // ids count milliseconds
		between = append(between, time.Now())
		<-time.After(3 * time.Millisecond)
	}
	for name, c := range map[string]struct {
		from, to time.Time
		want     []uuid.UUID
	}{
		"all":         {time.Time{}, time.Time{}, []uuid.UUID{ids[2], ids[1], ids[0]}},
		"from":        {between[0], time.Time{}, []uuid.UUID{ids[2], ids[1]}},
		"to":          {time.Time{}, between[1], []uuid.UUID{ids[1], ids[0]}},
		"from and to": {between[0], between[1], []uuid.UUID{ids[1]}},
		"nothing":     {between[2], time.Time{}, nil},
		"long ago":    {time.Unix(-1, 0), time.Unix(0, 0), nil},
	} {
		page, err := b.store.PageOrders(t.Context(), db.OrderFilter{From: c.from, To: c.to, Limit: 10})
		require.NoError(t, err, name)
		require.Equal(t, uuid.Nil, page.Next, name)
		var got []uuid.UUID
		for _, o := range page.Orders {
			got = append(got, o.ID)
		}
		require.Equal(t, c.want, got, name)
	}
}

func TestTheCatalogueIsPagedBySKU(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i := range 9 {
		created, err := b.store.PutProduct(t.Context(), millrace.Product{SKU: fmt.Sprintf("X-%d", i), Name: "X", PriceMinor: 1, Currency: "JPY", Active: i%2 == 0})
		require.NoError(t, err)
		require.True(t, created)
	}
	created, err := b.store.PutProduct(t.Context(), millrace.Product{SKU: "X-0", Name: "Y", Description: "two\nlines", PriceMinor: 2, Currency: "KWD", Active: true})
	require.NoError(t, err)
	require.False(t, created, "it was there")
	for _, inactive := range []bool{false, true} {
		for limit := 1; limit <= 15; limit++ {
			var got []string
			after := ""
			for more := true; more; {
				var page []millrace.Product
				page, more, err = b.store.ListProducts(t.Context(), inactive, after, limit)
				require.NoError(t, err)
				for _, p := range page {
					got = append(got, p.SKU)
				}
				after = got[len(got)-1]
			}
			want := []string{"CUP-002", "GONE-000", "RARE-010", "TEA-001", "X-0", "X-2", "X-4", "X-6", "X-8"}
			if inactive {
				want = []string{"CUP-002", "GONE-000", "RARE-010", "TEA-001", "X-0", "X-1", "X-2", "X-3", "X-4", "X-5", "X-6", "X-7", "X-8"}
			}
			require.Equal(t, want, got)
		}
	}
	page, _, err := b.store.ListProducts(t.Context(), false, "TEA-001", 1)
	require.NoError(t, err)
	require.Equal(t, "two\nlines", page[0].Description)
	require.Equal(t, millrace.Currency("KWD"), page[0].Currency)
}

func TestWhatIsAvailableIsOnHandLessReserved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.store.SetStock(t.Context(), "RARE-010", "annex", 5, "operator:test")
	require.NoError(t, err)
	require.NoError(t, reserve(t.Context(), b.store, b.place("RARE-010")))
	products, _, err := b.store.ListProducts(t.Context(), false, "GONE-000", 1)
	require.NoError(t, err)
	require.EqualValues(t, 14, products[0].Available)
	levels, err := b.store.ListStock(t.Context(), "RARE-010")
	require.NoError(t, err)
	require.Equal(t, []millrace.InventoryLevel{{SKU: "RARE-010", Location: "annex", OnHand: 5, Reserved: 1}, {SKU: "RARE-010", Location: "main", OnHand: 10}}, levels)
}

func TestStockIsSetWithinItsBounds(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, reserve(t.Context(), b.store, b.place("RARE-010", "RARE-010")))
	for _, c := range []struct {
		name, sku, location string
		onHand              int64
		code                millrace.Code
	}{
		{"as much as is reserved", "RARE-010", "main", 2, ""},
		{"less than is reserved", "RARE-010", "main", 1, millrace.CodeConflict},
		{"nothing, where nothing is reserved", "TEA-001", "main", 0, ""},
		{"less than nothing", "TEA-001", "main", -1, millrace.CodeInvalid},
		{"as much as may be", "TEA-001", "main", db.MaxOnHand, ""},
		{"too much", "TEA-001", "main", db.MaxOnHand + 1, millrace.CodeInvalid},
		{"an unknown SKU", "NIL-000", "main", 1, millrace.CodeNotFound},
		{"no location", "TEA-001", "", 1, millrace.CodeInvalid},
		{"a location with a zero byte", "TEA-001", "a\x00", 1, millrace.CodeInvalid},
	} {
		_, err := b.store.SetStock(t.Context(), c.sku, c.location, c.onHand, "operator:test")
		require.Equal(t, c.code, millrace.ErrorCode(err), c.name)
	}
	_, err := b.store.ListStock(t.Context(), "NIL-000")
	requireCode(t, millrace.CodeNotFound, err)
	_, err = b.store.PutProduct(t.Context(), millrace.Product{SKU: "x"})
	requireCode(t, millrace.CodeInvalid, err)
	b.requireSound()
}

func TestACustomerIsMadeAtFirstSightOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stores := b.stores(3)
	b.concurrently(30, func(i int) error {
		_, err := stores[i%3].EnsureCustomer(t.Context(), b.ada)
		return err
	})
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM customers"))
	c, err := b.store.FindCustomer(t.Context(), "ada")
	require.NoError(t, err)
	require.Equal(t, []string{"ada", "ada@example.com", "Ada"}, []string{c.Subject, c.Email, c.Name})
	_, err = b.store.FindCustomer(t.Context(), "grace")
	requireCode(t, millrace.CodeNotFound, err)
}

func TestACustomerChangesWhatItNames(t *testing.T) {
	t.Parallel()
	b := setup(t)
	phone, bad, none := "+44 1", "not an address", ""
	address := millrace.Address{Name: "Ada", Line1: "1 Mill Lane", City: "Bath", Country: "GB"}
	c, err := b.store.UpdateCustomer(t.Context(), b.ada, db.CustomerUpdate{Phone: &phone, Address: &address})
	require.NoError(t, err)
	require.Equal(t, "ada@example.com", c.Email)
	require.Equal(t, phone, c.Phone)
	require.Equal(t, &address, c.Address)
	c, err = b.store.UpdateCustomer(t.Context(), b.ada, db.CustomerUpdate{Email: &none, ClearAddress: true})
	require.NoError(t, err)
	require.Empty(t, c.Email)
	require.Nil(t, c.Address)
	require.Equal(t, phone, c.Phone, "what is not named stays")
	for field, u := range map[string]db.CustomerUpdate{"email": {Email: &bad}, "address.name": {Address: &millrace.Address{}}} {
		_, err := b.store.UpdateCustomer(t.Context(), b.ada, u)
		var e *millrace.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, field, e.Field)
	}
}

// What an erased customer gave us is nowhere any more; what the shop must keep, it keeps.
func TestErasingACustomerLeavesNoPersonalData(t *testing.T) {
	t.Parallel()
	b := setup(t)
	secrets := []string{"secret@example.com", "Secret Ada", "Secret Lane", "+44 secret"}
	ada := millrace.Principal{Subject: "ada", Email: secrets[0], Name: secrets[1]}
	address := millrace.Address{Name: secrets[1], Line1: secrets[2], City: "Bath", Country: "GB", Phone: secrets[3]}
	_, err := b.store.UpdateCustomer(t.Context(), ada, db.CustomerUpdate{Phone: &secrets[3], Address: &address})
	require.NoError(t, err)
	r := request("TEA-001")
	r.ShipTo = &address
	p := placement(ada, "k1", r)
	placed, err := b.store.PlaceOrder(t.Context(), p)
	require.NoError(t, err)
	b.drive(placed.Order.ID)
	grace := millrace.Principal{Subject: "grace", Email: "grace@example.com"}
	others, err := b.store.PlaceOrder(t.Context(), placement(grace, "k1", request("TEA-001")))
	require.NoError(t, err)
	before, untouched := b.find(placed.Order.ID), b.find(others.Order.ID)
	require.NotZero(t, b.mentions(secrets), "there was something to erase")

	for range 2 { // erasing twice is once
		require.NoError(t, b.store.EraseCustomer(t.Context(), "ada"))
	}
	require.Zero(t, b.mentions(secrets))
	after := b.find(placed.Order.ID)
	before.Email, before.ShipTo = "", nil
	before.Revision += 2 // what jobs know of the order is outdated
	require.Equal(t, before, after, "the order and its sums stay")
	require.Len(t, b.events(placed.Order.ID), 8)
	require.Equal(t, untouched, b.find(others.Order.ID), "other people's orders stay as they are")
	again, err := b.store.PlaceOrder(t.Context(), p)
	require.NoError(t, err)
	placed.Order.Email, placed.Order.ShipTo = "", nil
	require.Equal(t, db.Placed{Order: placed.Order, Replayed: true}, again, "the key still makes no second order")
	c, err := b.store.FindCustomer(t.Context(), "ada")
	require.NoError(t, err)
	require.NotNil(t, c.ErasedAt)
	requireCode(t, millrace.CodeNotFound, b.store.EraseCustomer(t.Context(), "nobody"))
}

// mentions counts the rows of any table that hold one of the texts, as text or as bytes.
func (b *testBundle) mentions(texts []string) (n int64) {
	b.t.Helper()
	rows, err := b.pool.Query(b.t.Context(), `SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'river')`)
	require.NoError(b.t, err)
	var tables []string
	for rows.Next() {
		var table string
		require.NoError(b.t, rows.Scan(&table))
		tables = append(tables, table)
	}
	require.NoError(b.t, rows.Err())
	require.Greater(b.t, len(tables), 10)
	for _, table := range tables {
		for _, text := range texts {
			n += b.count("SELECT count(*) FROM "+table+" x WHERE x::text LIKE '%' || $1 || '%' OR x::text LIKE '%' || encode(convert_to($1, 'UTF8'), 'hex') || '%'", text)
		}
	}
	return n
}

func TestAPoolNeedsAnAddress(t *testing.T) {
	t.Parallel()
	_, err := db.NewPool(context.Background(), "postgres://%zz", 1)
	require.ErrorContains(t, err, "parse the database URL")
}

// The limits that keep a lost session from holding locks are those of every connection.
func TestEveryConnectionHasItsLimits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for name, want := range map[string]string{"statement_timeout": "15s", "idle_in_transaction_session_timeout": "30s", "TimeZone": "UTC", "application_name": "millrace"} {
		var got string
		require.NoError(t, b.pool.QueryRow(t.Context(), "SELECT current_setting($1)", name).Scan(&got))
		require.Equal(t, want, got, name)
	}
}
