package http_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
	orderhttp "millrace/http"
)

// documented is one operation of the OpenAPI document.
type documented struct {
	method, path string
	operation    map[string]any
}

// operations lists what the document describes, so that no test forgets a route.
func (b *testBundle) operations() (all []documented) {
	b.t.Helper()
	var doc struct {
		Paths map[string]map[string]map[string]any `json:"paths"`
	}
	require.NoError(b.t, json.Unmarshal(b.server.OpenAPI(), &doc))
	for _, path := range slices.Sorted(maps.Keys(doc.Paths)) {
		for _, method := range slices.Sorted(maps.Keys(doc.Paths[path])) {
			all = append(all, documented{strings.ToUpper(method), path, doc.Paths[path][method]})
		}
	}
	require.Greater(b.t, len(all), 15)
	return all
}

// concrete is the operation's path with something that exists in it.
func (d documented) concrete(id uuid.UUID) string {
	return strings.NewReplacer("{id}", id.String(), "{sku}", "TEA-001").Replace(d.path)
}

// isPublic reports whether the operation can be called without an identity.
func (d documented) isPublic() bool { return d.method == "GET" && d.path == "/v1/products" }

// isOperators lists what only operators may do. It is written down here, apart from the code.
func (d documented) isOperators() bool {
	switch d.method + " " + d.path {
	case "POST /v1/orders/{id}/refunds", "POST /v1/orders/{id}/hold", "POST /v1/orders/{id}/release", "POST /v1/orders/{id}/retry",
		"POST /v1/products", "GET /v1/inventory/{sku}", "PUT /v1/inventory/{sku}":
		return true
	}
	return false
}

func TestEveryRouteButThePublicOnesNeedsAnIdentity(t *testing.T) {
	t.Parallel()
	b := setup(t, withPages)
	id := b.place(ada)
	before := b.rows()
	for _, d := range b.operations() {
		r := b.call(none, d.method, d.concrete(id), "", "Idempotency-Key", "k")
		if d.isPublic() {
			r.is(http.StatusOK)
			continue
		}
		r.problem(http.StatusUnauthorized, millrace.CodeUnauthorized)
		require.NotEmpty(t, r.header.Get("Www-Authenticate"))
		b.call(none, d.method, d.concrete(id), "", "Test-Subject", "stranger").problem(http.StatusUnauthorized, millrace.CodeUnauthorized)
		b.call(none, d.method, d.concrete(id), "", "Test-Subject", "unreachable").problem(http.StatusServiceUnavailable, millrace.CodeUnavailable)
		b.call(guest, d.method, d.concrete(id), "", "Idempotency-Key", "k").problem(http.StatusForbidden, millrace.CodeForbidden)
	}
	for _, path := range []string{"/v1/", "/v1/nothing", "/v1/orders/" + id.String() + "/nothing", "/v1", "/orders", "/orders/" + id.String(), "/admin", "/admin/", "/admin/river/", "/nothing", "/docsx", "/assetsx"} {
		b.call(none, "GET", path, "").problem(http.StatusUnauthorized, millrace.CodeUnauthorized)
	}
	for _, path := range []string{"/", "/docs", "/docs/", "/assets/x.css", "/favicon.ico", "/openapi.json", "/openapi.yaml", "/simulated/x"} {
		b.call(none, "GET", path, "").is(http.StatusOK)
	}
	for _, path := range []string{"/", "/openapi.json", "/v1/products", "/assets/x.css"} {
		require.NotEqual(t, http.StatusOK, b.call(none, "POST", path, "").status, "only reading is public: %s", path)
	}
	b.call(ada, "GET", "/admin/", "").problem(http.StatusForbidden, millrace.CodeForbidden)
	b.call(olga, "GET", "/admin/", "").is(http.StatusOK)
	b.call(ada, "GET", "/orders/"+id.String(), "").is(http.StatusOK)
	require.Equal(t, before, b.rows())
	require.Contains(t, b.log.String(), "secret cause", "why somebody is not recognized is in the log")
}

// withPages adds pages and a handler of another kind, which say who asks.
func withPages(c *orderhttp.Config) {
	c.Web = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := orderhttp.PrincipalFrom(r)
		fmt.Fprintf(w, "page for %q %v", p.Subject, err == nil)
	})
	c.Extra = map[string]http.Handler{"/simulated/": c.Web, "POST /v1/webhooks/{provider}": c.Web}
}

func TestPagesLearnWhoAsks(t *testing.T) {
	t.Parallel()
	b := setup(t, withPages)
	require.Equal(t, `page for "ada" true`, string(b.call(ada, "GET", "/orders/x", "").is(http.StatusOK).body))
	require.Equal(t, `page for "ada" true`, string(b.call(ada, "GET", "/", "").is(http.StatusOK).body))
	require.Equal(t, `page for "" false`, string(b.call(none, "GET", "/", "").is(http.StatusOK).body))
	require.Equal(t, `page for "" false`, string(b.call(none, "POST", "/v1/webhooks/stripe", "{}").is(http.StatusOK).body))
	b.call(ada, "GET", "/orders?q=a%00b", "").problem(http.StatusBadRequest, millrace.CodeInvalid)
	b.call(none, "GET", "/v1/webhooks/stripe", "").problem(http.StatusUnauthorized, millrace.CodeUnauthorized)
}

func TestOperatorsRoutesAreClosedToCustomers(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada)
	before := b.rows()
	closed := 0
	for _, d := range b.operations() {
		if d.isOperators() {
			closed++
			b.call(ada, d.method, d.concrete(id), "", "Idempotency-Key", "k").problem(http.StatusForbidden, millrace.CodeForbidden)
			b.call(ada, d.method, d.concrete(id), "not JSON", "Idempotency-Key", "k").problem(http.StatusForbidden, millrace.CodeForbidden)
		}
	}
	require.Equal(t, 7, closed)
	b.call(ada, "GET", "/v1/products?include_inactive=true", "").problem(http.StatusForbidden, millrace.CodeForbidden)
	b.call(none, "GET", "/v1/products?include_inactive=true", "").problem(http.StatusUnauthorized, millrace.CodeUnauthorized)
	require.Equal(t, before, b.rows())
}

func TestAnotherCustomersOrderIsAsUnknownAsOneThatIsNot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	hers := b.place(ada)
	b.place(bob) // bob is a customer, too
	before := b.rows()
	tried := 0
	for _, d := range b.operations() {
		if !strings.Contains(d.path, "{id}") || d.isOperators() {
			continue
		}
		tried++
		theirs := b.call(bob, d.method, d.concrete(hers), "").problem(http.StatusNotFound, millrace.CodeNotFound)
		nobodys := b.call(bob, d.method, d.concrete(uuid.New()), "").problem(http.StatusNotFound, millrace.CodeNotFound)
		theirs.RequestID, nobodys.RequestID = "", ""
		require.Equal(t, nobodys, theirs, "%s %s", d.method, d.path)
	}
	require.Equal(t, 4, tried, "get, events, stream, cancel")
	require.Equal(t, before, b.rows())

	require.NotContains(t, string(b.call(bob, "GET", "/v1/orders", "").body), hers.String())
	require.Contains(t, string(b.call(olga, "GET", "/v1/orders", "").body), hers.String())
	require.NotContains(t, string(b.call(bob, "GET", "/v1/orders?sku=TEA-001", "").body), hers.String())
	cursor := into[orderhttp.OrderPage](b.call(olga, "GET", "/v1/orders?limit=1", "").is(http.StatusOK)).NextCursor
	require.NotContains(t, string(b.call(bob, "GET", "/v1/orders?cursor="+cursor, "").body), hers.String(), "a cursor of an operator's opens nothing")
	require.Equal(t, "bob@example.com", into[orderhttp.Customer](b.call(bob, "GET", "/v1/customers/me", "").is(http.StatusOK)).Email)
}

func TestOnlyOperatorsSeeWhyAnOrderIsHeldAndWhoActed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada)
	self := "/v1/orders/" + id.String()
	held := b.call(olga, "POST", self+"/hold", `{"reason":"looks like fraud"}`).is(http.StatusAccepted)
	require.Equal(t, "looks like fraud", into[orderhttp.Order](held).HoldReason)
	for _, path := range []string{self, self + "/events", "/v1/orders"} {
		known := string(b.call(olga, "GET", path, "").body)
		if path == self+"/events" {
			require.Contains(t, known, "olga", path)
		} else {
			require.Contains(t, known, "looks like fraud", path)
		}
		seen := string(b.call(ada, "GET", path, "").body)
		require.Contains(t, seen, "on_hold", path)
		require.NotContains(t, seen, "looks like fraud", path)
		require.NotContains(t, seen, "olga", path)
		require.NotContains(t, seen, "received_seq", path)
	}
}

func TestUnknownPathsAndMethodsAreProblems(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*orderhttp.Config){"with pages": withPages, "without pages": func(*orderhttp.Config) {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, change)
			b.call(ada, "GET", "/v1/nothing", "").problem(http.StatusNotFound, millrace.CodeNotFound)
			b.call(ada, "GET", "/v1/orders/"+uuid.NewString()+"/nothing", "").problem(http.StatusNotFound, millrace.CodeNotFound)
			for path, allowed := range map[string][]string{"/v1/orders": {"GET", "POST"}, "/v1/customers/me": {"GET", "PUT", "DELETE"},
				"/v1/orders/" + uuid.NewString() + "/cancel": {"POST"}, "/v1/inventory/TEA-001": {"GET", "PUT"}} {
				r := b.call(olga, "PATCH", path, "{}")
				p := r.problem(http.StatusMethodNotAllowed, "method_not_allowed")
				for _, method := range allowed {
					require.Contains(t, r.header.Get("Allow"), method, path)
					require.Contains(t, p.Detail, method, path)
				}
			}
		})
	}
}
