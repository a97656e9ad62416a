package db_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
)

// crew are workers of whom every so many can be claimed.
type crew struct {
	t     *testing.T
	every int

	mu       sync.Mutex
	asked    int
	claimed  map[string]int // by queue
	handed   []*rivertype.JobRow
	released int
}

func (c *crew) Claim(queue string) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked++; c.asked%c.every != 0 {
		return "", false
	}
	if c.claimed == nil {
		c.claimed = make(map[string]int)
	}
	c.claimed[queue]++
	return "crew", true
}

func (c *crew) end(queue string) {
	if c.claimed[queue]--; c.claimed[queue] < 0 {
		c.t.Errorf("a claim in %s ended that was not made", queue)
	}
}

func (c *crew) Hand(jobs []*rivertype.JobRow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handed = append(c.handed, jobs...)
	for _, j := range jobs {
		c.end(j.Queue)
	}
}

func (c *crew) Release(queues []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.released += len(queues)
	for _, q := range queues {
		c.end(q)
	}
}

// requireSettled checks that all claims ended and returns how many jobs were handed over since the last time, and how many claims given up.
func (c *crew) requireSettled() (handed []*rivertype.JobRow, released int) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for queue, n := range c.claimed {
		require.Zero(c.t, n, "claims in %s that never ended", queue)
	}
	handed, released = c.handed, c.released
	c.handed, c.released = nil, 0
	return handed, released
}

// requireSame checks that a job which was handed over is the one that Postgres has.
func (b *testBundle) requireSame(j *rivertype.JobRow) {
	b.t.Helper()
	var same bool
	require.NoError(b.t, b.pool.QueryRow(b.t.Context(), `SELECT (state::text, kind, queue, args, attempt, max_attempts, priority, attempted_at, created_at, scheduled_at, attempted_by, metadata, tags)
		IS NOT DISTINCT FROM ($2::text, $3::text, $4::text, $5::jsonb, $6::smallint, $7::smallint, $8::smallint, $9::timestamptz, $10::timestamptz, $11::timestamptz, $12::text[], $13::jsonb, $14::varchar[])
		FROM river.river_job WHERE id = $1`, j.ID, string(j.State), j.Kind, j.Queue, j.EncodedArgs, j.Attempt, j.MaxAttempts, j.Priority, j.AttemptedAt, j.CreatedAt,
		j.ScheduledAt, j.AttemptedBy, j.Metadata, j.Tags).Scan(&same))
	require.True(b.t, same, "%+v", j)
}

// A job that a worker was claimed for is committed as one that runs when the worker gets it, and nobody is told of it; the others are
// there to be fetched.
func TestClaimedWorkersAreHandedTheirJobsAfterTheCommit(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 256} {
		var mu sync.Mutex
		told := map[string]int{}
		c := &crew{t: t, every: 2}
		b := setup(t, maxGroup(n), func(config *db.Config) {
			config.Workers = c
			config.Announce = func(queues ...string) {
				mu.Lock()
				defer mu.Unlock()
				for _, q := range queues {
					told[q]++
				}
			}
		})
		const orders = 40
		ids := b.placeMany(orders, "TEA-001")
		b.concurrently(orders, func(i int) error { return b.store.ReserveStock(t.Context(), ids[i]) })
		b.concurrently(orders, func(i int) error {
			_, err := b.store.SettlePayment(t.Context(), b.find(ids[i]), 1, millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: "ch_" + ids[i].String(), Captured: true}, "job:test")
			return err
		})
		handed, _ := c.requireSettled() // of which some may be released: a group may be tried again
		require.InDelta(t, 3*orders/2, len(handed), orders)
		seen := map[uuid.UUID][]string{}
		for _, j := range handed {
			b.requireSame(j)
			var args struct {
				OrderID uuid.UUID `json:"order_id"`
			}
			require.NoError(t, json.Unmarshal(j.EncodedArgs, &args))
			require.NotContains(t, seen[args.OrderID], j.Kind)
			seen[args.OrderID] = append(seen[args.OrderID], j.Kind)
			require.True(t, slices.Contains(ids, args.OrderID))
		}
		require.EqualValues(t, 3*orders-len(handed), b.count("SELECT count(*) FROM river.river_job WHERE state = 'available' AND attempt = 0 AND attempted_at IS NULL"))
		for _, q := range []string{millrace.QueueInventory, millrace.QueuePayment, millrace.QueueShipping} {
			require.NotZero(t, told[q])
		}
		b.requireSound()

		c.every = 1
		clear(told)
		require.NoError(t, b.store.ReserveStock(t.Context(), b.placeMany(1, "TEA-001")[0]))
		handed, _ = c.requireSettled()
		require.Len(t, handed, 2)
		require.Empty(t, told)
	}
}

// Workers that were claimed for jobs which are not committed, or may not be, are free again.
func TestWorkersClaimedForNothingAreReleased(t *testing.T) {
	t.Parallel()
	c := &crew{t: t, every: 1}
	b := setup(t, oneFlush, func(config *db.Config) { config.Workers = c })
	place := func(s *db.Store, key string, skus ...string) error {
		_, err := s.PlaceOrder(t.Context(), placement(b.ada, key, request(skus...)))
		return err
	}
	require.NoError(t, place(b.store, "first", "TEA-001"))
	handed, released := c.requireSettled()
	require.Len(t, handed, 1)
	require.Zero(t, released)

	requireCode(t, millrace.CodeInternal, place(b.store, "bad \x00", "TEA-001")) // which Postgres refuses
	handed, released = c.requireSettled()
	require.Empty(t, handed)
	require.NotZero(t, released)

	release := b.lock(intakeCounter)
	errs := make(chan error)
	for _, key := range []string{"one", "two", "bad \x00 2", "three", "first"} { // a group that is divided, and one that looks again
		go func() { errs <- place(b.store, key, "TEA-001") }()
	}
	release()
	failed := 0
	for range 5 {
		if err := <-errs; err != nil {
			failed++
		}
	}
	require.Equal(t, 1, failed)
	handed, _ = c.requireSettled()
	require.Len(t, handed, 3)

	shaky := b.newStore(b.newPool(1), func(config *db.Config) {
		config.Workers = c
		config.InTx = func(context.Context, pgx.Tx, []uuid.UUID) error { panic(errors.New("no")) }
	})
	for range 2 { // with one connection, which a panic must not keep
		requireCode(t, millrace.CodeInternal, place(shaky, uuid.NewString(), "TEA-001"))
		handed, released = c.requireSettled()
		require.Empty(t, handed)
		require.NotZero(t, released)
	}

	var cutter cutter
	lossy := b.newStore(b.cutPool(&cutter), func(config *db.Config) { config.Workers = c })
	require.NoError(t, place(lossy, "who this is", "TEA-001"))
	c.requireSettled()
	cutter.expect(lostAfter)
	requireCode(t, millrace.CodeUnknown, place(lossy, "lost", "TEA-001"))
	handed, released = c.requireSettled()
	require.Empty(t, handed)
	require.Equal(t, 1, released)
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM river.river_job j, idempotency_keys k WHERE k.key = 'lost' AND j.args ->> 'order_id' = k.order_id::text AND j.state = 'running'")) // for a rescue
	b.requireSound()
}

// A job that was handed to a worker gets its order from the commit that added it, as Postgres would give it; once, and not after the order
// changed in any other way.
func TestAJobThatWasHandedOverNeedNotReadItsOrder(t *testing.T) {
	t.Parallel()
	utc := func(o *millrace.Order) *millrace.Order {
		o.PlacedAt, o.UpdatedAt = o.PlacedAt.UTC(), o.UpdatedAt.UTC()
		for i := range o.Transactions {
			p := &o.Transactions[i]
			p.RequestedAt = p.RequestedAt.UTC()
			if p.ExpiresAt != nil {
				at := p.ExpiresAt.UTC()
				p.ExpiresAt = &at
			}
		}
		return o
	}
	for _, life := range lives {
		t.Run(life.name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, func(c *db.Config) { c.Policy, c.Workers = life.policy, &crew{t: t, every: 1} })
			other := b.newStore(b.pool)
			live := func() (spared int) {
				id := b.place("TEA-001", "CUP-002")
				for i, d := range life.deeds {
					require.NoError(t, d(t.Context(), b.store, id))
					mark := fmt.Sprintf("%d@example.com", i) // which who reads it sees
					_, err := b.pool.Exec(t.Context(), "UPDATE orders SET email = $1 WHERE id = $2", mark, id)
					require.NoError(t, err)
					got, err := b.store.WorkOrder(t.Context(), id)
					require.NoError(t, err)
					if got.Email != mark {
						spared++
						got.Email = mark
					}
					want, err := other.WorkOrder(t.Context(), id)
					require.NoError(t, err)
					require.Equal(t, utc(want), utc(got), "after deed %d", i)
					again, err := b.store.WorkOrder(t.Context(), id)
					require.NoError(t, err)
					require.Equal(t, mark, again.Email, "it is given once")
				}
				return spared
			}
			for end := time.Now().Add(soon); live() == 0; { // on a slow machine it may always be too late
				require.True(t, time.Now().Before(end), "orders are always read")
			}
		})
	}
	t.Run("changed since", func(t *testing.T) {
		t.Parallel()
		b := setup(t, func(c *db.Config) { c.Workers = &crew{t: t, every: 1} })
		other := b.newStore(b.pool)
		status := func(id uuid.UUID) millrace.OrderStatus {
			o, err := b.store.WorkOrder(t.Context(), id)
			require.NoError(t, err)
			return o.Status
		}
		one, two := b.place("TEA-001"), b.place("TEA-001")
		require.NoError(t, reserve(t.Context(), b.store, one))
		require.NoError(t, hold(t.Context(), b.store, one))
		require.Equal(t, millrace.OrderOnHold, status(one))
		require.NoError(t, reserve(t.Context(), b.store, two))
		require.NoError(t, hold(t.Context(), other, two))
		require.Eventually(t, func() bool { return status(two) == millrace.OrderOnHold }, soon, 10*time.Millisecond)
	})
}
