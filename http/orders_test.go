package http_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"millrace"
	orderhttp "millrace/http"
)

func TestAnOrderIsPlacedAndRead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	placed := b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k1").is(http.StatusCreated)
	o := into[orderhttp.Order](placed)
	require.Equal(t, "/v1/orders/"+o.ID.String(), placed.header.Get("Location"))
	require.Equal(t, "application/json", placed.header.Get("Content-Type"))
	require.EqualValues(t, 2500, o.TotalMinor)
	require.Equal(t, "EUR", o.Currency)
	require.Equal(t, []orderhttp.OrderLine{{N: 1, SKU: "TEA-001", Name: "A TEA-001", Quantity: 2, UnitPriceMinor: 1250, TotalMinor: 2500}}, o.Lines)
	require.Equal(t, "ada@example.com", o.Email, "the identity's, where the request has none")
	require.Equal(t, o.Links.Self+"/stream", o.Links.Stream)
	require.NotContains(t, string(placed.body), "received_seq")

	read := b.call(ada, "GET", o.Links.Self, "").is(http.StatusOK)
	require.Equal(t, string(placed.body), string(read.body), "the order read is the order answered")
	require.Equal(t, "no-store", read.header.Get("Cache-Control"))
	require.Equal(t, "nosniff", read.header.Get("X-Content-Type-Options"))
	b.call(olga, "GET", o.Links.Self, "").is(http.StatusOK)
	b.call(bob, "GET", o.Links.Self, "").problem(http.StatusNotFound, millrace.CodeNotFound)

	b.pay(o.ID)
	b.ship(o.ID)
	o = into[orderhttp.Order](b.call(ada, "GET", o.Links.Self, "").is(http.StatusOK))
	require.EqualValues(t, 2500, o.CapturedMinor)
	require.Equal(t, "T1", o.Shipment.TrackingNumber)
}
