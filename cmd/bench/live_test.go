package main

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"millrace/db"
)

func TestStreamsAreMeasured(t *testing.T) {
	t.Parallel()
	b := testBed(t)
	c := &liveCmd{commonFlags: commonFlags{Rounds: 1, Time: 300 * time.Millisecond}, Streams: 20, Watchers: 8, Readers: 4, Stalled: 3, Rate: 50, SKUs: 10,
		Quiet: 100 * time.Millisecond}
	var f liveFigures
	require.NoError(t, c.quiet(t.Context(), b, 0, &f))
	loaded := *c
	loaded.Watchers = customers
	require.NoError(t, loaded.atLoad(t.Context(), b, 20, &f))
	r := &report{}
	c.report(r, &f)
	require.Len(t, r.Checks, 5)
	figures := map[string]float64{}
	for _, figure := range r.Figures {
		figures[figure.Name] = figure.Median
	}
	require.InDelta(t, 4, figures[goroutineFigure], 1, "an idle stream's goroutines")
	for _, name := range []string{"streams opened", lightFigure + ", p50", "commit to client, light load beside the idle streams, p99", "deliveries, 8 orders x 1 watcher",
		"deliveries, 1 order x 8 watchers", "commit to client, one order, beside stalled readers, p99", stalledFigure, "deliveries at half load"} {
		require.Positive(t, figures[name], name)
	}
}

func TestASaleIsHeldAndJudged(t *testing.T) {
	t.Parallel()
	b := testBed(t)
	program, err := b.program(t.Context(), "bench")
	require.NoError(t, err)
	c := &flashsaleCmd{Orders: 61, Units: 10, Processes: 2, Clients: 4, Spread: 5, program: program}
	url, err := b.database(t.Context(), 1)
	require.NoError(t, err)
	pool, err := db.NewPool(t.Context(), url, 2)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	attempts, err := c.hold(t.Context(), url, pool, 1)
	require.NoError(t, err)
	require.Len(t, attempts, 61)
	s, err := judge(t.Context(), pool, attempts, c.Units)
	require.NoError(t, err)
	require.Equal(t, 10, s.sold)
	require.Zero(t, s.oversold)
	require.Zero(t, s.violations)
	require.Positive(t, s.decided)
	require.Positive(t, s.taken)
	require.Positive(t, s.soldOut)

	t.Run("a unit too many is seen", func(t *testing.T) {
		s, err := judge(t.Context(), pool, attempts, c.Units-1)
		require.NoError(t, err)
		require.Equal(t, 1, s.oversold)
	})
	t.Run("a unit that no shelf gave is seen", func(t *testing.T) {
		_, err := pool.Exec(t.Context(), "UPDATE inventory_levels SET on_hand = on_hand + 1")
		require.NoError(t, err)
		s, err := judge(t.Context(), pool, attempts, c.Units)
		require.NoError(t, err)
		require.Equal(t, 1, s.oversold)
	})
	t.Run("an order that never was offered stock is seen", func(t *testing.T) {
		_, err := judge(t.Context(), pool, append(attempts, attempt{}), c.Units)
		require.ErrorContains(t, err, "never offered stock")
	})
	t.Run("spread over products", func(t *testing.T) {
		s, err := c.sell(t.Context(), b, 5)
		require.NoError(t, err)
		require.Equal(t, 10, s.sold)
		require.Zero(t, s.oversold+s.violations)
	})
}

func TestASnapshotIsHeldUnderASteadyLoad(t *testing.T) {
	t.Parallel()
	b := testBed(t)
	c := &snapshotCmd{SKUs: 10, Held: time.Second}
	s, err := c.measure(t.Context(), b, 50, 25)
	require.NoError(t, err)
	require.GreaterOrEqual(t, s.backlog, s.left)
	require.Positive(t, b.count(t, 0, "SELECT count(*) FROM orders WHERE status = 'completed'"))

	url, err := b.database(t.Context(), 1)
	require.NoError(t, err)
	const held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xmin IS NOT NULL AND backend_type = 'client backend'"
	release, err := holdSnapshot(t.Context(), url)
	require.NoError(t, err)
	require.EqualValues(t, 1, b.count(t, 1, held))
	require.NoError(t, release())
	require.Eventually(t, func() bool { return b.count(t, 1, held) == 0 }, time.Minute, 10*time.Millisecond)
}

func TestWhatCannotBeMeasuredIsRefused(t *testing.T) {
	t.Parallel()
	for args, want := range map[[2]string]string{
		{"flashsale", "--spread=7"}:     "does not divide",
		{"flashsale", "--processes=0"}:  "at least 1",
		{"live", "--streams=0"}:         "above 0",
		{"live", "--streams=100000000"}: "ulimit",
		{"snapshot", "--held=1ms"}:      "--held",
		{"snapshot", "--load=0"}:        "--load",
	} {
		require.ErrorContains(t, run(t.Context(), io.Discard, io.Discard, args[0], args[1]), want)
	}
}
