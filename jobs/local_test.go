package jobs_test

import (
	"context"
	"testing"
	"time"

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
