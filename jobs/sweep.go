package jobs

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"millrace"
)

// sweepWorker finds orders that lost their job. Each run looks at the jobs that were given up lately, and at a page of all orders, so
// that in time every order is looked at, even one whose job was deleted without a trace.
type sweepWorker struct {
	river.WorkerDefaults[millrace.SweepJob]
	Config

	next uuid.UUID // where the next page starts; runs do not overlap within a process, and between processes they may
}

// sweepPage is how many orders a run looks at besides those of jobs given up.
const sweepPage = 20_000

// strandedReason is what an operator reads.
const strandedReason = "its job was discarded, canceled or deleted"

func (w *sweepWorker) Work(ctx context.Context, job *river.Job[millrace.SweepJob]) error {
	now := time.Now()
	lost, err := w.Store.GivenUpOrders(ctx, now.Add(-3*w.SweepEvery))
	if err != nil {
		return err
	}
	if w.next == uuid.Nil {
		w.next = uuid.Max
	}
	page, err := w.Store.OrderIDsBefore(ctx, w.next, sweepPage)
	if err != nil {
		return err
	}
	w.next = uuid.Nil
	if len(page) == sweepPage {
		w.next = page[len(page)-1]
	}
	stranded, err := w.Store.RescueStranded(ctx, append(lost, page...), strandedReason, actor(job.Kind))
	if err != nil {
		return err
	}
	if len(stranded) > 0 {
		w.Logger.WarnContext(ctx, "orders had lost their job", "orders", fmt.Sprint(stranded))
	}
	if _, err := w.Store.DropOldKeys(ctx, now.Add(-w.KeepKeys)); err != nil {
		return err
	}
	return w.Store.BookShipped(ctx) // what a process that is gone has left
}
