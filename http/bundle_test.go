package http_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
	"millrace/db/dbtest"
	orderhttp "millrace/http"
	"millrace/http/live"
)

func TestMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }

// testBundle is a server on a database of its own, with a small catalogue, asked over real connections.
type testBundle struct {
	t      testing.TB
	pool   *pgxpool.Pool
	url    string // the database's
	store  *db.Store
	hub    *live.Hub
	server *orderhttp.Server
	http   *httptest.Server
	client *http.Client
	log    *syncBuffer
}

var (
	ada   = millrace.Principal{Subject: "ada", Email: "ada@example.com", Name: "Ada", Roles: []millrace.Role{millrace.RoleCustomer}}
	bob   = millrace.Principal{Subject: "bob", Email: "bob@example.com", Name: "Bob", Roles: []millrace.Role{millrace.RoleCustomer}}
	olga  = millrace.Principal{Subject: "olga", Email: "olga@example.com", Name: "Olga", Roles: []millrace.Role{millrace.RoleOperator}}
	guest = millrace.Principal{Subject: "guest", Email: "guest@example.com"} // with an identity and without a role
	none  = millrace.Principal{}
)

// setup makes a bundle; change may alter the server's configuration.
func setup(t testing.TB, change ...func(*orderhttp.Config)) *testBundle {
	t.Helper()
	b := &testBundle{t: t, url: dbtest.Millrace(t), log: &syncBuffer{}}
	var err error
	b.pool, err = db.NewPool(t.Context(), b.url, 8)
	require.NoError(t, err)
	t.Cleanup(b.pool.Close)
	b.store, err = db.NewStore(db.Config{Pool: b.pool, Ring: func(order, customer uuid.UUID) {
		b.hub.Rung(millrace.Ring{OrderID: order, CustomerID: customer})
	}})
	require.NoError(t, err)
	t.Cleanup(b.store.Close)
	b.hub = live.NewHub(live.Config{Source: b.store, WriteError: func(w http.ResponseWriter, r *http.Request, e *millrace.Error) {
		orderhttp.WriteError(w, r, e)
	}})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = b.hub.Run(ctx) })

	config := orderhttp.Config{Store: b.store, Hub: b.hub, Identity: testIdentity, Version: "1.0.0",
		Logger: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range change {
		f(&config)
	}
	b.server, err = orderhttp.NewServer(config)
	require.NoError(t, err)
	b.http = httptest.NewServer(b.server.Handler())
	b.client = &http.Client{Transport: &contract{t: t, next: http.DefaultTransport.(*http.Transport).Clone(), validator: newValidator(t, b.server.OpenAPI())}}
	t.Cleanup(func() {
		cancel()
		running.Wait()
		b.client.CloseIdleConnections()
		b.http.Close()
	})
	for sku, stock := range map[string]int64{"TEA-001": 1_000_000, "CUP-002": 1_000_000, "RARE-010": 10} {
		_, err := b.store.PutProduct(t.Context(), millrace.Product{SKU: sku, Name: "A " + sku, PriceMinor: 1250, Currency: "EUR", Active: true})
		require.NoError(t, err)
		_, err = b.store.SetStock(t.Context(), sku, millrace.DefaultLocation, stock, "operator:test")
		require.NoError(t, err)
	}
	return b
}

// testIdentity stands where cmd puts the gate's verifier: the header names who is asking.
func testIdentity(r *http.Request) (millrace.Principal, error) {
	switch subject := r.Header.Get("Test-Subject"); subject {
	case "ada", "bob", "olga", "guest":
		return map[string]millrace.Principal{"ada": ada, "bob": bob, "olga": olga, "guest": guest}[subject], nil
	case "unreachable":
		return millrace.Principal{}, millrace.WrapError(millrace.CodeUnavailable, errors.New("dial tcp: secret cause"), "Identities cannot be checked right now: try again.")
	}
	if subject := r.Header.Get("Test-Subject"); strings.HasPrefix(subject, "customer-") {
		return millrace.Principal{Subject: subject, Email: subject + "@example.com", Roles: []millrace.Role{millrace.RoleCustomer}}, nil
	}
	return millrace.Principal{}, errors.New("secret cause")
}

// contract is a transport that holds every answer against the OpenAPI document.
type contract struct {
	t         testing.TB
	next      *http.Transport
	validator validator.Validator
}

// newValidator is the validator of a document. It is made once: all servers of the tests have the same document, and it takes longer to
// make than most tests to run.
func newValidator(t testing.TB, spec []byte) validator.Validator {
	t.Helper()
	validators.Lock()
	defer validators.Unlock()
	if v := validators.byDocument[string(spec)]; v != nil {
		return v
	}
	document, err := libopenapi.NewDocument(spec)
	require.NoError(t, err)
	v, errs := validator.NewValidator(document)
	require.Empty(t, errs)
	validators.byDocument[string(spec)] = v
	return v
}

var validators = struct {
	sync.Mutex
	byDocument map[string]validator.Validator
}{byDocument: make(map[string]validator.Validator)}

func (c *contract) CloseIdleConnections() { c.next.CloseIdleConnections() }

func (c *contract) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := c.next.RoundTrip(r)
	if err != nil || resp.Header.Get("Content-Type") == "text/event-stream" {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if valid, problems := c.validator.ValidateHttpResponse(r, resp); !valid {
		for _, p := range problems {
			// What the document does not describe is answered with problems, which the tests look at themselves.
			if p.ValidationType != "path" {
				c.t.Errorf("%s %s: %d does not match the OpenAPI document: %s: %s %v\n%s", r.Method, r.URL.Path, resp.StatusCode, p.Message, p.Reason, p.SchemaValidationErrors, body)
			}
		}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// reply is an answer read to its end.
type reply struct {
	t      testing.TB
	status int
	header http.Header
	body   []byte
}

// call is one request. Headers are pairs of name and value.
func (b *testBundle) call(who millrace.Principal, method, path, body string, headers ...string) *reply {
	b.t.Helper()
	r := b.request(who, method, path, body, headers...)
	resp, err := b.client.Do(r)
	require.NoError(b.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(b.t, err)
	return &reply{t: b.t, status: resp.StatusCode, header: resp.Header, body: text}
}

func (b *testBundle) request(who millrace.Principal, method, path, body string, headers ...string) *http.Request {
	b.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.http.URL+path, reader)
	require.NoError(b.t, err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if who.Subject != "" {
		r.Header.Set("Test-Subject", who.Subject)
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			r.Header.Del(headers[i])
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func (r *reply) is(status int) *reply {
	r.t.Helper()
	require.Equal(r.t, status, r.status, "%s", r.body)
	return r
}

// problem checks that the answer is a problem with the code, that it says something, and returns it.
func (r *reply) problem(status int, code millrace.Code) orderhttp.Problem {
	r.t.Helper()
	r.is(status)
	require.Equal(r.t, "application/problem+json", r.header.Get("Content-Type"))
	p := into[orderhttp.Problem](r)
	require.Equal(r.t, string(code), p.Code, "%s", r.body)
	require.Equal(r.t, status, p.Status)
	require.NotEmpty(r.t, p.Title)
	require.NotEmpty(r.t, p.Detail)
	require.Equal(r.t, r.header.Get("X-Request-Id"), p.RequestID)
	for _, leak := range []string{"SQLSTATE", "secret cause", "pgx", "goroutine", "json:", "millrace.", "Go struct", "Go value"} {
		require.NotContains(r.t, string(r.body), leak)
	}
	return p
}

func into[T any](r *reply) (v T) {
	r.t.Helper()
	d := json.NewDecoder(bytes.NewReader(r.body))
	d.DisallowUnknownFields()
	require.NoError(r.t, d.Decode(&v), "%s", r.body)
	return v
}

const teaOrder = `{"lines":[{"sku":"TEA-001","quantity":2}],"payment_method":"pm_ok",` +
	`"ship_to":{"name":"Ada","line1":"1 Mill Lane","city":"Bath","country":"GB"}}`

// place posts an order and returns its id.
func (b *testBundle) place(who millrace.Principal) uuid.UUID {
	b.t.Helper()
	return into[orderhttp.Order](b.call(who, "POST", "/v1/orders", teaOrder, "Idempotency-Key", uuid.NewString()).is(http.StatusCreated)).ID
}

func (b *testBundle) count(sql string, args ...any) (n int64) {
	b.t.Helper()
	require.NoError(b.t, b.pool.QueryRow(context.WithoutCancel(b.t.Context()), sql, args...).Scan(&n))
	return n
}

// rows counts the rows of every table that a request could write to.
func (b *testBundle) rows() map[string]int64 {
	b.t.Helper()
	counts := make(map[string]int64)
	for _, table := range []string{"customers", "products", "inventory_levels", "inventory_adjustments", "orders", "order_lines", "order_events",
		"reservations", "payment_transactions", "shipments", "idempotency_keys", "river.river_job"} {
		counts[table] = b.count("SELECT count(*) FROM " + table)
	}
	counts["received"] = b.count("SELECT value FROM counters WHERE name = 'received'")
	return counts
}

func (b *testBundle) find(id uuid.UUID) *millrace.Order {
	b.t.Helper()
	o, err := b.store.FindOrder(b.t.Context(), id)
	require.NoError(b.t, err)
	return o
}

// pay takes an order to where its money was captured, with answers that all say yes.
func (b *testBundle) pay(id uuid.UUID) {
	b.t.Helper()
	require.NoError(b.t, b.store.ReserveStock(b.t.Context(), id))
	_, err := b.store.SettlePayment(b.t.Context(), b.find(id), 1, millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: "ch_1", Captured: true}, "job:test")
	require.NoError(b.t, err)
}

// ship takes a paid order to where its parcel has left.
func (b *testBundle) ship(id uuid.UUID) {
	b.t.Helper()
	_, err := b.store.SettleShipment(b.t.Context(), b.find(id), millrace.LabelResult{Outcome: millrace.OutcomeApproved, Service: "ground", TrackingNumber: "T1"}, "simulated", "job:test")
	require.NoError(b.t, err)
}

// syncBuffer is a log that many write to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// How long a test waits for what must come, and how often it looks. No test passes or fails by how long something takes.
const (
	patience = time.Minute
	poll     = 2 * time.Millisecond
)
