package http_test

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"millrace"
	orderhttp "millrace/http"
)

// walk follows cursors from the first page to the last and returns the ids in their order. between is called before each further page.
func (b *testBundle) walk(who millrace.Principal, query string, limit int, between func()) (ids []uuid.UUID) {
	b.t.Helper()
	cursor := ""
	for {
		page := into[orderhttp.OrderPage](b.call(who, "GET", fmt.Sprintf("/v1/orders?limit=%d&cursor=%s%s", limit, cursor, query), "").is(http.StatusOK))
		require.LessOrEqual(b.t, len(page.Orders), limit)
		for _, o := range page.Orders {
			ids = append(ids, o.ID)
		}
		if cursor = page.NextCursor; cursor == "" {
			return ids
		}
		require.NotEmpty(b.t, page.Orders, "a page that is not the last holds something")
		between()
	}
}

func TestAllPagesTogetherAreAllOrdersOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	everyones := 0
	rapid.Check(t, func(r *rapid.T) {
		customer := millrace.Principal{Subject: "customer-" + uuid.NewString()}
		var placed []uuid.UUID
		for range rapid.IntRange(0, 12).Draw(r, "placed before") {
			placed = append(placed, b.place(customer))
		}
		everyones += len(placed)
		slices.Reverse(placed)
		limit := rapid.IntRange(1, 13).Draw(r, "limit")
		got := b.walk(customer, "", limit, func() {
			if rapid.Bool().Draw(r, "one more comes in") {
				b.place(customer)
				everyones++
			}
		})
		require.Equal(b.t, placed, got, "what was there before the walk, newest first, and nothing twice")
	})
	got := b.walk(olga, "", 100, func() {})
	require.Len(t, got, everyones)
	require.True(t, slices.IsSortedFunc(got, func(a, b uuid.UUID) int { return strings.Compare(b.String(), a.String()) }), "newest first")
}

func TestOrdersAreFiltered(t *testing.T) {
	t.Parallel()
	b := setup(t)
	pending := b.place(ada)
	canceled := b.place(ada)
	b.call(ada, "POST", "/v1/orders/"+canceled.String()+"/cancel", "").is(http.StatusAccepted)
	cups := into[orderhttp.Order](b.call(ada, "POST", "/v1/orders", order(`[{"sku":"CUP-002","quantity":1},{"sku":"CUP-002","quantity":2}]`),
		"Idempotency-Key", "cups").is(http.StatusCreated))
	at := cups.PlacedAt.UTC().Format(time.RFC3339Nano)
	past := cups.PlacedAt.Add(-time.Hour).In(time.FixedZone("", 7200)).Format(time.RFC3339)
	for query, want := range map[string][]uuid.UUID{
		"&status=pending":                {cups.ID, pending},
		"&status=canceled":               {canceled},
		"&status=completed":              nil,
		"&sku=CUP-002":                   {cups.ID},
		"&sku=TEA-001&status=pending":    {pending},
		"&sku=NONE":                      nil,
		"&from=" + url.QueryEscape(past): {cups.ID, canceled, pending},
		"&to=" + url.QueryEscape(past):   nil,
		"&from=9999-12-31T23:59:59Z":     nil,
		"&from=0001-01-02T00:00:00Z&to=9999-12-31T23:59:59Z": {cups.ID, canceled, pending},
	} {
		require.Equal(t, want, b.walk(ada, query, 1, func() {}), query)
		require.Equal(t, want, b.walk(ada, query, 100, func() {}), query)
	}
	require.Contains(t, b.walk(ada, "&from="+at, 100, func() {}), cups.ID, "from includes the time itself")
}

func TestACustomerWithoutOrdersHasAnEmptyListAndIsNotWritten(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.call(ada, "GET", "/v1/orders", "").is(http.StatusOK)
	require.JSONEq(t, `{"orders":[]}`, string(r.body))
	require.Zero(t, b.count("SELECT count(*) FROM customers"))
}

func TestAnOrderIsReadAgainOnlyIfItChanged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	self := "/v1/orders/" + b.place(ada).String()
	first := b.call(ada, "GET", self, "").is(http.StatusOK)
	etag := first.header.Get("ETag")
	require.Regexp(t, `^"1-[0-9a-f]{12}"$`, etag)
	same := b.call(ada, "GET", self, "", "If-None-Match", etag).is(http.StatusNotModified)
	require.Empty(t, same.body)
	require.Equal(t, etag, same.header.Get("ETag"))
	require.Empty(t, same.header.Get("Content-Type"))
	b.call(ada, "GET", self, "", "If-None-Match", `"other", W/`+etag).is(http.StatusNotModified)
	b.call(ada, "GET", self, "", "If-None-Match", `"other"`).is(http.StatusOK)
	b.call(olga, "POST", self+"/hold", `{"reason":"wait"}`).is(http.StatusAccepted)
	changed := b.call(ada, "GET", self, "", "If-None-Match", etag).is(http.StatusOK)
	require.Regexp(t, `^"2-`, changed.header.Get("ETag"))
	require.NotEqual(t, changed.header.Get("ETag"), b.call(olga, "GET", self, "").header.Get("ETag"), "operators see more")
	require.Empty(t, b.call(ada, "HEAD", self, "").is(http.StatusOK).body)
}

func TestHistoryIsPagedByVersion(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada)
	b.pay(id)
	b.ship(id)
	path := "/v1/orders/" + id.String() + "/events"
	all := into[orderhttp.EventPage](b.call(ada, "GET", path, "").is(http.StatusOK)).Events
	require.Len(t, all, 5)
	for i, e := range all {
		require.EqualValues(t, i+1, e.Version)
		require.Equal(t, id, e.OrderID)
		require.Empty(t, e.Actor)
	}
	for limit := 1; limit <= 6; limit++ {
		var walked []orderhttp.Event
		for cursor := ""; ; {
			page := into[orderhttp.EventPage](b.call(ada, "GET", fmt.Sprintf("%s?limit=%d&cursor=%s", path, limit, cursor), "").is(http.StatusOK))
			walked = append(walked, page.Events...)
			if cursor = page.NextCursor; cursor == "" {
				break
			}
		}
		require.Equal(t, all, walked)
	}
	require.Equal(t, all[3:], into[orderhttp.EventPage](b.call(ada, "GET", path+"?after=3", "").is(http.StatusOK)).Events)
	require.Equal(t, "job:test", into[orderhttp.EventPage](b.call(olga, "GET", path+"?after=4", "").is(http.StatusOK)).Events[0].Actor)
}
