package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/schollz/progressbar/v3"
	"github.com/stretchr/testify/require"

	"millrace/db"
	"millrace/db/dbtest"
)

// testBed is a bed on the tests' Postgres, whose figures mean nothing.
func testBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{err: io.Discard, progress: progressbar.NewOptions(100, progressbar.OptionSetWriter(io.Discard)),
		url: dbtest.New(t, dbtest.Template{Name: "bench", Version: "empty", Migrate: func(context.Context, string) error { return nil }})}
	t.Cleanup(func() { require.NoError(t, b.close(context.Background())) })
	return b
}

// number of rows that a query counts in the nth database that a bed made.
func (b *bed) count(t *testing.T, n int, query string) (rows int64) {
	t.Helper()
	u, err := url.Parse(b.url)
	require.NoError(t, err)
	u.Path = "/" + b.made[n]
	pool, err := db.NewPool(t.Context(), u.String(), 1)
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, pool.QueryRow(t.Context(), query).Scan(&rows))
	return rows
}

func TestIntakeIsMeasuredDirectlyAndThroughTheGate(t *testing.T) {
	t.Parallel()
	b := testBed(t)
	identities, err := newIssuer(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, identities.close()) })
	c := &intakeCmd{commonFlags: commonFlags{Rounds: 1, Time: 2 * time.Second}, SKUs: 10, Connections: 4, OverloadConns: 16, Customers: 2, Ways: []string{"directly", "overload", "gate"}}

	direct, err := c.directly(t.Context(), b, identities, 0)
	require.NoError(t, err)
	gated, err := c.throughGate(t.Context(), b, 0)
	require.NoError(t, err)
	for i, m := range []intakeRound{direct, gated} {
		require.Positive(t, m.max.accepted)
		require.Positive(t, m.half.accepted)
		require.GreaterOrEqual(t, b.count(t, i, "SELECT count(*) FROM orders"), m.max.accepted+m.half.accepted+m.over.accepted, "what was counted is in the database")
		require.EqualValues(t, 2, b.count(t, i, "SELECT count(DISTINCT customer_id) FROM orders"))
		require.Positive(t, m.usage.wal)
		require.NotEmpty(t, m.usage.memory)
		require.Positive(t, m.usage.memory[0])
	}
	require.Positive(t, direct.over.accepted)
	require.NotContains(t, direct.usage.cpu, "gate")
	require.Contains(t, gated.usage.cpu, "gate")

	r := &report{Command: "intake"}
	c.report(r, []float64{1e9}, []intakeRound{direct}, []intakeRound{gated})
	var out bytes.Buffer
	require.NoError(t, r.write(&out, true))
	var printed struct{ Checks []check }
	require.NoError(t, json.Unmarshal(out.Bytes(), &printed))
	reached := map[string]bool{}
	for _, c := range printed.Checks {
		reached[c.Name] = c.OK
	}
	require.Len(t, reached, 8)
	require.False(t, reached["intake directly against pgbench"], "a thousand million orders a second are out of reach")
	require.Contains(t, reached, "server's memory at ten times the maximum offered")
}

func TestADatabaseThatHasGrownIsSoundAndMeasured(t *testing.T) {
	t.Parallel()
	b := testBed(t)
	identities, err := newIssuer(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, identities.close()) })
	c := &growthCmd{commonFlags: commonFlags{Rounds: 1, Time: 500 * time.Millisecond}, SKUs: 10, Orders: fewest, Few: fewest, Connections: 4}
	s := &sized{name: "few", orders: fewest}
	s.url, err = b.database(t.Context(), c.SKUs)
	require.NoError(t, err)
	require.NoError(t, fillOrders(t.Context(), b, s.url, fewest, c.SKUs))

	require.EqualValues(t, fewest, b.count(t, 0, "SELECT count(*) FROM orders WHERE received_seq BETWEEN 1 AND 2000"))
	for status, n := range map[string]float64{"on_hold": 60, "expired": 60, "requires_action": 30, "processing": 270, "pending": 0} {
		require.InDelta(t, n, b.count(t, 0, "SELECT count(*) FROM orders WHERE status = '"+status+"'"), 5, status)
	}
	require.Greater(t, b.count(t, 0, "SELECT count(*) FROM orders WHERE status = 'completed'"), int64(fewest*2/3))
	require.Zero(t, b.count(t, 0, "SELECT count(*) FROM (SELECT id FROM orders LEFT JOIN order_events ON order_id = id GROUP BY id HAVING count(*) <> max(orders.version)) x"), "orders whose events are not 1..version")
	require.Zero(t, b.count(t, 0, "SELECT count(*) FROM orders o JOIN order_events e ON order_id = id AND o.version = e.version WHERE e.status <> o.status"), "orders that are not what their last event says")
	require.Zero(t, b.count(t, 0, "SELECT count(*) FROM orders WHERE id::text !~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-8'"), "ids that are no UUIDv7")
	require.Zero(t, b.stranded(t, s.url), "a keeper of orders finds nothing to do")

	require.NoError(t, c.measure(t.Context(), b, identities, s, 0))
	require.Positive(t, s.intake[0], "orders were taken in")
	// On a machine that is busy with other tests, half a second may see no order end.
	for round := 1; slices.Max(s.pipeline) == 0 && round < 20; round++ {
		require.NoError(t, c.measure(t.Context(), b, identities, s, round))
	}
	require.Positive(t, slices.Max(s.pipeline))
	for i, l := range lists() {
		require.Positive(t, s.lists[i][0], l.name)
	}
	for table, n := range map[string]int64{"orders": fewest, "order_lines": 2 * fewest, "river.river_job": 300} {
		require.Equal(t, n, b.count(t, 0, "SELECT count(*) FROM "+table), table+": it is as it was filled")
	}
	require.Zero(t, b.stranded(t, s.url))

	r := &report{}
	s.intake, s.pipeline = []float64{900}, []float64{300}
	c.report(r, s, s)
	require.Len(t, r.Checks, 2+len(lists()))
	for _, c := range r.Checks {
		require.True(t, c.OK, c.Name+" is as good as itself")
	}
}

// stranded is how many of the newest orders wait for a job that there is not.
func (b *bed) stranded(t *testing.T, databaseURL string) int {
	t.Helper()
	pool, err := db.NewPool(t.Context(), databaseURL, 2)
	require.NoError(t, err)
	defer pool.Close()
	store, err := db.NewStore(db.Config{Pool: pool, Logger: quiet()})
	require.NoError(t, err)
	defer store.Close()
	ids, err := store.OrderIDsBefore(t.Context(), uuid.Max, 10*fewest)
	require.NoError(t, err)
	require.NotEmpty(t, ids)
	found, err := store.RescueStranded(t.Context(), ids, "found by a test", "test")
	require.NoError(t, err)
	return len(found)
}

func TestGrowthRefusesTooFewOrders(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, run(t.Context(), io.Discard, io.Discard, "growth", "--few=10"), "--few must be at least")
	require.ErrorContains(t, run(t.Context(), io.Discard, io.Discard, "growth", "--orders=100"), "--orders")
	require.ErrorContains(t, run(t.Context(), io.Discard, io.Discard, "growth", "--keep", "--database-url="), "DATABASE_URL")
	require.ErrorContains(t, run(t.Context(), io.Discard, io.Discard, "growth", "--fill-only"), "--keep")
}

func TestAProgramThatEndsAtItsStartSaysWhy(t *testing.T) {
	t.Parallel()
	b := testBed(t)
	_, err := b.serve(t.Context(), serveConfig{databaseURL: b.url, jwksURL: "http://127.0.0.1:1/", flags: []string{"--no-such-flag"}})
	require.ErrorContains(t, err, "no-such-flag")
}

func TestMicroPrintsWhatBenchstatReads(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, io.Discard, "micro", "--bench=^(BenchmarkDo|BenchmarkEncode|BenchmarkCanonicalPath)$", "--count=1", "--time=1ms"))
	for _, name := range []string{"BenchmarkDo", "BenchmarkEncode", "BenchmarkCanonicalPath"} {
		require.Regexp(t, `(?m)^`+name+`\S*\s+\d+\s+[\d.]+ ns/op.* B/op`, out.String())
	}
}

func TestAWakeUpTakesMoreThanASystemCall(t *testing.T) {
	t.Parallel()
	wakeup, err := wakeupCost()
	require.NoError(t, err)
	require.Positive(t, syscallCost())
	require.Greater(t, wakeup, syscallCost())
}
