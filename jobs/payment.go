package jobs

import (
	"context"
	"time"

	"github.com/riverqueue/river"

	"millrace"
)

// paymentWorker settles one payment transaction at the gateway.
type paymentWorker struct {
	river.WorkerDefaults[millrace.PaymentJob]
	Config
}

// abandonAfter is how long after its order's end a payment that the gateway has never heard of is certain not to reach it any more:
// since that end no job begins the call, and one that had begun it before is over by then.
const abandonAfter = 2 * jobTimeout

func (w *paymentWorker) Work(ctx context.Context, job *river.Job[millrace.PaymentJob]) error {
	o, err := w.Store.WorkOrder(ctx, job.Args.OrderID)
	if err != nil {
		return err
	}
	t, err := o.FindTransaction(job.Args.Transaction)
	if err != nil || t.Settled() {
		return err
	}
	taking := t.Kind == millrace.TransactionAuthorize || t.Kind == millrace.TransactionCapture
	if taking && o.Status == millrace.OrderOnHold {
		return nil // it comes back when the order is released; money that goes back does not wait for that
	}
	r := w.ask(ctx, o, t)
	if o, err = w.Store.SettlePayment(ctx, o, t.N, r, actor(job.Kind)); err != nil {
		return err
	}
	switch r.Outcome {
	case millrace.OutcomeApproved, millrace.OutcomeDeclined:
		return nil
	case millrace.OutcomePending:
		return river.JobSnooze(w.CheckEvery)
	case millrace.OutcomeRequiresAction:
		return w.awaitBuyer(ctx, o, job)
	case millrace.OutcomeRetry, millrace.OutcomeUnknown, millrace.OutcomeNotFound:
	}
	if o.Status.Final() && r.Outcome == millrace.OutcomeNotFound {
		return river.JobSnooze(w.CheckEvery) // too early to be certain that nothing was taken
	}
	return millrace.Errorf(millrace.CodeUnavailable, "The payment gateway answered %s.", r.Outcome)
}

// ask finds out what the gateway makes of a transaction. Where an earlier call may have reached it, it is asked before anything is
// requested again; for an order that has ended nothing is requested at all.
func (w *paymentWorker) ask(ctx context.Context, o *millrace.Order, t millrace.PaymentTransaction) millrace.PaymentResult {
	request := millrace.PaymentRequest{Key: t.Key, Kind: t.Kind, OrderID: o.ID, Method: o.PaymentMethod, Reference: t.Reference,
		AmountMinor: t.AmountMinor, Currency: o.Currency, WithCapture: t.WithCapture}
	unwanted := o.Status.Final() && t.Kind == millrace.TransactionAuthorize
	if t.State != millrace.TransactionRequested || unwanted {
		r := w.call(ctx, w.Gateway.Get, request)
		switch {
		case r.Outcome != millrace.OutcomeNotFound && r.Outcome != millrace.OutcomeRetry:
			return r
		case unwanted && time.Since(o.UpdatedAt) > abandonAfter:
			return millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: millrace.CodeAbandoned}
		case unwanted:
			return millrace.PaymentResult{Outcome: millrace.OutcomeNotFound, Gateway: r.Gateway}
		}
	}
	switch t.Kind {
	case millrace.TransactionAuthorize:
		return w.call(ctx, w.Gateway.Authorize, request)
	case millrace.TransactionCapture:
		return w.call(ctx, w.Gateway.Capture, request)
	case millrace.TransactionVoid:
		return w.call(ctx, w.Gateway.Void, request)
	case millrace.TransactionRefund:
		return w.call(ctx, w.Gateway.Refund, request)
	}
	return millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: "unknown_kind"}
}

type gatewayCall func(context.Context, millrace.PaymentRequest) (millrace.PaymentResult, error)

// call makes one call within its time. A call without an answer is of unknown outcome.
func (w *paymentWorker) call(ctx context.Context, f gatewayCall, r millrace.PaymentRequest) millrace.PaymentResult {
	ctx, cancel := context.WithTimeout(ctx, w.CallTimeout)
	defer cancel()
	result, err := f(ctx, r)
	if err != nil {
		w.Logger.WarnContext(ctx, "payment gateway did not answer", "order", r.OrderID, "transaction", r.Key, "error", err)
		result = millrace.PaymentResult{Outcome: millrace.OutcomeUnknown}
	}
	result.Gateway = w.Gateway.Name()
	return result
}

// awaitBuyer asks again later, or ends the order when the buyer's time is over.
func (w *paymentWorker) awaitBuyer(ctx context.Context, o *millrace.Order, job *river.Job[millrace.PaymentJob]) error {
	t, err := o.FindTransaction(job.Args.Transaction)
	if err != nil || t.ExpiresAt == nil || o.Status != millrace.OrderRequiresAction {
		return err
	}
	left := time.Until(*t.ExpiresAt)
	if left > 0 {
		return river.JobSnooze(min(left, w.CheckEvery))
	}
	if o, err = w.Store.ExpireOrder(ctx, o, actor(job.Kind)); err != nil {
		return err
	}
	if o.Status == millrace.OrderRequiresAction {
		return river.JobSnooze(w.CheckEvery) // by the store's clock it is not over yet
	}
	return nil
}
