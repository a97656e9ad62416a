package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"millrace"
)

// keeper surrounds every job: it gives its errors their fate and sees to it that a job which is given up leaves its order on hold.
type keeper struct {
	river.MiddlewareDefaults
	config Config
}

// Work runs a job and decides what becomes of it.
func (k *keeper) Work(ctx context.Context, job *rivertype.JobRow, run func(context.Context) error) error {
	start := time.Now()
	work := run
	if k.config.Around != nil {
		work = func(ctx context.Context) error { return k.config.Around(ctx, job, run) }
	}
	err := work(ctx)
	outcome, err := k.decide(ctx, job, err)
	if k.config.Observe != nil {
		k.config.Observe(job, outcome, time.Since(start))
	}
	return err
}

// decide turns a job's error into what River should do, and names it for the metrics.
func (k *keeper) decide(ctx context.Context, job *rivertype.JobRow, err error) (string, error) {
	var snooze *rivertype.JobSnoozeError
	var canceled *rivertype.JobCancelError
	switch {
	case err == nil:
		return "done", nil
	case errors.As(err, &snooze):
		return "snoozed", err
	case errors.As(err, &canceled):
		return "canceled", err
	case errors.Is(ctx.Err(), context.Canceled) && !errors.Is(context.Cause(ctx), rivertype.ErrJobCancelledRemotely):
		return "returned", river.JobSnooze(0) // the process stops: another takes the job over, and no try is counted
	}
	code := millrace.ErrorCode(err)
	log := k.config.Logger.With("job", job.ID, "kind", job.Kind, "attempt", job.Attempt, "code", code)
	switch fates[code] {
	case drop:
		log.InfoContext(ctx, "job has nothing to do", "error", err)
		return "dropped", river.JobCancel(err)
	case hold:
		log.ErrorContext(ctx, "job cannot succeed", "error", err)
		return "held", k.giveUp(ctx, job, code, err)
	case retry:
	}
	if job.Attempt >= job.MaxAttempts {
		log.ErrorContext(ctx, "job failed for the last time", "error", err)
		return "discarded", k.giveUp(ctx, job, code, err)
	}
	log.WarnContext(ctx, "job will be tried again", "error", err)
	return "retried", err
}

// giveUp holds the job's order and ends the job. Where the order cannot be held now the job fails, and the sweep holds it later.
func (k *keeper) giveUp(ctx context.Context, job *rivertype.JobRow, code millrace.Code, cause error) error {
	id, ok := OrderID(job)
	if !ok {
		return river.JobCancel(cause)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.config.CallTimeout)
	defer cancel()
	_, err := k.config.Store.HoldOrder(ctx, id, gaveUp(job, code), actor(job.Kind))
	if err != nil && millrace.ErrorCode(err) != millrace.CodeConflict && millrace.ErrorCode(err) != millrace.CodeNotFound {
		return fmt.Errorf("hold order %s: %w (after: %w)", id, err, cause)
	}
	k.config.Logger.WarnContext(ctx, "order is on hold", "order", id, "kind", job.Kind)
	return river.JobCancel(cause)
}

// gaveUp is the reason that an operator reads.
func gaveUp(job *rivertype.JobRow, code millrace.Code) string {
	return fmt.Sprintf("%s gave up at try %d: %s", job.Kind, job.Attempt, code)
}

// OrderID reads whose order a job carries; false for jobs that carry none.
func OrderID(job *rivertype.JobRow) (uuid.UUID, bool) {
	var args struct {
		OrderID uuid.UUID `json:"order_id"`
	}
	err := json.Unmarshal(job.EncodedArgs, &args)
	return args.OrderID, err == nil && args.OrderID != uuid.Nil
}

// actor is who a job's changes are made by.
func actor(kind string) string { return "job:" + kind }
