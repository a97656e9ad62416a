package http_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
	orderhttp "millrace/http"
)

// bad is one request that can never succeed.
type bad struct {
	name     string
	who      millrace.Principal // ada unless set
	method   string             // POST unless set
	path     string             // /v1/orders unless set
	body     string
	headers  []string
	status   int           // 400 unless set
	code     millrace.Code // invalid unless set
	location string        // where the fault is, if it can be said
	says     string        // part of the message
}

const shipTo = `"ship_to":{"name":"Ada","line1":"1 Mill Lane","city":"Bath","country":"GB"}`

// order is a request body with these lines.
func order(lines string, more ...string) string {
	return `{"lines":` + lines + `,"payment_method":"pm_ok",` + strings.Join(append(more, shipTo), ",") + `}`
}

// quantity is a request body for a quantity written like this.
func quantity(n string) string { return order(`[{"sku":"TEA-001","quantity":` + n + `}]`) }

// addressed is a request body with this address.
func addressed(address string) string {
	return `{"lines":[{"sku":"TEA-001","quantity":1}],"payment_method":"pm_ok","ship_to":` + address + `}`
}

func badOrders() []bad {
	const q = "body.lines[0].quantity"
	return []bad{
		{name: "unknown SKU", body: order(`[{"sku":"TEA-001","quantity":1},{"sku":"NOPE-1","quantity":1}]`), location: "body.lines[1].sku", says: "GET /v1/products"},
		{name: "a product that is not for sale", body: order(`[{"sku":"OLD-009","quantity":1}]`), location: "body.lines[0].sku"},
		{name: "SKU in small letters", body: order(`[{"sku":"tea-001","quantity":1}]`), location: "body.lines[0].sku", says: "capital letters"},
		{name: "SKU with a NUL", body: order(`[{"sku":"TEA\u0000","quantity":1}]`), location: "body.lines[0].sku"},
		{name: "SKU that is a number", body: order(`[{"sku":1,"quantity":1}]`), location: "body.lines[0].sku", says: "string"},
		{name: "quantity zero", body: quantity("0"), location: q, says: "at least 1"},
		{name: "negative quantity", body: quantity("-1"), location: q, says: "at least 1"},
		{name: "quantity over the limit", body: quantity("10001"), location: q, says: "at most 10000"},
		{name: "quantity beyond 32 bits", body: quantity("99999999999"), location: q, says: "at most 10000"},
		{name: "quantity beyond 64 bits", body: quantity("99999999999999999999"), location: q, says: "at most 10000"},
		{name: "quantity beyond a double", body: quantity("1e400"), location: "body"},
		{name: "fractional quantity", body: quantity("1.5"), location: q, says: "whole number"},
		{name: "whole quantity written with a point", body: quantity("2.0"), says: "plain digits"},
		{name: "whole quantity written with an exponent", body: quantity("1e1"), says: "plain digits"},
		{name: "quantity as text", body: quantity(`"1"`), location: q, says: "whole number"},
		{name: "quantity null", body: quantity("null"), location: q, says: "whole number"},
		{name: "quantity missing", body: order(`[{"sku":"TEA-001"}]`), location: "body.lines[0]", says: "quantity is required"},
		{name: "no lines", body: order(`[]`), location: "body.lines", says: "at least 1"},
		{name: "lines missing", body: `{"payment_method":"pm_ok"}`, location: "body", says: "lines is required"},
		{name: "lines null", body: order(`null`), location: "body.lines"},
		{name: "lines that are an object", body: order(`{}`), location: "body.lines", says: "array"},
		{name: "too many lines", body: order(`[` + strings.TrimSuffix(strings.Repeat(`{"sku":"TEA-001","quantity":1},`, 101), ",") + `]`), location: "body.lines", says: "at most 100"},
		{name: "a line's total that overflows", body: order(`[{"sku":"GOLD-1","quantity":2}]`), says: "split the order"},
		{name: "an order's total that overflows", body: order(`[{"sku":"GOLD-1","quantity":1},{"sku":"TEA-001","quantity":1}]`), says: "split the order"},
		{name: "unknown currency", body: order(`[{"sku":"TEA-001","quantity":1}]`, `"currency":"XXX"`), location: "body.currency", says: "ISO 4217"},
		{name: "another currency than the product's", body: order(`[{"sku":"TEA-001","quantity":1}]`, `"currency":"USD"`), location: "body.lines[0].sku", says: "EUR"},
		{name: "two currencies in one order", body: order(`[{"sku":"TEA-001","quantity":1},{"sku":"YEN-1","quantity":1}]`), location: "body.lines[1].sku", says: "one currency"},
		{name: "a price of the client's own", body: order(`[{"sku":"TEA-001","quantity":1,"unit_price_minor":1}]`), location: "body.lines[0].unit_price_minor", says: "no such field"},
		{name: "a total of the client's own", body: order(`[{"sku":"TEA-001","quantity":1}]`, `"total_minor":1`), location: "body.total_minor", says: "no such field"},
		{name: "a field in other letters", body: order(`[{"sku":"TEA-001","quantity":1}]`, `"Currency":"EUR"`), location: "body.Currency", says: "no such field"},
		{name: "payment method missing", body: `{"lines":[{"sku":"TEA-001","quantity":1}],` + shipTo + `}`, location: "body", says: "payment_method is required"},
		{name: "payment method with a space", body: `{"lines":[{"sku":"TEA-001","quantity":1}],"payment_method":"pm ok",` + shipTo + `}`, location: "body.payment_method", says: "token"},
		{name: "e-mail that is none", body: order(`[{"sku":"TEA-001","quantity":1}]`, `"email":"nobody"`), location: "body.email", says: "name@example.com"},
		{name: "no address, and none stored", body: `{"lines":[{"sku":"TEA-001","quantity":1}],"payment_method":"pm_ok"}`, location: "body.ship_to", says: "PUT /v1/customers/me"},
		{name: "address without a city", body: addressed(`{"name":"Ada","line1":"1 Mill Lane","country":"GB"}`), location: "body.ship_to", says: "city is required"},
		{name: "address with a blank name", body: addressed(`{"name":" ","line1":"1 Mill Lane","city":"Bath","country":"GB"}`), location: "body.ship_to.name"},
		{name: "country by name", body: addressed(`{"name":"Ada","line1":"1 Mill Lane","city":"Bath","country":"Britain"}`), location: "body.ship_to.country", says: "ISO 3166-1"},
		{name: "address with a line break", body: addressed(`{"name":"Ada\nEve","line1":"1 Mill Lane","city":"Bath","country":"GB"}`), location: "body.ship_to.name", says: "printable"},
		{name: "address with a NUL", body: addressed(`{"name":"Ada\u0000","line1":"1 Mill Lane","city":"Bath","country":"GB"}`), location: "body.ship_to.name"},
		{name: "address longer than 200 bytes", body: addressed(`{"name":"` + strings.Repeat("a", 201) + `","line1":"1 Mill Lane","city":"Bath","country":"GB"}`), location: "body.ship_to.name", says: "200"},

		{name: "broken JSON", body: `{"lines":[}`, location: "body", says: "byte 11"},
		{name: "JSON cut short", body: teaOrder[:len(teaOrder)-1], location: "body", says: "not valid JSON"},
		{name: "more after the JSON", body: teaOrder + "{}", location: "body", says: "not valid JSON"},
		{name: "JSON that is an array", body: `[]`, location: "body", says: "object"},
		{name: "JSON null", body: `null`, location: "body", says: "object"},
		{name: "JSON text", body: `"order"`, location: "body", says: "object"},
		{name: "nesting without an end", body: strings.Repeat("[", 20_000), location: "body"},
		{name: "no body", body: "", says: "body is required"},
		{name: "bad UTF-8", body: strings.Replace(teaOrder, "Ada", "Ad\xff", 1), location: "body", says: "UTF-8"},
		{name: "text/plain", body: teaOrder, headers: []string{"Content-Type", "text/plain"}, status: 415, code: "unsupported_media_type", says: "application/json"},
		{name: "a form", body: "lines=1", headers: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 415, code: "unsupported_media_type"},
		{name: "no content type", body: teaOrder, headers: []string{"Content-Type", ""}, status: 415, code: "unsupported_media_type"},
		{name: "another charset", body: teaOrder, headers: []string{"Content-Type", "application/json; charset=iso-8859-1"}, status: 415, code: "unsupported_media_type"},
		{name: "a kind of JSON of its own", body: teaOrder, headers: []string{"Content-Type", "application/vnd.shop+json"}, status: 415, code: "unsupported_media_type"},
		{name: "a compressed body", body: teaOrder, headers: []string{"Content-Encoding", "gzip"}, status: 415, code: "unsupported_media_type"},
		{name: "a body over 64 KiB", body: teaOrder + strings.Repeat(" ", 64<<10), status: 413, code: millrace.CodeTooLarge, says: "65536"},

		{name: "no key", body: teaOrder, headers: []string{"Idempotency-Key", ""}, location: "header.Idempotency-Key", says: "required"},
		{name: "a key over 255 characters", body: teaOrder, headers: []string{"Idempotency-Key", strings.Repeat("k", 256)}, location: "header.Idempotency-Key", says: "255"},
		{name: "a key beyond ASCII", body: teaOrder, headers: []string{"Idempotency-Key", "schlüssel"}, location: "header.Idempotency-Key", says: "ASCII"},
		{name: "a key with a tab", body: teaOrder, headers: []string{"Idempotency-Key", "a\tb"}, location: "header.Idempotency-Key"},
		{name: "a query that placing an order has not", path: "/v1/orders?dry_run=true", body: teaOrder, location: "query.dry_run"},
	}
}

// badReads are requests about things that are there, under wrong names. id is an order of ada's.
func badReads(id uuid.UUID) []bad {
	self := "/v1/orders/" + id.String()
	encode := base64.RawURLEncoding.EncodeToString
	var all []bad
	for name, bad := range map[string]string{
		"a word": "mine", "too short": id.String()[:35], "with braces": "%7B" + id.String() + "%7D", "without dashes": strings.ReplaceAll(id.String(), "-", ""),
		"as a URN": "urn:uuid:" + id.String(), "with a slash": "a%2Fb", "with SQL": "'%20OR%201=1--", "beyond hex": "z" + id.String()[1:],
	} {
		for method, suffix := range map[string]string{"GET": "", "GET ": "/events", "GET  ": "/stream", "POST": "/cancel"} {
			all = append(all, badRead("an id "+name+suffix, strings.TrimSpace(method), "/v1/orders/"+bad+suffix, "path.id", "UUID"))
		}
	}
	for name, cursor := range map[string]string{
		"of letters": "abc", "with padding": encode(append([]byte("o\x01"), id[:]...)) + "==", "that is empty inside": encode([]byte("o\x01")),
		"of a version to come": encode(append([]byte("o\x02"), id[:]...)), "of another list": encode(append([]byte("p\x01"), id[:]...)),
		"cut short": encode(append([]byte("o\x01"), id[:15]...)), "drawn out": encode(append([]byte("o\x01"), append(id[:], 0)...)),
		"of nothing": encode(append([]byte("o\x01"), make([]byte, 16)...)),
	} {
		all = append(all, badRead("a cursor "+name, "GET", "/v1/orders?cursor="+cursor, "query.cursor", "next_cursor"))
	}
	all = append(all,
		badRead("a cursor of orders for events", "GET", self+"/events?cursor="+encode(append([]byte("o\x01"), id[:]...)), "query.cursor", ""),
		badRead("a cursor of events below zero", "GET", self+"/events?cursor="+encode([]byte("e\x01\xff\xff\xff\xff")), "query.cursor", ""),
		badRead("a cursor of products with a NUL", "GET", "/v1/products?cursor="+encode([]byte("p\x01A\x00B")), "query.cursor", ""),
		badRead("a cursor of products in bad UTF-8", "GET", "/v1/products?cursor="+encode([]byte("p\x01\xff\xff\xff")), "query.cursor", ""),
		badRead("a cursor without an end", "GET", "/v1/orders?cursor="+strings.Repeat("A", 300), "query.cursor", "200"),
		badRead("a status that is none", "GET", "/v1/orders?status=lost", "query.status", "on_hold"),
		badRead("a SKU that is none", "GET", "/v1/orders?sku=%27", "query.sku", "SKU"),
		badRead("a limit of zero", "GET", "/v1/orders?limit=0", "query.limit", "at least 1"),
		badRead("a limit beyond a page", "GET", "/v1/orders?limit=101", "query.limit", "at most 100"),
		badRead("a limit in words", "GET", "/v1/orders?limit=ten", "query.limit", "integer"),
		badRead("a time without a zone", "GET", "/v1/orders?from=2026-01-01T00:00:00", "query.from", ""),
		badRead("a time whose plus became a space", "GET", "/v1/orders?from=2026-01-01T00:00:00+02:00", "query.from", ""),
		badRead("a time that ends before it begins", "GET", "/v1/orders?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", "query.from", "earlier"),
		badRead("an unknown filter", "GET", "/v1/orders?state=lost", "query.state", "unknown"),
		badRead("a filter given twice", "GET", "/v1/orders?limit=1&limit=2", "query.limit", "more than once"),
		badRead("a query that does not decode", "GET", "/v1/orders?sku=%zz", "", "percent-encode"),
		badRead("a query in bad UTF-8", "GET", "/v1/orders?sku=%ff", "query.sku", "UTF-8"),
		badRead("a query with a NUL", "GET", "/v1/orders?sku=A%00", "query.sku", ""),
		badRead("a version below zero", "GET", self+"/events?after=-1", "query.after", "at least 0"),
		badRead("a version beyond 32 bits", "GET", self+"/events?after=2147483648", "query.after", ""),
		badRead("a path with empty segments", "GET", "/v1//orders", "", "path"),
		badRead("a path with dot segments", "GET", "/v1/x/%2e%2e/orders", "", "path"),
		bad{name: "a Last-Event-ID from the future", method: "GET", path: self + "/stream", headers: []string{"Last-Event-ID", "99"}, location: "header.Last-Event-ID", says: "past this order's last event"},
		bad{name: "a Last-Event-ID that is no number", method: "GET", path: self + "/stream", headers: []string{"Last-Event-ID", "last"}, location: "header.Last-Event-ID", says: "whole number"},
		bad{name: "a negative Last-Event-ID", method: "GET", path: self + "/stream", headers: []string{"Last-Event-ID", "-1"}, location: "header.Last-Event-ID"},
		bad{name: "a last_event_id that is no number", method: "GET", path: self + "/stream?last_event_id=1.5", location: "header.Last-Event-ID"},
		bad{name: "a cursor of all orders from the future", method: "GET", path: "/v1/stream", headers: []string{"Last-Event-ID", "a_________38"}, location: "header.Last-Event-ID"},
		bad{name: "a version for a cursor of all orders", method: "GET", path: "/v1/stream", headers: []string{"Last-Event-ID", "1"}, location: "header.Last-Event-ID"},
	)
	return all
}

func badRead(name, method, path, location, says string) bad {
	return bad{name: name, method: method, path: path, location: location, says: says}
}

// badCommands are requests to change an order, the catalogue, the stock or a customer.
func badCommands(id uuid.UUID) []bad {
	self := "/v1/orders/" + id.String()
	return []bad{
		{name: "a reason to cancel with a NUL", path: self + "/cancel", body: `{"reason":"a\u0000"}`, location: "body.reason", says: "printable"},
		{name: "a reason to cancel that is long", path: self + "/cancel", body: `{"reason":"` + strings.Repeat("é", 150) + `"}`, location: "body.reason", says: "200"},
		{name: "a cancel with more", path: self + "/cancel", body: `{"refund":true}`, location: "body.refund"},
		{name: "a refund without a key", who: olga, path: self + "/refunds", body: `{}`, headers: []string{"Idempotency-Key", ""}, location: "header.Idempotency-Key"},
		{name: "a refund of nothing", who: olga, path: self + "/refunds", body: `{"amount_minor":0}`, location: "body.amount_minor", says: "at least 1"},
		{name: "a refund below nothing", who: olga, path: self + "/refunds", body: `{"amount_minor":-5}`, location: "body.amount_minor"},
		{name: "a refund of half a cent", who: olga, path: self + "/refunds", body: `{"amount_minor":0.5}`, location: "body.amount_minor"},
		{name: "a refund beyond 64 bits", who: olga, path: self + "/refunds", body: `{"amount_minor":9223372036854775808}`, location: "body.amount_minor"},
		{name: "a hold without a reason", who: olga, path: self + "/hold", body: `{}`, location: "body", says: "reason is required"},
		{name: "a hold without a body", who: olga, path: self + "/hold"},
		{name: "a hold for blanks", who: olga, path: self + "/hold", body: `{"reason":"  "}`, location: "body.reason"},
		{name: "a product without a price", who: olga, path: "/v1/products", body: `{"sku":"NEW-1","name":"New","currency":"EUR"}`, location: "body", says: "price_minor is required"},
		{name: "a product for nothing", who: olga, path: "/v1/products", body: `{"sku":"NEW-1","name":"New","currency":"EUR","price_minor":0}`, location: "body.price_minor"},
		{name: "a product in an unknown currency", who: olga, path: "/v1/products", body: `{"sku":"NEW-1","name":"New","currency":"XXX","price_minor":1}`, location: "body.currency"},
		{name: "a product with a NUL", who: olga, path: "/v1/products", body: `{"sku":"NEW-1","name":"New","description":"a\u0000","currency":"EUR","price_minor":1}`, location: "body.description"},
		{name: "a product with a SKU of spaces", who: olga, path: "/v1/products", body: `{"sku":"A B","name":"New","currency":"EUR","price_minor":1}`, location: "body.sku"},
		{name: "stock below nothing", who: olga, method: "PUT", path: "/v1/inventory/TEA-001", body: `{"on_hand":-1}`, location: "body.on_hand"},
		{name: "stock without a number", who: olga, method: "PUT", path: "/v1/inventory/TEA-001", body: `{}`, location: "body", says: "on_hand is required"},
		{name: "stock beyond the shelf", who: olga, method: "PUT", path: "/v1/inventory/TEA-001", body: `{"on_hand":1000000001}`, location: "body.on_hand"},
		{name: "stock at a place with a NUL", who: olga, method: "PUT", path: "/v1/inventory/TEA-001", body: `{"on_hand":1,"location":"a\u0000"}`, location: "body.location"},
		{name: "stock of a SKU that is none", who: olga, method: "PUT", path: "/v1/inventory/tea", body: `{"on_hand":1}`, location: "path.sku", says: "SKU"},
		{name: "stock of an unknown SKU", who: olga, method: "PUT", path: "/v1/inventory/NOPE-1", body: `{"on_hand":1}`, status: 404, code: millrace.CodeNotFound, says: "POST /v1/products"},
		{name: "a customer without an e-mail", method: "PUT", path: "/v1/customers/me", body: `{"name":"Ada"}`, location: "body", says: "email is required"},
		{name: "a customer with a broken e-mail", method: "PUT", path: "/v1/customers/me", body: `{"name":"Ada","email":"a@b@c"}`, location: "body.email"},
		{name: "a customer with a broken address", method: "PUT", path: "/v1/customers/me", body: `{"name":"Ada","email":"a@b.c","address":{"name":"Ada","line1":"1","city":"Bath","country":"UK!"}}`, location: "body.address.country"},
	}
}

func TestBadInputIsRefusedAndWritesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, p := range []millrace.Product{
		{SKU: "OLD-009", Name: "Old", PriceMinor: 1, Currency: "EUR"},
		{SKU: "GOLD-1", Name: "Gold", PriceMinor: millrace.MaxAmount, Currency: "EUR", Active: true},
		{SKU: "YEN-1", Name: "Yen", PriceMinor: 100, Currency: "JPY", Active: true},
	} {
		_, err := b.store.PutProduct(t.Context(), p)
		require.NoError(t, err)
	}
	id := b.place(ada)
	before := b.rows()
	stored := b.call(ada, "GET", "/v1/orders/"+id.String(), "").body
	for _, c := range append(append(badOrders(), badReads(id)...), badCommands(id)...) {
		t.Run(c.name, func(t *testing.T) {
			c = c.complete()
			r := b.in(t).call(c.who, c.method, c.path, c.body, append([]string{"Idempotency-Key", "bad"}, c.headers...)...)
			p := r.problem(c.status, c.code)
			require.Contains(t, p.Detail, c.says)
			if c.location != "" {
				require.NotEmpty(t, p.Errors, "%s", r.body)
				require.Equal(t, c.location, p.Errors[0].Location, "%s", r.body)
				require.NotEmpty(t, p.Errors[0].Message)
			}
			require.Equal(t, before, b.rows(), "nothing is written")
		})
	}
	require.Equal(t, stored, b.call(ada, "GET", "/v1/orders/"+id.String(), "").body, "the order is as it was")
	b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "bad").is(http.StatusCreated) // a refused request takes no key
}

func (c bad) complete() bad {
	if c.who.Subject == "" {
		c.who = ada
	}
	if c.method == "" {
		c.method = "POST"
	}
	if c.path == "" {
		c.path = "/v1/orders"
	}
	if c.status == 0 {
		c.status = http.StatusBadRequest
	}
	if c.code == "" {
		c.code = millrace.CodeInvalid
	}
	return c
}

// in is the bundle for a subtest.
func (b *testBundle) in(t *testing.T) *testBundle {
	t.Helper()
	sub := *b
	sub.t = t
	return &sub
}

func TestABodyOfUnknownLengthIsBoundedAsWell(t *testing.T) {
	t.Parallel()
	b := setup(t)
	before := b.rows()
	r := b.request(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k")
	r.Body, r.ContentLength = io.NopCloser(io.MultiReader(strings.NewReader(teaOrder), &blanks{64 << 10})), -1
	resp, err := b.client.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	(&reply{t: t, status: resp.StatusCode, header: resp.Header, body: body}).problem(http.StatusRequestEntityTooLarge, millrace.CodeTooLarge)
	require.Equal(t, before, b.rows())
}

func TestABodyThatDoesNotArriveIsGivenUp(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *orderhttp.Config) { c.BodyTimeout = 100 * time.Millisecond })
	before := b.rows()
	for _, c := range []struct {
		name, head string
		status     int
		code       millrace.Code
	}{
		{"a call's", "POST /v1/orders HTTP/1.1\r\nTest-Subject: ada\r\nIdempotency-Key: k\r\nContent-Type: application/json\r\n", 408, "request_timeout"},
		{"a stranger's", "POST /v1/orders HTTP/1.1\r\n", 401, millrace.CodeUnauthorized},
		{"one for nowhere", "POST /v1/nowhere HTTP/1.1\r\nTest-Subject: ada\r\n", 404, millrace.CodeNotFound},
		{"one that nobody reads", "GET /v1/orders HTTP/1.1\r\nTest-Subject: ada\r\n", 200, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var dialer net.Dialer
			conn, err := dialer.DialContext(t.Context(), "tcp", strings.TrimPrefix(b.http.URL, "http://"))
			require.NoError(t, err)
			defer conn.Close()
			_, err = fmt.Fprintf(conn, "%sHost: x\r\nContent-Length: %d\r\n\r\n%s", c.head, len(teaOrder), teaOrder[:10])
			require.NoError(t, err)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			require.NoError(t, err)
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			answer := (&reply{t: t, status: resp.StatusCode, header: resp.Header, body: body}).is(c.status)
			if c.status != http.StatusOK {
				answer.problem(c.status, c.code)
			}
		})
	}
	require.Equal(t, before, b.rows())
}

func TestTheTimeForABodyDoesNotCountForTheWork(t *testing.T) {
	t.Parallel()
	const limit = 100 * time.Millisecond
	// A deadline that stays on the connection would end the request's context when it passes.
	outlives := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		select {
		case <-r.Context().Done():
		case <-time.After(3 * limit):
		}
		fmt.Fprint(w, string(body), err, r.Context().Err())
	})
	b := setup(t, func(c *orderhttp.Config) {
		c.BodyTimeout = limit
		c.Extra = map[string]http.Handler{"POST /hook": outlives}
	})
	require.Equal(t, "hello<nil> <nil>", string(b.call(none, "POST", "/hook", "hello").is(http.StatusOK).body))

	release := b.hold()
	answer := make(chan *reply)
	go func() { answer <- b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k") }()
	b.whenLocked()
	<-time.After(3 * limit)
	release()
	(<-answer).is(http.StatusCreated)
}

// blanks reads as n spaces.
type blanks struct{ n int }

func (b *blanks) Read(p []byte) (int, error) {
	if b.n == 0 {
		return 0, io.EOF
	}
	n := copy(p, bytes.Repeat([]byte(" "), min(b.n, 4096)))
	b.n -= n
	return n, nil
}

func TestABodyOfExactlyTheLimitIsTaken(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.call(ada, "POST", "/v1/orders", teaOrder+strings.Repeat(" ", 64<<10-len(teaOrder)), "Idempotency-Key", "k").is(http.StatusCreated)
	b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k").is(http.StatusCreated) // white space is no difference
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM orders"))
}

func TestLinesOfOneSKUStayApartAndAreSummedForStock(t *testing.T) {
	t.Parallel()
	b := setup(t)
	body := order(`[{"sku":"RARE-010","quantity":6},{"sku":"RARE-010","quantity":5}]`)
	o := into[orderhttp.Order](b.call(ada, "POST", "/v1/orders", body, "Idempotency-Key", "k").is(http.StatusCreated))
	require.Len(t, o.Lines, 2)
	require.NoError(t, b.store.ReserveStock(t.Context(), o.ID))
	require.Contains(t, string(b.call(ada, "GET", o.Links.Self, "").body), `"status":"failed"`, "11 of 10 are not there")
}
