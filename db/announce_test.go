package db_test

import (
	"context"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
)

// A job that was not announced would wait for a poll: each step announces its next one, however short ago it announced another.
func TestEachStepAnnouncesItsNextJob(t *testing.T) {
	t.Parallel()
	b := setup(t)
	conn, err := pgx.Connect(t.Context(), b.url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	_, err = conn.Exec(t.Context(), `LISTEN "river.river_insert"`)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	until := func(payload string) {
		for {
			n, err := conn.WaitForNotification(ctx)
			require.NoError(t, err)
			if n.Payload == payload {
				return
			}
		}
	}
	for range 3 {
		id := b.placeMany(1, "TEA-001")[0]
		require.NoError(t, b.store.ReserveStock(t.Context(), id))
		until(`{"queue": "payment"}`)
		_, err = b.store.SettlePayment(t.Context(), b.find(id), 1, millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: "ch_1", Captured: true}, "job:test")
		require.NoError(t, err)
		until(`{"queue": "shipping"}`)
	}
	require.EqualValues(t, 0, b.count("SELECT count(*) FROM river.river_job WHERE state <> 'available' OR scheduled_at > clock_timestamp() OR max_attempts <> 20"))
}

// Where somebody else announces jobs, they are told once a job can be fetched, also where a commit may have been carried out, and no
// transaction notifies.
func TestWhoAnnouncesJobsIsToldAfterTheCommit(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var told []string
	var b *testBundle
	b = setup(t, func(c *db.Config) {
		c.Announce = func(queues ...string) {
			mu.Lock()
			defer mu.Unlock()
			for _, q := range queues {
				told = append(told, q)
				if b.count("SELECT count(*) FROM river.river_job WHERE queue = $1", q) == 0 {
					t.Errorf("told of a job in %s that is not there", q)
				}
			}
		}
	})
	hears := func(queues ...string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, queues, told)
		told = nil
	}
	conn, err := pgx.Connect(t.Context(), b.url)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, conn.Close(context.Background())) })
	_, err = conn.Exec(t.Context(), `LISTEN "river.river_insert"`)
	require.NoError(t, err)

	id := b.placeMany(1, "TEA-001")[0]
	hears(millrace.QueueInventory)
	require.NoError(t, b.store.ReserveStock(t.Context(), id))
	hears(millrace.QueuePayment)
	require.NoError(t, b.store.ReserveStock(t.Context(), id))
	hears()
	_, err = b.store.PlaceOrder(t.Context(), placement(b.ada, "k1", request("NO-SUCH-SKU")))
	requireCode(t, millrace.CodeInvalid, err)
	hears()
	var cutter cutter
	lossy := b.newStore(b.cutPool(&cutter), func(c *db.Config) { c.Announce = func(queues ...string) { told = append(told, queues...) } })
	cutter.expect(lostAfter)
	_, err = lossy.PlaceOrder(t.Context(), placement(b.ada, "k2", request("TEA-001")))
	requireCode(t, millrace.CodeUnknown, err)
	hears(millrace.QueueInventory)

	_, err = b.pool.Exec(t.Context(), `SELECT pg_notify('river.river_insert', 'the first')`)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	n, err := conn.WaitForNotification(ctx)
	require.NoError(t, err)
	require.Equal(t, "the first", n.Payload)
}

// A step that needed a second connection while it holds locks on its first would wait for one that waits for them.
func TestAStoreWithOneConnectionDoesNotWaitForItself(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.placeMany(5, "TEA-001")
	s := b.newStore(b.newPool(1))
	b.concurrently(len(ids), func(i int) error { return s.ReserveStock(t.Context(), ids[i]) })
	b.concurrently(5, func(i int) error {
		_, err := s.PlaceOrder(t.Context(), placement(b.ada, "one "+ids[i].String(), request("CUP-002")))
		return err
	})
	b.requireSound()
}
