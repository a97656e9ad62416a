package jobs_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
	"millrace/db/notify"
	"millrace/jobs"
)

// hourly looks for jobs less often than a test lasts, so that what gets worked was announced.
func hourly(c *jobs.Config) { c.PollInterval = time.Hour }

// requireWorked places orders one after the other and waits until each has a label, three jobs on.
func (b *testBundle) requireWorked(orders int) {
	b.t.Helper()
	for range orders {
		id := b.place("pm_ok", "GB", "TEA-001")
		b.until(id, "labelled", func(o *millrace.Order) bool {
			return o.Shipment != nil && o.Shipment.State != millrace.ShipmentRequested
		})
	}
}

// A process hears of its own jobs without a way through the database, also once the connection that listens had to be made anew.
func TestWorkersHearOfTheirOwnProcessJobs(t *testing.T) {
	t.Parallel()
	local := &jobs.Local{Own: func(string) bool { return true }} // whatever Postgres says is not listened to
	b := setup(t, func(c *db.Config) { c.Announce = local.Announce })
	b.work(hourly, func(c *jobs.Config) { c.Local = local })
	b.requireWorked(3)
	_, err := b.pool.Exec(t.Context(), "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()")
	require.NoError(t, err)
	b.requireWorked(3)
}

// Workers of other processes hear by the doorbell.
func TestWorkersHearOfOtherProcessesJobs(t *testing.T) {
	t.Parallel()
	var bell *notify.Doorbell
	b := setup(t, func(c *db.Config) { c.Announce = func(queues ...string) { bell.Announce(queues...) } })
	var err error
	bell, err = notify.NewDoorbell(notify.DoorbellConfig{DatabaseURL: b.url})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, bell.Close(context.Background())) })
	b.work(hourly, func(c *jobs.Config) { c.Local = &jobs.Local{Own: func(string) bool { return false }} })
	b.requireWorked(3)
}

// What a process was told by itself it is not told again by Postgres: it would look for jobs twice.
func TestWorkersDoNotHeedTheirOwnWordTwice(t *testing.T) {
	t.Parallel()
	heard := make(chan string, 100)
	local := &jobs.Local{Own: func(payload string) bool { heard <- payload; return true }}
	b := setup(t)
	b.work(hourly, func(c *jobs.Config) { c.Local = local })
	require.Eventually(t, func() bool {
		return b.count("SELECT count(*) FROM river.river_job WHERE kind = 'sweep' AND state = 'completed'") > 0
	}, soon, 10*time.Millisecond) // all queues have been looked at by then
	id := b.place("pm_ok", "GB", "TEA-001") // announced by its transaction
	for payload := ""; payload != `{"queue": "inventory"}`; {
		payload = <-heard
	}
	require.Never(t, func() bool { return b.find(id).Status != millrace.OrderPending }, 300*time.Millisecond, 50*time.Millisecond)
	local.Announce(millrace.QueueInventory)
	b.untilStatus(id, millrace.OrderProcessing)
}

// A job that a worker waits for is handed to it: it is never fetched, and who looks at it sees one that was.
func TestAJobIsHandedToAWorkerThatWaitsForIt(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.work(func(c *jobs.Config) { c.PollInterval = 100 * time.Millisecond })
	handed := func() bool {
		id := b.place("pm_ok", "GB", "TEA-001")
		b.untilStatus(id, millrace.OrderCompleted)
		b.untilQuiet()
		// A fetch stamps a job later than the transaction that adds it.
		return b.count(`SELECT count(*) FROM river.river_job WHERE args ->> 'order_id' = $1::text AND kind IN ('reserve_stock', 'settle_payment', 'ship_order')
			AND attempted_at = created_at AND attempt = 1 AND attempted_by = ARRAY[$2] AND state = 'completed'`, id, r.Client().ID()) == 3
	}
	for end := time.Now().Add(soon); !handed(); {
		require.True(t, time.Now().Before(end), "some job is always fetched")
	}
}

// Jobs of a paused queue wait, whoever adds them, and go on with it.
func TestNoWorkerOfAPausedQueueIsHandedAJob(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.work(func(c *jobs.Config) { c.PollInterval = 50 * time.Millisecond })
	b.requireWorked(1)
	require.NoError(t, r.Client().QueuePause(t.Context(), millrace.QueueInventory, nil))
	waits := func(id uuid.UUID) bool {
		return b.count("SELECT count(*) FROM river.river_job WHERE args ->> 'order_id' = $1::text AND state = 'available'", id) == 1
	}
	for end := time.Now().Add(soon); !waits(b.place("pm_ok", "GB", "TEA-001")); {
		require.True(t, time.Now().Before(end), "jobs never wait")
	}
	id := b.place("pm_ok", "GB", "TEA-001")
	require.Never(t, func() bool { return !waits(id) }, 300*time.Millisecond, 50*time.Millisecond)
	require.NoError(t, r.Client().QueueResume(t.Context(), millrace.QueueInventory, nil))
	b.untilStatus(id, millrace.OrderCompleted)
	b.untilQuiet()
}

// What stopped workers were handed and have not begun goes to others at once, and not as a try.
func TestAStoppedRunnerGivesBackWhatItWasHanded(t *testing.T) {
	t.Parallel()
	b := setup(t)
	own := &jobs.Local{}
	r, err := jobs.New(jobs.Config{Pool: b.newPool(4), Store: b.store, Gateway: b.providers.Gateway(), Carrier: b.providers.Carrier(), Logger: quiet(), Local: own})
	require.NoError(t, err)
	require.NoError(t, r.Start(t.Context()))
	var by string
	require.Eventually(t, func() (ok bool) { by, ok = own.Claim(millrace.QueueInventory); return ok }, soon, time.Millisecond)
	paused, cancelPaused := r.Client().Subscribe(river.EventKindQueuePaused)
	defer cancelPaused()
	require.NoError(t, r.Client().QueuePause(t.Context(), millrace.QueueInventory, nil))
	<-paused
	id := b.place("pm_ok", "GB", "TEA-001")
	job := &rivertype.JobRow{Queue: millrace.QueueInventory, Attempt: 1, ScheduledAt: time.Now()}
	require.NoError(t, b.pool.QueryRow(t.Context(), `UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = now(), attempted_by = ARRAY[$1]
		WHERE args ->> 'order_id' = $2::text RETURNING id`, by, id).Scan(&job.ID))
	own.Hand([]*rivertype.JobRow{job})
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	require.NoError(t, r.Stop(ctx))
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM river.river_job WHERE id = $1 AND state = 'available' AND attempt = 0", job.ID))
	b.exec("UPDATE river.river_queue SET paused_at = NULL")
	b.work()
	b.untilStatus(id, millrace.OrderCompleted)
	b.untilQuiet()
}
