package jobs

import (
	"context"

	"github.com/riverqueue/river"

	"millrace"
)

// reserveWorker has an order offered stock in its turn.
type reserveWorker struct {
	river.WorkerDefaults[millrace.ReserveStockJob]
	Config
}

func (w *reserveWorker) Work(ctx context.Context, job *river.Job[millrace.ReserveStockJob]) error {
	return w.Store.ReserveStock(ctx, job.Args.OrderID)
}
