package db_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
)

// loseJobs does to an order's jobs what is done to them from outside.
func (b *testBundle) loseJobs(id uuid.UUID, sql string) {
	b.t.Helper()
	_, err := b.pool.Exec(b.t.Context(), sql+" WHERE args ->> 'order_id' = $1::text", id)
	require.NoError(b.t, err)
}

var waysToLoseAJob = map[string]string{
	"deleted":   "DELETE FROM river.river_job",
	"discarded": "UPDATE river.river_job SET state = 'discarded', finalized_at = now()",
	"canceled":  "UPDATE river.river_job SET state = 'cancelled', finalized_at = now()",
}

// Guarantee 8: an order that only a job can take on, and that has none, is held for an operator, or given a new job where it has ended.
func TestOrdersThatLostTheirJobAreFound(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, c := range []struct {
		name  string
		deeds []deed
		held  bool   // or else given a new job, if that names one
		job   string // which
	}{
		{"waiting for stock", nil, true, ""},
		{"waiting for its payment", []deed{reserve}, true, ""},
		{"waiting for its buyer", []deed{reserve, mustAct}, true, ""},
		{"waiting for its label", []deed{reserve, paid}, true, ""},
		{"waiting for its parcel", []deed{reserve, paid, labeled}, true, ""},
		{"canceled while its payment was under way", []deed{reserve, cancel}, false, "settle_payment"},
		{"canceled with a refund under way", []deed{reserve, paid, cancel, unlabel}, false, "settle_payment"},
		{"canceled and its label perhaps bought", []deed{reserve, paid, cancel, approved(3)}, false, "ship_order"},
		{"canceled and its label bought", []deed{reserve, paid, cancel, approved(3), labeled}, false, "cancel_shipment"},
		{"completed with a refund under way", []deed{reserve, paid, labeled, delivered, refund(0, "a")}, false, "settle_payment"},
		{"completed", []deed{reserve, paid, labeled, delivered}, false, ""},
		{"canceled with nothing left to do", []deed{cancel}, false, ""},
		{"held already", []deed{reserve, paid, noRate}, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			for how, sql := range waysToLoseAJob {
				id := b.place("TEA-001")
				for _, d := range c.deeds {
					require.NoError(t, d(t.Context(), b.store, id))
				}
				found, err := b.store.RescueStranded(t.Context(), []uuid.UUID{id}, "its job was lost", "job:sweep")
				require.NoError(t, err)
				require.Empty(t, found, "it has its job")

				before := b.find(id)
				b.loseJobs(id, sql)
				waited := before.Waits()
				found, err = b.store.RescueStranded(t.Context(), []uuid.UUID{id, uuid.New()}, "its job was lost", "job:sweep")
				require.NoError(t, err)
				after := b.find(id)
				require.Equal(t, waited, len(found) == 1, "the query finds those of which the domain says that they wait; its job was %s", how)
				require.Equal(t, c.held, after.Status == millrace.OrderOnHold)
				switch {
				case c.held && before.Status != millrace.OrderOnHold:
					require.Equal(t, "its job was lost", after.HoldReason)
				default:
					require.Equal(t, before.Status, after.Status)
				}
				live := b.count("SELECT count(*) FROM river.river_job WHERE state = 'available' AND args ->> 'order_id' = $1::text", id)
				ofKind := b.count("SELECT count(*) FROM river.river_job WHERE state = 'available' AND args ->> 'order_id' = $1::text AND kind = $2", id, c.job)
				require.Equal(t, live, ofKind, "only the job that is missing is made anew")
				require.Equal(t, c.job != "", live == 1)
				if c.held { // an operator releases it, and it has a job again
					require.NoError(t, release(t.Context(), b.store, id))
					require.NotZero(t, b.count("SELECT count(*) FROM river.river_job WHERE state = 'available' AND args ->> 'order_id' = $1::text", id))
				}
			}
		})
	}
	b.requireSound()
}

func TestAJobThatIsAliveInAnyStateKeepsItsOrderFromBeingHeld(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, state := range []string{"available", "pending", "retryable", "running", "scheduled"} {
		id := b.place("TEA-001")
		b.loseJobs(id, "UPDATE river.river_job SET state = '"+state+"'")
		found, err := b.store.RescueStranded(t.Context(), []uuid.UUID{id}, "lost", "job:sweep")
		require.NoError(t, err)
		require.Empty(t, found, state)
	}
	id := b.place("TEA-001")
	b.loseJobs(id, "UPDATE river.river_job SET state = 'completed', finalized_at = now()")
	found, err := b.store.RescueStranded(t.Context(), []uuid.UUID{id}, "lost", "job:sweep")
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{id}, found, "a job that is done carries no order")
	found, err = b.store.RescueStranded(t.Context(), nil, "lost", "job:sweep")
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestGivenUpOrdersAreThoseOfJobsGivenUpLately(t *testing.T) {
	t.Parallel()
	b := setup(t)
	discarded, canceled, long, fine := b.place("TEA-001"), b.place("TEA-001"), b.place("TEA-001"), b.place("TEA-001")
	b.loseJobs(discarded, waysToLoseAJob["discarded"])
	b.loseJobs(canceled, waysToLoseAJob["canceled"])
	b.loseJobs(long, "UPDATE river.river_job SET state = 'discarded', finalized_at = now() - interval '2 hours'")
	ids, err := b.store.GivenUpOrders(t.Context(), time.Now().Add(-time.Hour))
	require.NoError(t, err)
	require.ElementsMatch(t, []uuid.UUID{discarded, canceled}, ids)
	require.NotContains(t, ids, fine)
}

func TestOrderIDsArePagedFromTheNewest(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var want []uuid.UUID
	for range 5 {
		want = append([]uuid.UUID{b.place("TEA-001")}, want...)
	}
	var got []uuid.UUID
	for before := uuid.Max; ; before = got[len(got)-1] {
		page, err := b.store.OrderIDsBefore(t.Context(), before, 2)
		require.NoError(t, err)
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
	}
	require.Equal(t, want, got)
}

func TestQueueDepthsAreOfJobsThatAreDue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.placeMany(3, "TEA-001")
	b.loseJobs(ids[0], "UPDATE river.river_job SET scheduled_at = now() - interval '90 seconds'")
	b.loseJobs(ids[1], "UPDATE river.river_job SET state = 'running', attempted_at = now()")
	depths, err := b.store.QueueDepths(t.Context())
	require.NoError(t, err)
	require.Len(t, depths, 1)
	require.Equal(t, millrace.QueueInventory, depths[0].Queue)
	require.EqualValues(t, 2, depths[0].Depth)
	require.GreaterOrEqual(t, depths[0].Oldest, 90*time.Second)
}
