package db_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
	"millrace/db/embedded"
	"millrace/db/migrations"
)

// durableServer starts, and starts again, a server as one is run for real orders, in a directory of the test's own.
func durableServer(t *testing.T) (start func() *embedded.Server) {
	t.Helper()
	dir, err := os.MkdirTemp("", "millrace-durable-") //nolint:usetesting // the server may run as another user, who has to pass
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	var server *embedded.Server
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if server != nil {
			require.NoError(t, server.Stop(ctx))
		}
		require.NoError(t, embedded.Remove(ctx, dir))
	})
	return func() *embedded.Server {
		if server != nil {
			require.NoError(t, server.Stop(t.Context()))
		}
		server, err = embedded.Start(t.Context(), embedded.Config{Dir: dir})
		require.NoError(t, err)
		return server
	}
}

// killServer kills the server and all its processes at once, as the loss of power would.
func killServer(t *testing.T, server *embedded.Server, pool *pgxpool.Pool) {
	t.Helper()
	rows, err := pool.Query(t.Context(), "SELECT pid FROM pg_stat_activity")
	require.NoError(t, err)
	pids := []int{server.PID()} // first, so that it starts no recovery
	for rows.Next() {
		var pid int
		require.NoError(t, rows.Scan(&pid))
		pids = append(pids, pid)
	}
	require.NoError(t, rows.Err())
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			require.ErrorIs(t, err, syscall.ESRCH)
		}
	}
	<-server.Done()
}

// Guarantee 1: acknowledged means durable. Guarantee 10: what became of the orders that were not answered, their keys tell.
func TestWhatWasAcknowledgedSurvivesTheServersDeath(t *testing.T) {
	t.Parallel()
	start := durableServer(t)
	server := start()
	require.NoError(t, server.EnsureDatabase(t.Context(), "millrace"))
	url := server.URL("millrace")
	_, err := migrations.Up(t.Context(), url)
	require.NoError(t, err)
	b := &testBundle{t: t, url: url, ada: millrace.Principal{Subject: "ada", Email: "ada@example.com"}}
	b.pool = b.newPool(6)
	b.store = b.newStore(b.newPool(6))
	b.stock("TEA-001", 1_000_000)

	const clients, enough = 12, 150
	var mu sync.Mutex
	acknowledged := make(map[string]uuid.UUID)
	open := make(map[string]bool) // keys of requests that got no answer
	reached := make(chan struct{})
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d-%d", c, i)
				placed, err := b.store.PlaceOrder(t.Context(), placement(b.ada, key, request("TEA-001", "TEA-001")))
				mu.Lock()
				if err != nil {
					open[key] = true
					mu.Unlock()
					return
				}
				if acknowledged[key] = placed.Order.ID; len(acknowledged) == enough {
					close(reached)
				}
				mu.Unlock()
			}
		})
	}
	<-reached
	killServer(t, server, b.pool)
	wg.Wait()
	require.Len(t, open, clients, "every client was cut off")
	b.pool.Close()

	start()
	b.pool = b.newPool(4)
	b.store = b.newStore(b.newPool(4))
	for key, id := range acknowledged {
		require.EqualValues(t, 1, b.count("SELECT count(*) FROM idempotency_keys WHERE key = $1 AND order_id = $2", key, id), "key %s was acknowledged", key)
		require.EqualValues(t, 2, b.count("SELECT count(*) FROM order_lines WHERE order_id = $1", id))
		require.EqualValues(t, 1, b.count("SELECT count(*) FROM order_events WHERE order_id = $1", id))
		require.EqualValues(t, 1, b.count("SELECT count(*) FROM river.river_job WHERE args ->> 'order_id' = $1::text AND state = 'available'", id))
	}
	b.requireSound()
	for key := range open {
		first, err := b.store.PlaceOrder(t.Context(), placement(b.ada, key, request("TEA-001", "TEA-001")))
		require.NoError(t, err)
		again, err := b.store.PlaceOrder(t.Context(), placement(b.ada, key, request("TEA-001", "TEA-001")))
		require.NoError(t, err)
		require.Equal(t, first.Order.ID, again.Order.ID)
	}
	require.EqualValues(t, len(acknowledged)+len(open), b.count("SELECT count(*) FROM orders"), "one order for each key")
	b.requireSound()
}

// fate is what becomes of a commit that a cutter sees.
type fate int

const (
	passes     fate = iota
	lostAfter       // it reaches the server and is carried out; its answer is lost
	lostBefore      // it does not reach the server
)

// cutter makes connections that break at a commit.
type cutter struct {
	mu   sync.Mutex
	plan []fate // of the next commits; those after them pass
}

func (c *cutter) expect(plan ...fate) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.plan = plan
}

func (c *cutter) next() fate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.plan) == 0 {
		return passes
	}
	f := c.plan[0]
	c.plan = c.plan[1:]
	return f
}

func (c *cutter) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	return &cutConn{Conn: conn, cutter: c}, err
}

type cutConn struct {
	net.Conn
	cutter *cutter
	cut    atomic.Bool
}

func (c *cutConn) Write(p []byte) (int, error) {
	if !commits(p) {
		return c.Conn.Write(p)
	}
	switch c.cutter.next() {
	case lostAfter:
		c.cut.Store(true)
	case lostBefore:
		c.Conn.Close()
		return len(p), nil
	case passes:
	}
	return c.Conn.Write(p)
}

// commits reports whether a message ends a transaction: by a commit, which is sent as a query or as pgx prepared it, along with what is
// written; or as the whole intake or payment that is sent in one, with its events.
func commits(message []byte) bool {
	digest := sha256.Sum256([]byte("commit"))
	return bytes.Contains(message, []byte("Q\x00\x00\x00\x0bcommit\x00")) ||
		bytes.Contains(message, fmt.Appendf(nil, "\x00stmtcache_%x\x00", digest[:24])) || // bound to the unnamed portal
		bytes.Contains(message, []byte(millrace.EventOrderPlaced)) || bytes.Contains(message, []byte(millrace.EventPaymentAuthorized))
}

func (c *cutConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.cut.Load() { // the server has answered, so it has committed
		c.Conn.Close()
		return 0, net.ErrClosed
	}
	return n, err
}

func (b *testBundle) cutPool(c *cutter) *pgxpool.Pool {
	b.t.Helper()
	config := b.pool.Config()
	config.ConnConfig.DialFunc = c.dial
	pool, err := pgxpool.NewWithConfig(b.t.Context(), config)
	require.NoError(b.t, err)
	b.t.Cleanup(pool.Close)
	return pool
}

// Guarantee 10: a commit whose outcome is not known is said to be unknown, and the same request under the same key settles it.
func TestACommitWhoseAnswerIsLostIsUnknownAndSettledByTheKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		fate     fate
		replayed bool
	}{{"the commit was carried out", lostAfter, true}, {"the commit never arrived", lostBefore, false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			oneAndMany(t, func(t *testing.T, change func(*db.Config)) {
				b := setup(t)
				var cutter cutter
				s := b.newStore(b.cutPool(&cutter), change)
				p := placement(b.ada, "k1", request("TEA-001"))
				cutter.expect(c.fate)
				_, err := s.PlaceOrder(t.Context(), p)
				requireCode(t, millrace.CodeUnknown, err)
				placed, err := s.PlaceOrder(t.Context(), p)
				require.NoError(t, err)
				require.Equal(t, c.replayed, placed.Replayed)
				require.EqualValues(t, 1, b.count("SELECT count(*) FROM orders"))
				b.requireSound()

				// The same for a step, and for the stock.
				cutter.expect(c.fate)
				requireCode(t, millrace.CodeUnknown, s.ReserveStock(t.Context(), placed.Order.ID))
				require.NoError(t, s.ReserveStock(t.Context(), placed.Order.ID))
				settle := func() error {
					_, err := s.SettlePayment(t.Context(), b.find(placed.Order.ID), 1, millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: "ch_1", Captured: true}, "job:test")
					return err
				}
				cutter.expect(c.fate)
				requireCode(t, millrace.CodeUnknown, settle())
				require.NoError(t, settle())
				refund := func() error {
					_, err := s.RefundOrder(t.Context(), placed.Order.ID, 250, "r1", "operator:test")
					return err
				}
				cutter.expect(c.fate)
				requireCode(t, millrace.CodeUnknown, refund())
				require.NoError(t, refund())
				require.Equal(t, []string{"order.placed", "stock.reserved", "payment.authorized", "payment.captured"}, b.events(placed.Order.ID))
				require.Len(t, b.find(placed.Order.ID).Transactions, 3, "authorize, capture, one refund")
				b.requireSound()
			})
		})
	}
}

// A group whose commit is lost is everyone's unknown: to write it again in halves could write it twice.
func TestAGroupWhoseCommitIsLostIsNotWrittenAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var cutter cutter
	s := b.newStore(b.cutPool(&cutter), oneFlush)
	release := b.lock(intakeCounter)
	place := func(i int) error {
		_, err := s.PlaceOrder(t.Context(), placement(b.ada, fmt.Sprint("k", i), request("TEA-001")))
		return err
	}
	first := make(chan error, 1)
	go func() { first <- place(0) }()
	b.untilBlocked(1)
	const others = 20
	errs := make(chan error, others)
	for i := range others {
		go func() { errs <- place(i + 1) }()
	}
	require.Eventually(t, func() bool { return s.Waiting()["intake"] == others }, soon, time.Millisecond)
	cutter.expect(lostAfter) // of the others' commit: the first's is with the server
	release()
	require.NoError(t, <-first)
	for range others {
		requireCode(t, millrace.CodeUnknown, <-errs)
	}
	require.EqualValues(t, others+1, b.count("SELECT count(*) FROM orders"), "it was carried out, once")
	for i := range others {
		require.NoError(t, place(i+1))
	}
	require.EqualValues(t, others+1, b.count("SELECT count(*) FROM orders"))
	b.requireSound()
}
