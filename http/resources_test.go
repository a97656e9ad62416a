package http_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
	orderhttp "millrace/http"
)

func TestCancelPutsStockBackAndIsDoneOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada)
	require.NoError(t, b.store.ReserveStock(t.Context(), id))
	path := "/v1/orders/" + id.String() + "/cancel"
	first := into[orderhttp.Order](b.call(ada, "POST", path, `{"reason":"changed my mind"}`).is(http.StatusAccepted))
	require.EqualValues(t, "canceled", first.Status)
	require.Zero(t, b.count("SELECT reserved FROM inventory_levels WHERE sku = 'TEA-001'"))
	again := into[orderhttp.Order](b.call(ada, "POST", path, "").is(http.StatusAccepted))
	require.Equal(t, first.Version, again.Version)

	shipped := b.place(ada)
	b.pay(shipped)
	b.ship(shipped)
	p := b.call(ada, "POST", "/v1/orders/"+shipped.String()+"/cancel", "").problem(http.StatusConflict, millrace.CodeConflict)
	require.Contains(t, p.Detail, "shipped")
	b.call(olga, "POST", "/v1/orders/"+uuid.NewString()+"/cancel", "").problem(http.StatusNotFound, millrace.CodeNotFound)
}

func TestOperatorsHoldReleaseAndRetry(t *testing.T) {
	t.Parallel()
	b := setup(t)
	self := "/v1/orders/" + b.place(ada).String()
	held := into[orderhttp.Order](b.call(olga, "POST", self+"/hold", `{"reason":"check the address"}`).is(http.StatusAccepted))
	require.EqualValues(t, "on_hold", held.Status)
	require.Equal(t, "check the address", held.HoldReason)
	require.Len(t, held.Lines, 1, "the answer is the whole order")
	released := into[orderhttp.Order](b.call(olga, "POST", self+"/release", "").is(http.StatusAccepted))
	require.EqualValues(t, "pending", released.Status)
	jobs := b.count("SELECT count(*) FROM river.river_job")
	b.call(olga, "POST", self+"/retry", "").is(http.StatusAccepted)
	require.Equal(t, jobs+1, b.count("SELECT count(*) FROM river.river_job"))
	b.call(ada, "POST", self+"/cancel", "").is(http.StatusAccepted)
	for _, command := range []string{"/hold", "/release", "/retry"} {
		b.call(olga, "POST", self+command, `{"reason":"late"}`).problem(http.StatusConflict, millrace.CodeConflict)
		b.call(olga, "POST", "/v1/orders/"+uuid.NewString()+command, `{"reason":"late"}`).problem(http.StatusNotFound, millrace.CodeNotFound)
	}
	b.call(olga, "POST", "/v1/orders/"+uuid.NewString()+"/refunds", "", "Idempotency-Key", "k").problem(http.StatusNotFound, millrace.CodeNotFound)
}

func TestTheCatalogueIsPublicAndKeptByOperators(t *testing.T) {
	t.Parallel()
	b := setup(t)
	made := `{"sku":"POT-003","name":"Pot","description":"Holds \"tea\" & <water>","price_minor":2999,"currency":"EUR"}`
	require.True(t, into[orderhttp.ProductKey](b.call(olga, "POST", "/v1/products", made).is(http.StatusCreated)).Created)
	require.False(t, into[orderhttp.ProductKey](b.call(olga, "POST", "/v1/products", made).is(http.StatusCreated)).Created)
	b.call(olga, "POST", "/v1/products", `{"sku":"OLD-009","name":"Old","price_minor":1,"currency":"EUR","active":false}`).is(http.StatusCreated)
	b.call(olga, "PUT", "/v1/inventory/POT-003", `{"on_hand":5}`).is(http.StatusOK)
	b.call(olga, "PUT", "/v1/inventory/POT-003", `{"on_hand":2,"location":"annex"}`).is(http.StatusOK)

	skus := func(who millrace.Principal, query string, limit int) (all []string) {
		for cursor := ""; ; {
			page := into[orderhttp.ProductPage](b.call(who, "GET", fmt.Sprintf("/v1/products?limit=%d&cursor=%s%s", limit, cursor, query), "").is(http.StatusOK))
			for _, p := range page.Products {
				all = append(all, p.SKU)
				if p.SKU == "POT-003" {
					require.EqualValues(t, 7, p.Available, "over all locations")
					require.Equal(t, `Holds "tea" & <water>`, p.Description)
				}
			}
			if cursor = page.NextCursor; cursor == "" {
				return all
			}
		}
	}
	for limit := 1; limit < 7; limit++ {
		require.Equal(t, []string{"CUP-002", "POT-003", "RARE-010", "TEA-001"}, skus(none, "", limit))
		require.Equal(t, []string{"CUP-002", "OLD-009", "POT-003", "RARE-010", "TEA-001"}, skus(olga, "&include_inactive=true", limit))
	}
}

func TestStockIsSetByLocationAndNeverBelowWhatIsReserved(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, b.store.ReserveStock(t.Context(), b.place(ada)))
	stock := into[orderhttp.Inventory](b.call(olga, "GET", "/v1/inventory/TEA-001", "").is(http.StatusOK))
	require.Equal(t, orderhttp.Inventory{SKU: "TEA-001", Levels: []orderhttp.InventoryLevel{{Location: "main", OnHand: 1_000_000, Reserved: 2, Available: 999_998}}}, stock)
	before := b.rows()
	b.call(olga, "PUT", "/v1/inventory/TEA-001", `{"on_hand":1}`).problem(http.StatusConflict, millrace.CodeConflict)
	require.Equal(t, before, b.rows())
	set := into[orderhttp.Inventory](b.call(olga, "PUT", "/v1/inventory/TEA-001", `{"on_hand":2}`).is(http.StatusOK))
	require.Equal(t, []orderhttp.InventoryLevel{{Location: "main", OnHand: 2, Reserved: 2}}, set.Levels)
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM inventory_adjustments WHERE sku = 'TEA-001' AND actor = 'operator:olga'"))
	b.call(olga, "GET", "/v1/inventory/NOPE-1", "").problem(http.StatusNotFound, millrace.CodeNotFound)
}

func TestCustomersKeepTheirDataAndEraseIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.call(ada, "DELETE", "/v1/customers/me", "").is(http.StatusNoContent) // nothing to erase is erased
	me := into[orderhttp.Customer](b.call(ada, "GET", "/v1/customers/me", "").is(http.StatusOK))
	require.Equal(t, "ada@example.com", me.Email)
	require.Nil(t, me.Address)

	profile := `{"email":"ada@home.example","name":"Ada L.","phone":"+44 1","address":{"name":"Ada","line1":"2 Mill Lane","city":"Bath","country":"GB"}}`
	me = into[orderhttp.Customer](b.call(ada, "PUT", "/v1/customers/me", profile).is(http.StatusOK))
	require.Equal(t, "2 Mill Lane", me.Address.Line1)
	placed := into[orderhttp.Order](b.call(ada, "POST", "/v1/orders", `{"lines":[{"sku":"TEA-001","quantity":1}],"payment_method":"pm_ok"}`, "Idempotency-Key", "k").is(http.StatusCreated))
	require.Equal(t, "2 Mill Lane", placed.ShipTo.Line1, "the stored address stands in")

	me = into[orderhttp.Customer](b.call(ada, "PUT", "/v1/customers/me", `{"email":"ada@home.example","name":"Ada"}`).is(http.StatusOK))
	require.Nil(t, me.Address, "what is left out is removed")
	require.Empty(t, me.Phone)
	require.Equal(t, "2 Mill Lane", into[orderhttp.Order](b.call(ada, "GET", placed.Links.Self, "")).ShipTo.Line1, "an order keeps its address")

	for range 2 {
		b.call(ada, "DELETE", "/v1/customers/me", "").is(http.StatusNoContent)
	}
	me = into[orderhttp.Customer](b.call(ada, "GET", "/v1/customers/me", "").is(http.StatusOK))
	require.Empty(t, me.Email)
	require.NotNil(t, me.ErasedAt)
	erased := into[orderhttp.Order](b.call(ada, "GET", placed.Links.Self, "").is(http.StatusOK))
	require.Nil(t, erased.ShipTo)
	require.Empty(t, erased.Email)
	require.Equal(t, placed.TotalMinor, erased.TotalMinor)
}
