package jobs_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
	"millrace/jobs"
	"millrace/provider/simulated"
)

// workerEnv has a process that is started from this binary work the jobs of the database it names.
const workerEnv = "MILLRACE_TEST_WORKER"

// workUntilKilled is that process: its gateway answers pm_slow in an hour, so that it dies with payments under way.
func workUntilKilled(url string) error {
	ctx := context.Background()
	pool, err := db.NewPool(ctx, url, 8)
	if err != nil {
		return err
	}
	store, err := db.NewStore(db.Config{Pool: pool, Logger: quiet()})
	if err != nil {
		return err
	}
	providers, err := simulated.Open(ctx, url, simulated.Config{SlowBy: time.Hour})
	if err != nil {
		return err
	}
	r, err := jobs.New(jobs.Config{Pool: pool, Store: store, Gateway: providers.Gateway(), Carrier: providers.Carrier(), Logger: quiet(), CallTimeout: 11 * time.Second})
	if err != nil {
		return err
	}
	if err := r.Start(ctx); err != nil {
		return err
	}
	fmt.Fprintln(os.Stdout, "working")
	select {}
}

// Guarantee 8, the hard way: what a killed process had begun, another ends.
func TestTheOrdersOfAKilledWorkerAreFinishedByAnother(t *testing.T) {
	t.Parallel()
	b := setup(t)
	worker := exec.CommandContext(t.Context(), os.Args[0])
	worker.Env = append(os.Environ(), workerEnv+"="+b.url)
	worker.Stderr = os.Stderr
	out, err := worker.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, worker.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "working\n", line)

	const orders = 12
	var ids []uuid.UUID
	for range orders {
		ids = append(ids, b.place("pm_slow", "GB", "TEA-001"))
	}
	require.Eventually(t, func() bool {
		return b.count("SELECT count(*) FROM simulated.calls WHERE operation = 'authorize'") == orders
	}, soon, 10*time.Millisecond, "the worker never asked for the money")
	require.NoError(t, worker.Process.Kill())
	require.Error(t, worker.Wait())
	killed := time.Now()
	require.Equal(t, orders, b.count("SELECT count(*) FROM river.river_job WHERE state = 'running' AND kind = 'settle_payment'"), "it died with work under way")

	b.work()
	for _, id := range ids {
		b.until(id, "completed", func(o *millrace.Order) bool { return o.Status == millrace.OrderCompleted })
		require.Equal(t, happyPath, b.events(id))
		b.requireLedger(id)
	}
	t.Logf("all orders were finished %s after the kill", time.Since(killed).Round(time.Second))
	b.requireConserved()
}

// What happens to a job from outside, an order survives: it is held, and goes on when it is released.
func TestAnOrderThatLostItsJobIsHeldAndGoesOnWhenReleased(t *testing.T) {
	t.Parallel()
	for how, lose := range map[string]func(b *testBundle, r *jobs.Runner, id uuid.UUID){
		"deleted": func(b *testBundle, _ *jobs.Runner, id uuid.UUID) {
			b.exec("DELETE FROM river.river_job WHERE args ->> 'order_id' = $1::text", id)
		},
		"canceled": func(b *testBundle, r *jobs.Runner, id uuid.UUID) {
			var job int64
			require.NoError(b.t, b.pool.QueryRow(b.t.Context(), "SELECT id FROM river.river_job WHERE args ->> 'order_id' = $1::text", id).Scan(&job))
			_, err := r.Client().JobCancel(b.t.Context(), job)
			require.NoError(b.t, err)
		},
		"discarded": func(b *testBundle, _ *jobs.Runner, id uuid.UUID) {
			b.exec("UPDATE river.river_job SET state = 'discarded', finalized_at = now() WHERE args ->> 'order_id' = $1::text", id)
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			lost := b.place("pm_ok", "GB", "TEA-001")
			// Only maintenance and payments are worked, so the order waits for its stock until it has lost that job.
			r := b.work(func(c *jobs.Config) { c.Queues, c.SweepEvery = []string{millrace.QueuePayment}, 250*time.Millisecond })
			lose(b, r, lost)
			o := b.untilStatus(lost, millrace.OrderOnHold)
			require.Contains(t, o.HoldReason, "its job was")
			b.work()
			b.release(lost)
			b.untilStatus(lost, millrace.OrderCompleted)
			b.requireLedger(lost)
		})
	}
}

// A job that River itself gives up, since its code panics, leaves its order to the sweep.
func TestAJobThatPanicsToTheEndLeavesItsOrderOnHold(t *testing.T) {
	t.Parallel()
	b := setup(t, attempts(1))
	var broken atomic.Bool
	broken.Store(true)
	_, with := gateway(b, func(ctx context.Context, _ string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		if broken.Load() {
			panic("a defect")
		}
		return next(ctx, r)
	})
	b.work(with, func(c *jobs.Config) { c.SweepEvery = 250 * time.Millisecond })
	id := b.place("pm_ok", "GB", "TEA-001")
	b.untilStatus(id, millrace.OrderOnHold)
	broken.Store(false)
	b.release(id)
	b.untilStatus(id, millrace.OrderCompleted)
	b.requireLedger(id)
}

// A job that is canceled while it runs ends, and its order is held.
func TestAJobCanceledWhileItRunsLeavesItsOrderOnHold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	running := make(chan struct{})
	var once first
	_, with := gateway(b, func(ctx context.Context, _ string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		if once.times(1, "call") {
			close(running)
			<-ctx.Done()
			return millrace.PaymentResult{}, ctx.Err()
		}
		return next(ctx, r)
	})
	r := b.work(with, func(c *jobs.Config) { c.SweepEvery, c.CallTimeout = 250*time.Millisecond, 11*time.Second })
	id := b.place("pm_ok", "GB", "TEA-001")
	<-running
	var job int64
	require.NoError(t, b.pool.QueryRow(t.Context(), "SELECT id FROM river.river_job WHERE kind = 'settle_payment'").Scan(&job))
	_, err := r.Client().JobCancel(t.Context(), job)
	require.NoError(t, err)
	b.untilStatus(id, millrace.OrderOnHold)
	b.release(id)
	b.untilStatus(id, millrace.OrderCompleted)
	b.requireLedger(id)
}

// A process that stops hands its jobs back: not even a job at its last try has lost one.
func TestAStoppedRunnerReturnsItsJobsWithoutCountingATry(t *testing.T) {
	t.Parallel()
	b := setup(t, attempts(1))
	running := make(chan struct{})
	outcomes := make(chan string, 10)
	g := &faultyGateway{Gateway: b.providers.Gateway(), on: func(ctx context.Context, _ string, _ millrace.PaymentRequest, _ paymentCall) (millrace.PaymentResult, error) {
		close(running)
		<-ctx.Done()
		return millrace.PaymentResult{}, ctx.Err()
	}}
	r, err := jobs.New(jobs.Config{Pool: b.newPool(4), Store: b.store, Gateway: g, Carrier: b.providers.Carrier(), Logger: quiet(), CallTimeout: 11 * time.Second,
		Observe: func(job *rivertype.JobRow, outcome string, _ time.Duration) {
			if job.Kind == "settle_payment" {
				outcomes <- outcome
			}
		}})
	require.NoError(t, err)
	require.NoError(t, r.Start(context.WithoutCancel(t.Context())))
	id := b.place("pm_ok", "GB", "RARE-010")
	<-running
	hurry, cancel := context.WithCancel(t.Context())
	cancel() // no time to let it end
	require.NoError(t, r.Stop(hurry))
	require.Equal(t, "returned", <-outcomes)
	var state string
	var attempt, failures int
	require.NoError(t, b.pool.QueryRow(t.Context(), "SELECT state, attempt, coalesce(cardinality(errors), 0) FROM river.river_job WHERE kind = 'settle_payment'").Scan(&state, &attempt, &failures))
	require.Equal(t, "available", state)
	require.Zero(t, attempt+failures, "no try was counted")
	require.Equal(t, millrace.OrderProcessing, b.find(id).Status)

	b.work()
	b.untilStatus(id, millrace.OrderCompleted)
	b.requireLedger(id)
}

func TestAStoppedRunnerLetsItsJobsEnd(t *testing.T) {
	t.Parallel()
	b := setup(t)
	calling, proceed := make(chan struct{}), make(chan struct{})
	g := &faultyGateway{Gateway: b.providers.Gateway(), on: func(ctx context.Context, _ string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		close(calling)
		<-proceed
		return next(ctx, r)
	}}
	r, err := jobs.New(jobs.Config{Pool: b.newPool(4), Store: b.store, Gateway: g, Carrier: b.providers.Carrier(), Logger: quiet()})
	require.NoError(t, err)
	require.NoError(t, r.Start(context.WithoutCancel(t.Context())))
	id := b.place("pm_ok", "GB", "RARE-010")
	<-calling
	stopped := make(chan error, 1)
	go func() { stopped <- r.Stop(context.WithoutCancel(t.Context())) }()
	close(proceed)
	require.NoError(t, <-stopped)
	o := b.find(id)
	require.Equal(t, millrace.PaymentPaid, o.PaymentStatus, "the payment that ran was recorded")
	require.Zero(t, b.count("SELECT count(*) FROM river.river_job WHERE state = 'running'"))
}

// Quiet means done (guarantee 8): two workers, buyers who cancel, jobs that are lost, a carrier and a warehouse that say no. When all
// is quiet every order has ended or is held with a reason; and what is released or canceled then, ends as well.
func TestQuietMeansDone(t *testing.T) {
	t.Parallel()
	b := setup(t, attempts(3), func(c *db.Config) { c.Policy.ActionTimeout = 300 * time.Millisecond })
	var every atomic.Int64
	_, with := gateway(b, func(ctx context.Context, _ string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		n := every.Add(1)
		if n%7 == 0 {
			return millrace.PaymentResult{}, errDown
		}
		answer, err := next(ctx, r)
		if n%5 == 0 {
			return millrace.PaymentResult{}, errDown
		}
		return answer, err
	})
	sweeping := func(c *jobs.Config) { c.SweepEvery = 500 * time.Millisecond }
	b.work(with, sweeping)
	b.work(with, sweeping)
	var ids []uuid.UUID
	methods := []string{"pm_ok", "pm_ok", "pm_declined", "pm_flaky", "pm_3ds", "pm_slow"}
	for i := range 60 {
		country, sku := "GB", []string{"TEA-001", "RARE-010", "GONE-000"}[i%3]
		switch i % 10 {
		case 3:
			country = "XX"
		case 7:
			sku = "NOPICK-1"
		}
		id := b.place(methods[i%len(methods)], country, sku)
		ids = append(ids, id)
		switch i % 6 {
		case 1:
			if _, err := b.store.CancelOrder(t.Context(), ids[i/2], "", "customer:ada"); err != nil {
				require.Equal(t, millrace.CodeConflict, millrace.ErrorCode(err))
			}
		case 2:
			b.exec("DELETE FROM river.river_job WHERE state = 'available' AND args ->> 'order_id' = $1::text", ids[i/2])
		case 4:
			if _, err := b.store.HoldOrder(t.Context(), ids[i/3], "looks odd", "operator:test"); err != nil {
				require.Equal(t, millrace.CodeConflict, millrace.ErrorCode(err))
			}
		}
	}
	rest := func(ok func(*millrace.Order) bool) {
		b.t.Helper()
		for _, id := range ids {
			b.until(id, "at rest", ok)
		}
		b.untilQuiet()
	}
	rest(func(o *millrace.Order) bool { return !o.Waits() })
	for i, id := range ids {
		o := b.find(id)
		require.True(t, o.Status.Final() || o.Status == millrace.OrderOnHold && o.HoldReason != "", "order is %s", o.Status)
		if o.Status == millrace.OrderOnHold && i%2 == 0 && !strings.HasPrefix(o.HoldReason, "no") {
			b.release(id)
		} else if _, err := b.store.CancelOrder(t.Context(), id, "", "operator:test"); err != nil {
			require.Equal(t, millrace.CodeConflict, millrace.ErrorCode(err))
		}
	}
	rest(func(o *millrace.Order) bool { return !o.Waits() })
	for _, id := range ids {
		o := b.find(id)
		if o.Status != millrace.OrderOnHold { // held once more: it was no rate after all, or the gateway was down for too long
			require.True(t, o.Status.Final(), "order is %s", o.Status)
			b.requireLedger(id)
		}
		if o.Status == millrace.OrderCanceled {
			require.Zero(t, b.picks(id), "nothing is picked for a canceled order")
			require.Zero(t, b.count(`SELECT count(*) FROM simulated.labels l WHERE order_id = $1 AND state = 'purchased'
				AND NOT EXISTS (SELECT FROM simulated.calls c WHERE c.reference = l.reference AND c.operation = 'cancel')`, id),
				"its label was given back, unless the parcel had left by then")
		}
		b.events(id)
	}
	b.requireConserved()
}
