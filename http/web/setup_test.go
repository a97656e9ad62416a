package web_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
	"millrace/db/dbtest"
	"millrace/db/migrations"
	orderhttp "millrace/http"
	"millrace/http/live"
	"millrace/http/web"
)

func TestMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }

var (
	ada  = millrace.Principal{Subject: "ada", Email: "ada@example.com", Name: "Ada Lovelace", Roles: []millrace.Role{millrace.RoleCustomer}}
	bob  = millrace.Principal{Subject: "bob", Email: "bob@example.com", Name: "Bob", Roles: []millrace.Role{millrace.RoleCustomer}}
	olga = millrace.Principal{Subject: "olga", Email: "olga@example.com", Name: "Olga", Roles: []millrace.Role{millrace.RoleOperator}}
)

// testBundle is the pages and the API over a store on a database of its own, without the gate: a cookie says who asks.
type testBundle struct {
	t     testing.TB
	store *db.Store
	pool  *pgxpool.Pool
	url   string
	pages *web.Web
	http  *httptest.Server
	// connections are the browsers', also those whose streams the server no longer counts as its own.
	connections *connections

	// loseAnswers counts how many answers to orders are still to be lost on their way back.
	loseAnswers atomic.Int32
	// refuseStreams has streams answered with 503, as by a node that has its fill.
	refuseStreams atomic.Bool
	keys          struct {
		sync.Mutex
		seen []string
	}
}

func setup(t testing.TB) *testBundle {
	t.Helper()
	b := &testBundle{t: t}
	var err error
	b.pool, err = db.NewPool(t.Context(), dbtest.Millrace(t), 8)
	require.NoError(t, err)
	t.Cleanup(b.pool.Close)

	var hub *live.Hub
	b.store, err = db.NewStore(db.Config{Pool: b.pool, Ring: func(order, customer uuid.UUID) {
		hub.Rung(millrace.Ring{OrderID: order, CustomerID: customer})
	}})
	require.NoError(t, err)
	t.Cleanup(b.store.Close)
	hub = live.NewHub(live.Config{Source: b.store, RetryHint: 50 * time.Millisecond})

	client, err := river.NewClient(riverpgxv5.New(b.pool), &river.Config{Schema: migrations.RiverSchema})
	require.NoError(t, err)
	// The pages ask for themselves who it is, so that they can be tested without the API's server in front as well.
	b.pages, err = web.New(web.Config{Store: b.store, River: client, Identity: identify, Simulated: true, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	api, err := orderhttp.NewServer(orderhttp.Config{Store: b.store, Hub: hub, Identity: identify, Web: b.pages.Handler(), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)

	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() { _ = hub.Run(ctx) })
	pages := b.pages // tests may put others in their place
	running.Go(func() { _ = pages.Run(ctx) })
	b.http = httptest.NewUnstartedServer(b.unreliable(api.Handler()))
	b.connections = &connections{Listener: b.http.Listener}
	b.http.Listener = b.connections
	b.http.Start()
	b.url = b.http.URL
	t.Cleanup(func() {
		cancel()
		running.Wait()
		b.http.Close()
	})
	for _, p := range []struct {
		sku, name string
		price     int64
		stock     int64
	}{
		{"CUP-002", "Tea cup", 950, 200}, {"GONE-000", "Sold-out sampler", 4200, 0}, {"POT-003", "Cast-iron teapot", 6800, 50},
		{"RARE-010", "First flush, limited", 12900, 10}, {"TEA-001", "Darjeeling, 100 g", 1250, 1000},
	} {
		_, err := b.store.PutProduct(t.Context(), millrace.Product{SKU: p.sku, Name: p.name, PriceMinor: p.price, Currency: "EUR", Active: true,
			Description: "A description that says what is in the box."})
		require.NoError(t, err)
		_, err = b.store.SetStock(t.Context(), p.sku, millrace.DefaultLocation, p.stock, "operator:test")
		require.NoError(t, err)
	}
	return b
}

// connections is a listener that remembers what it accepted.
type connections struct {
	net.Listener
	mu       sync.Mutex
	accepted []net.Conn
}

func (c *connections) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.mu.Lock()
		c.accepted = append(c.accepted, conn)
		c.mu.Unlock()
	}
	return conn, err
}

// cut breaks all connections that are open.
func (c *connections) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.accepted {
		_ = conn.Close() // most are closed already
	}
	c.accepted = nil
}

// identify stands where the gate's verifier is.
func identify(r *http.Request) (millrace.Principal, error) {
	if c, err := r.Cookie("test"); err == nil {
		if p, ok := map[string]millrace.Principal{"ada": ada, "bob": bob, "olga": olga}[c.Value]; ok {
			return p, nil
		}
	}
	return millrace.Principal{}, millrace.Errorf(millrace.CodeUnauthorized, "Log in.")
}

// unreliable refuses streams, loses answers to orders after they were placed, and notes the keys that those came with.
func (b *testBundle) unreliable(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if b.refuseStreams.Load() && strings.HasSuffix(r.URL.Path, "/stream") {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		if r.Method != http.MethodPost || r.URL.Path != "/v1/orders" {
			next.ServeHTTP(w, r)
			return
		}
		b.keys.Lock()
		b.keys.seen = append(b.keys.seen, r.Header.Get("Idempotency-Key"))
		b.keys.Unlock()
		if b.loseAnswers.Add(-1) >= 0 {
			next.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
}

// get asks the pages, without the API's server in front, as a browser would; who is "" for nobody.
func (b *testBundle) get(who, path string) *httptest.ResponseRecorder {
	b.t.Helper()
	return b.ask(httptest.NewRequestWithContext(b.t.Context(), http.MethodGet, path, http.NoBody), who)
}

func (b *testBundle) ask(r *http.Request, who string) *httptest.ResponseRecorder {
	b.t.Helper()
	if who != "" {
		r.AddCookie(&http.Cookie{Name: "test", Value: who})
	}
	if r.Header.Get("Accept") == "" {
		r.Header.Set("Accept", "text/html")
	}
	rw := httptest.NewRecorder()
	b.pages.Handler().ServeHTTP(rw, r)
	return rw
}

// place places an order of one of each SKU.
func (b *testBundle) place(p millrace.Principal, skus ...string) uuid.UUID {
	b.t.Helper()
	r := millrace.OrderRequest{PaymentMethod: "pm_ok", ShipTo: &millrace.Address{Name: "Ada", Line1: "1 Mill Lane", City: "Bath", Country: "GB"}}
	for _, sku := range skus {
		r.Lines = append(r.Lines, millrace.LineRequest{SKU: sku, Quantity: 1})
	}
	body, err := json.Marshal(r)
	require.NoError(b.t, err)
	placed, err := b.store.PlaceOrder(b.t.Context(), db.PlaceOrder{Principal: p, Key: uuid.NewString(), RequestHash: sha256.Sum256(body),
		Request: r})
	require.NoError(b.t, err)
	return placed.Order.ID
}

func (b *testBundle) find(id uuid.UUID) *millrace.Order {
	b.t.Helper()
	o, err := b.store.FindOrder(b.t.Context(), id)
	require.NoError(b.t, err)
	return o
}

// reserve and the following take an order one step on, with an answer that says yes.
func (b *testBundle) reserve(id uuid.UUID) {
	b.t.Helper()
	require.NoError(b.t, b.store.ReserveStock(b.t.Context(), id))
}

func (b *testBundle) pay(id uuid.UUID, r millrace.PaymentResult) {
	b.t.Helper()
	_, err := b.store.SettlePayment(b.t.Context(), b.find(id), 1, r, "job:test")
	require.NoError(b.t, err)
}

func (b *testBundle) ship(id uuid.UUID) {
	b.t.Helper()
	_, err := b.store.SettleShipment(b.t.Context(), b.find(id), millrace.LabelResult{Outcome: millrace.OutcomeApproved, Service: "standard", TrackingNumber: "SIM123"}, "simulated", "job:test")
	require.NoError(b.t, err)
}

func (b *testBundle) deliver(id uuid.UUID) {
	b.t.Helper()
	_, err := b.store.TrackShipment(b.t.Context(), b.find(id), millrace.TrackResult{State: millrace.ShipmentDelivered}, "job:test")
	require.NoError(b.t, err)
}

var approved = millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: "ch_1", Captured: true}
