package live

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace"
	"millrace/db/dbtest"
	"millrace/db/notify"
)

func TestMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }

// patience is how long a test waits for what must come. It bounds a hang and decides nothing else.
const patience = 60 * time.Second

// counterSQL stands for the orders' rows: an order's versions are drawn under a row lock.
const counterSQL = `CREATE TABLE test_orders (id uuid PRIMARY KEY, customer_id uuid NOT NULL, version integer NOT NULL DEFAULT 0)`

func template(t testing.TB) dbtest.Template {
	t.Helper()
	schema, err := os.ReadFile("../../schema.sql")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(append(schema, counterSQL...))
	return dbtest.Template{Name: "live", Version: hex.EncodeToString(sum[:8]), Migrate: func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, string(schema)+";"+counterSQL)
		return err
	}}
}

// store is a Source on a real table, and writes to it as the real one does: versions under a lock, the ring after the commit.
type store struct {
	t    testing.TB
	url  string
	pool *pgxpool.Pool
	ring func(order, customer uuid.UUID)

	failing, blind atomic.Bool // reads of events fail, or those of the watermark
	pageRead       func()      // called when a page of many orders' events was read
}

func newStore(t testing.TB) *store {
	t.Helper()
	s := &store{t: t, url: dbtest.New(t, template(t)), ring: func(uuid.UUID, uuid.UUID) {}}
	config, err := pgxpool.ParseConfig(s.url)
	if err != nil {
		t.Fatal(err)
	}
	config.MaxConns = 8
	s.pool, err = pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.pool.Close)
	return s
}

const eventColumns = `e.order_id, e.version, e.type, e.status, e.payment_status, e.fulfillment_status, e.data, e.actor, e.at, e.customer_id, e.tx`

func (s *store) query(ctx context.Context, sql string, args ...any) ([]millrace.Event, error) {
	if s.failing.Load() {
		return nil, fmt.Errorf("the test says that the database is down")
	}
	rows, err := s.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (e millrace.Event, err error) {
		err = row.Scan(&e.OrderID, &e.Version, &e.Type, &e.Status, &e.PaymentStatus, &e.FulfillmentStatus, &e.Data, &e.Actor, &e.At,
			&e.CustomerID, &e.Tx)
		return e, err
	})
}

func (s *store) EventsAfter(ctx context.Context, cursors []millrace.EventCursor, limitEach int) ([]millrace.Event, error) {
	ids, afters := make([]uuid.UUID, len(cursors)), make([]int32, len(cursors))
	for i, c := range cursors {
		ids[i], afters[i] = c.OrderID, c.After
	}
	return s.query(ctx, `SELECT `+eventColumns+` FROM unnest($1::uuid[], $2::integer[]) AS w (order_id, after)
		CROSS JOIN LATERAL (SELECT * FROM order_events x WHERE x.order_id = w.order_id AND x.version > w.after
			ORDER BY x.version LIMIT $3) e ORDER BY e.order_id, e.version`, ids, afters, limitEach)
}

func (s *store) Watermark(ctx context.Context) (tx int64, err error) {
	if s.blind.Load() {
		return 0, fmt.Errorf("the test says that the database is down")
	}
	err = s.pool.QueryRow(ctx, `SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint`).Scan(&tx)
	return tx, err
}

func (s *store) CustomerEventsSince(ctx context.Context, customer uuid.UUID, tx int64, after millrace.EventPosition, limit int) ([]millrace.Event, error) {
	if s.pageRead != nil {
		defer s.pageRead()
	}
	return s.query(ctx, `SELECT `+eventColumns+` FROM order_events e WHERE ($1 = '00000000-0000-0000-0000-000000000000'::uuid
		OR e.customer_id = $1) AND e.tx >= $2 AND (e.tx, e.order_id, e.version) > ($3, $4::uuid, $5::integer)
		ORDER BY e.tx, e.order_id, e.version LIMIT $6`, customer, tx, after.Tx, after.OrderID, after.Version, limit)
}

// order makes an order without events.
func (s *store) order(customer uuid.UUID) millrace.Ring {
	s.t.Helper()
	id := uuid.Must(uuid.NewV7())
	if _, err := s.pool.Exec(s.t.Context(), `INSERT INTO test_orders (id, customer_id) VALUES ($1, $2)`, id, customer); err != nil {
		s.t.Fatal(err)
	}
	return millrace.Ring{OrderID: id, CustomerID: customer}
}

// insert adds n events to an order within tx.
func insert(ctx context.Context, tx pgx.Tx, o millrace.Ring, n int, status millrace.OrderStatus) error {
	_, err := tx.Exec(ctx, `WITH o AS (UPDATE test_orders SET version = version + $2 WHERE id = $1 RETURNING version)
		INSERT INTO order_events (order_id, version, type, status, payment_status, fulfillment_status, data, actor, at, customer_id)
		SELECT $1, o.version - $2 + i, 'stock.reserved', $4, 'unpaid', 'unfulfilled', jsonb_build_object('n', i), 'job:test',
			clock_timestamp(), $3 FROM o, generate_series(1, $2::integer) i`, o.OrderID, n, o.CustomerID, string(status))
	return err
}

// write commits n events of an order and rings for it, from any goroutine.
func (s *store) write(ctx context.Context, o millrace.Ring, n int) error {
	return s.writeStatus(ctx, o, n, millrace.OrderProcessing)
}

func (s *store) writeStatus(ctx context.Context, o millrace.Ring, n int, status millrace.OrderStatus) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error { return insert(ctx, tx, o, n, status) })
	if err == nil {
		s.ring(o.OrderID, o.CustomerID)
	}
	return err
}

func (s *store) mustWrite(o millrace.Ring, n int) {
	s.t.Helper()
	if err := s.write(s.t.Context(), o, n); err != nil {
		s.t.Fatal(err)
	}
}

// node is one process of the service: a hub behind a real listener and a doorbell.
type node struct {
	t        testing.TB
	hub      *Hub
	listener *notify.Listener
	server   *httptest.Server
	stop     func()
}

type nodeOptions struct {
	deaf      bool // neither a listener nor a local doorbell
	poll      bool // the listener does not listen
	http2     bool
	configure func(*Config)
}

func newNode(t testing.TB, s *store, options nodeOptions) *node {
	t.Helper()
	config := Config{Source: s}
	if options.configure != nil {
		options.configure(&config)
	}
	n := &node{t: t, hub: NewHub(config)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.hub.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	if !options.deaf {
		var err error
		n.listener, err = notify.NewListener(notify.ListenerConfig{DatabaseURL: s.url, PollOnly: options.poll, Rung: n.hub.Rung, Reset: n.hub.Reset})
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := n.listener.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "the listener listens", n.listener.Healthy)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders/{id}/stream", func(w http.ResponseWriter, r *http.Request) {
		o := &millrace.Order{ID: uuid.MustParse(r.PathValue("id"))}
		var status string
		if err := s.pool.QueryRow(r.Context(), `SELECT o.customer_id, o.version, coalesce((SELECT e.status FROM order_events e
			WHERE e.order_id = o.id AND e.version = o.version), 'pending') FROM test_orders o WHERE o.id = $1`, o.ID).
			Scan(&o.CustomerID, &o.Version, &status); err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		o.Status = millrace.OrderStatus(status)
		n.hub.ServeOrder(w, r, viewer(r), o)
	})
	mux.HandleFunc("GET /stream", func(w http.ResponseWriter, r *http.Request) {
		customer := uuid.Nil
		if id := r.URL.Query().Get("customer"); id != "" {
			customer = uuid.MustParse(id)
		}
		n.hub.ServeMany(w, r, viewer(r), customer)
	})
	n.server = httptest.NewUnstartedServer(mux)
	n.server.Config.ConnContext = ConnContext
	if options.http2 {
		n.server.EnableHTTP2 = true
		n.server.StartTLS()
	} else {
		n.server.Start()
	}
	n.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		n.server.Close()
	})
	t.Cleanup(n.stop)
	return n
}

// dialSmall dials with a small receive buffer, so that a reader that stalls is soon felt.
func dialSmall(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if tcp, ok := conn.(*net.TCPConn); ok {
		err = errors.Join(err, tcp.SetReadBuffer(4<<10))
	}
	return conn, err
}

func viewer(r *http.Request) Viewer {
	return Viewer{Subject: r.Header.Get("Subject"), Addr: r.Header.Get("Addr")}
}

// newDoorbell makes s ring as a process of its own.
func newDoorbell(t testing.TB, s *store) *notify.Doorbell {
	t.Helper()
	d, err := notify.NewDoorbell(notify.DoorbellConfig{DatabaseURL: s.url})
	if err != nil {
		t.Fatal(err)
	}
	s.ring = d.Ring
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return d
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// heartbeats makes the wheel turn fast.
func heartbeats(c *Config) {
	c.HeartbeatMin, c.HeartbeatMax = 20*time.Millisecond, 40*time.Millisecond
}
