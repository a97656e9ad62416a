package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"millrace/db"
	"millrace/db/dbtest"
	"millrace/gate"
	"millrace/provider/simulated"
)

// audit looks at a database from beside the program.
type audit struct {
	t    testing.TB
	pool *pgxpool.Pool
}

func newAudit(t testing.TB, url string) *audit {
	t.Helper()
	pool, err := db.NewPool(t.Context(), url, 2)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return &audit{t, pool}
}

func (a *audit) count(sql string, args ...any) (n int64) {
	a.t.Helper()
	require.NoError(a.t, a.pool.QueryRow(a.t.Context(), sql, args...).Scan(&n), sql)
	return n
}

// requireAllEnded waits until no order is under way.
func (a *audit) requireAllEnded(limit time.Duration) {
	a.t.Helper()
	require.Eventually(a.t, func() bool {
		return a.count(`SELECT count(*) FROM orders WHERE status IN ('pending', 'processing', 'requires_action')`) == 0
	}, limit, 100*time.Millisecond, "orders that did not end")
}

// requireSound checks what must hold whatever happened: every acknowledged order is there, stock is conserved, events have no holes,
// and each paid order was charged once, by our tables and by the gateway's own.
func (a *audit) requireSound(acknowledged []string) {
	a.t.Helper()
	require.EqualValues(a.t, len(acknowledged), a.count(`SELECT count(*) FROM orders WHERE id = ANY ($1::uuid[])`, acknowledged), "acknowledged orders that are there")
	require.Zero(a.t, a.count(`
		SELECT count(*) FROM stock l
		LEFT JOIN (SELECT sku, location, sum(delta) AS stocked FROM inventory_adjustments GROUP BY 1, 2) a USING (sku, location)
		LEFT JOIN (SELECT sku, location, coalesce(sum(quantity) FILTER (WHERE state = 'held'), 0) AS held,
		                  coalesce(sum(quantity) FILTER (WHERE state = 'consumed'), 0) AS consumed FROM reservations GROUP BY 1, 2) r USING (sku, location)
		WHERE on_hand + coalesce(consumed, 0) <> coalesce(stocked, 0) OR reserved <> coalesce(held, 0)`), "levels that do not add up")
	require.Zero(a.t, a.count(`SELECT count(*) FROM (SELECT order_id FROM order_events GROUP BY 1 HAVING count(*) <> max(version) OR min(version) <> 1) x`), "orders with a hole in their events")
	require.Zero(a.t, a.count(`SELECT count(*) FROM (SELECT count(*) - max(received_seq) AS d FROM orders) x WHERE d <> 0`), "received_seq has holes")
	ledger, err := simulated.Ledger(a.t.Context(), a.pool)
	require.NoError(a.t, err)
	rows, err := a.pool.Query(a.t.Context(), `SELECT id, payment_status FROM orders`)
	require.NoError(a.t, err)
	defer rows.Close()
	for rows.Next() {
		var id uuid.UUID
		var status string
		require.NoError(a.t, rows.Scan(&id, &status))
		want := 0
		if status == "paid" {
			want = 1
		}
		require.Equal(a.t, want, ledger[id].Captures, "captures of order %s, which is %s", id, status)
	}
	require.NoError(a.t, rows.Err())
}

// poster posts orders from many clients, each under a key that it repeats until it is answered.
type poster struct {
	client       func() *client // as it is now: a restart moves it
	acknowledged []string
	mu           sync.Mutex
	done         atomic.Int64
}

func (p *poster) post(t testing.TB, clients, orders int, body func(n int) string) {
	t.Helper()
	round := uuid.NewString()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for n := int(next.Add(1)); n <= orders; n = int(next.Add(1)) {
				p.postOne(t, fmt.Sprintf("%s-%d", round, n), body(n))
			}
		})
	}
	wg.Wait()
}

func (p *poster) postOne(t testing.TB, key, body string) {
	t.Helper()
	for t.Context().Err() == nil {
		status, answer, err := p.client().do(t.Context(), http.MethodPost, "/v1/orders", body, "Idempotency-Key", key)
		var o struct{ ID string }
		if err == nil && status == http.StatusCreated && json.Unmarshal(answer, &o) == nil {
			p.mu.Lock()
			p.acknowledged = append(p.acknowledged, o.ID)
			p.mu.Unlock()
			p.done.Add(1)
			return
		}
		if err == nil && status >= 400 && status < 500 && status != http.StatusConflict && status != http.StatusTooManyRequests {
			t.Errorf("order %s: %d %s", key, status, answer)
			return
		}
		pause(t, 20*time.Millisecond) // the server is gone or busy: a client waits a little before it tries again
	}
}

// pause waits as a client does between two tries.
func pause(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
}

func TestNothingIsLostWhenTheProcessIsKilled(t *testing.T) {
	t.Parallel()
	const orders, clients = 2000, 50
	dir := dataDir(t)
	var current atomic.Pointer[dev]
	current.Store(startDev(t, dir))
	addr := strings.TrimPrefix(current.Load().URL, "http://")
	p := &poster{client: func() *client { return current.Load().customer() }}

	killed := make(chan struct{})
	go func() {
		defer close(killed)
		for _, at := range []int64{300, 1100} {
			for p.done.Load() < at && t.Context().Err() == nil {
				pause(t, time.Millisecond)
			}
			current.Load().kill()
			current.Store(startDev(t, dir, "--addr="+addr))
		}
	}()
	p.post(t, clients, orders, func(n int) string {
		switch n % 20 {
		case 0:
			return orderBody("pm_declined", "GB", "TEA-001")
		case 1:
			return orderBody("pm_flaky", "GB", "TEA-001", "CUP-002")
		case 2:
			return orderBody("pm_ok", "GB", "RARE-010")
		}
		return orderBody("pm_ok", "GB", "TEA-001", "CUP-002", "TEA-001")
	})
	<-killed
	require.Len(t, p.acknowledged, orders)
	a := newAudit(t, current.Load().DatabaseURL)
	a.requireAllEnded(2 * time.Minute)
	a.requireSound(p.acknowledged)
	require.EqualValues(t, orders, a.count(`SELECT count(*) FROM orders`), "one order for each key")
	require.EqualValues(t, 10, a.count(`SELECT coalesce(sum(quantity), 0) FROM reservations WHERE sku = 'RARE-010' AND state = 'consumed'`), "all ten rare ones were sold, and no more")
	require.NoError(t, current.Load().terminate())
}

func TestSeparateProcessesOnOneDatabase(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t, dbtest.Template{Name: "processes", Version: "empty", Migrate: func(context.Context, string) error { return nil }})
	database := "--database-url=" + url
	for _, command := range []string{"migrate", "seed"} {
		p := start(t, command, database)
		<-p.ended
		require.NoError(t, p.err, p.output.String())
	}
	g := startGate(t, url)
	serve := start(t, "serve", database, "--addr="+g.upstream, "--ops-addr=", "--jwks-url="+g.url+"/.well-known/jwks.json")
	work := func(queues string) *process {
		return start(t, "work", database, "--queues="+queues, "--ops-addr=", "--transit=50ms", "--delivery=100ms", "--check-every=200ms", "--call-timeout=3s")
	}
	first, second := work("inventory,payment,shipping"), work("inventory,payment,shipping")
	c := &client{http.DefaultClient, g.url, g.key}
	serve.until("the API answers through the gate", func() bool {
		status, _, err := c.do(t.Context(), http.MethodGet, "/v1/products", "")
		return err == nil && status == http.StatusOK
	})
	p := &poster{client: func() *client { return c }}
	p.post(t, 10, 100, func(int) string { return orderBody("pm_ok", "GB", "TEA-001", "CUP-002") })
	a := newAudit(t, url)
	a.requireAllEnded(time.Minute)

	// A worker dies in the middle of its jobs: the other finishes its orders within a minute.
	p.post(t, 10, 100, func(int) string { return orderBody("pm_slow", "GB", "TEA-001") })
	require.Eventually(t, func() bool {
		return a.count(`SELECT count(*) FROM river.river_job WHERE state = 'running' AND kind = 'settle_payment'`) > 0
	}, time.Minute, 5*time.Millisecond)
	first.kill()
	killed := time.Now()
	a.requireAllEnded(90 * time.Second)
	t.Logf("all orders ended %s after the worker was killed", time.Since(killed).Round(time.Millisecond))
	a.requireSound(p.acknowledged)
	require.NoError(t, second.terminate(), second.output.String())
	require.NoError(t, serve.terminate(), serve.output.String())
}

// gateProcess is a gate of its own in front of an address where an API is to listen.
type gateProcess struct{ url, upstream, key string }

// startGate runs the gate's own program.
func startGate(t testing.TB, databaseURL string) gateProcess {
	t.Helper()
	require.NoError(t, gate.Migrate(t.Context(), databaseURL))
	users, err := gate.OpenStore(t.Context(), databaseURL)
	require.NoError(t, err)
	defer users.Close()
	_, err = users.EnsureUser(t.Context(), gate.NewUser{Email: "ada@example.com", Name: "Ada", Password: "correct horse battery", Roles: []string{"customer"}, Verified: true})
	require.NoError(t, err)
	g := gateProcess{key: gate.NewKeyToken(), upstream: freeAddress(t)}
	_, err = users.EnsureKey(t.Context(), gate.NewKey{Email: "ada@example.com", Name: "test"}, g.key)
	require.NoError(t, err)

	dir := t.TempDir()
	program := filepath.Join(dir, "gate")
	build, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, "millrace/cmd/gate").CombinedOutput()
	require.NoError(t, err, string(build))
	routes := filepath.Join(dir, "routes.yaml")
	require.NoError(t, os.WriteFile(routes, []byte(routesTo(g.upstream)), 0o600))
	addr := freeAddress(t)
	g.url = "http://" + addr
	command := exec.Command(program, "serve", "--addr="+addr, "--config="+routes, "--ops-addr=")
	command.Env = append(environment(), "GATE_DATABASE_URL="+databaseURL, "GATE_SECRET_FILE="+filepath.Join(dir, "secret"), "GATE_PLAIN_COOKIES=true",
		"GATE_ADDRESS_RATE=0", "GATE_ACCOUNT_RATE=0")
	_, err = gate.LoadOrCreateSecret(filepath.Join(dir, "secret"))
	require.NoError(t, err)
	output := &lockedBuffer{}
	command.Stdout, command.Stderr = output, output
	command.WaitDelay = 10 * time.Second
	require.NoError(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Logf("gate:\n%s", output)
		}
	})
	return g
}
