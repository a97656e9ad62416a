package jobs

import (
	"context"
	"time"

	"github.com/riverqueue/river"

	"millrace"
)

// shipWorker has an order picked and packed and buys its label.
type shipWorker struct {
	river.WorkerDefaults[millrace.ShipOrderJob]
	Config
}

func (w *shipWorker) Work(ctx context.Context, job *river.Job[millrace.ShipOrderJob]) error {
	o, err := w.Store.WorkOrder(ctx, job.Args.OrderID)
	if err != nil {
		return err
	}
	if o.Shipment == nil || o.Shipment.State != millrace.ShipmentRequested {
		return nil
	}
	if o.Status.Final() {
		return w.findUnwanted(ctx, o, job)
	}
	if o.Status != millrace.OrderProcessing {
		return nil // a held order's job comes back when it is released
	}
	if o.ShipTo == nil {
		return millrace.Errorf(millrace.CodeInvalid, "The order's address was erased before it shipped.")
	}
	r := w.pick(ctx, o)
	if r.Outcome == millrace.OutcomeApproved {
		r = w.buy(ctx, o)
	}
	if _, err = w.Store.SettleShipment(ctx, o, r, w.Carrier.Name(), actor(job.Kind)); err != nil {
		return err
	}
	switch r.Outcome {
	case millrace.OutcomeApproved, millrace.OutcomeDeclined:
		return nil
	case millrace.OutcomePending, millrace.OutcomeRequiresAction:
		return river.JobSnooze(w.CheckEvery)
	case millrace.OutcomeRetry, millrace.OutcomeUnknown, millrace.OutcomeNotFound:
	}
	return millrace.Errorf(millrace.CodeUnavailable, "The shipping provider answered %s.", r.Outcome)
}

// findUnwanted asks whether a label was bought for an order that has ended meanwhile, so that it is given back. Where none was, the
// warehouse is told not to pick, and that is the end of it.
func (w *shipWorker) findUnwanted(ctx context.Context, o *millrace.Order, job *river.Job[millrace.ShipOrderJob]) error {
	if o.Shipment.State != millrace.ShipmentRequested {
		return nil
	}
	call, cancel := context.WithTimeout(ctx, w.CallTimeout/2)
	defer cancel()
	r, err := w.Carrier.Get(call, o.Shipment.ID.String())
	switch {
	case err != nil:
		return millrace.WrapError(millrace.CodeUnavailable, err, "The carrier cannot say whether it sold a label.")
	case r.Outcome == millrace.OutcomeApproved:
		_, err = w.Store.SettleShipment(ctx, o, r, w.Carrier.Name(), actor(job.Kind))
		return err
	case r.Outcome != millrace.OutcomeNotFound && r.Outcome != millrace.OutcomeDeclined && r.Outcome != millrace.OutcomeRetry:
		return millrace.Errorf(millrace.CodeUnavailable, "The carrier answered %s when asked whether it sold a label.", r.Outcome)
	}
	if err := w.unpick(call, o); err != nil {
		return err
	}
	_, err = w.Store.ShipmentCanceled(ctx, o, actor(job.Kind))
	return err
}

// pickKey is the idempotency key of what the warehouse is asked for an order.
func pickKey(o *millrace.Order) string { return o.Shipment.ID.String() + ":pick" }

// unpick takes back what the warehouse was asked for an order that has ended. A no is as final as a yes.
func (c *Config) unpick(ctx context.Context, o *millrace.Order) error {
	if c.Warehouse == nil {
		return nil
	}
	r, err := c.Warehouse.Cancel(ctx, pickKey(o))
	if err != nil || r.Outcome != millrace.OutcomeApproved && r.Outcome != millrace.OutcomeDeclined {
		return millrace.WrapError(millrace.CodeUnavailable, err, "The warehouse did not take the order back yet.")
	}
	return nil
}

// pick asks the warehouse, if there is one to ask. Its answer stands in for the carrier's where it is not a yes.
func (w *shipWorker) pick(ctx context.Context, o *millrace.Order) millrace.LabelResult {
	if w.Warehouse == nil {
		return millrace.LabelResult{Outcome: millrace.OutcomeApproved}
	}
	ctx, cancel := context.WithTimeout(ctx, w.CallTimeout/2)
	defer cancel()
	r, err := w.Warehouse.Fulfill(ctx, millrace.FulfillRequest{Key: pickKey(o), OrderID: o.ID, Lines: o.Reservations, ShipTo: *o.ShipTo})
	if err != nil {
		w.Logger.WarnContext(ctx, "warehouse did not answer", "order", o.ID, "error", err)
		return millrace.LabelResult{Outcome: millrace.OutcomeUnknown}
	}
	return millrace.LabelResult{Outcome: r.Outcome, Code: r.Code}
}

// buy buys the label. The carrier is given the shipment's id as its reference, so that a call whose answer was lost is found by the
// next one and not paid for twice.
func (w *shipWorker) buy(ctx context.Context, o *millrace.Order) millrace.LabelResult {
	ctx, cancel := context.WithTimeout(ctx, w.CallTimeout/2)
	defer cancel()
	r, err := w.Carrier.Buy(ctx, millrace.LabelRequest{Key: o.Shipment.ID.String(), OrderID: o.ID, ShipTo: *o.ShipTo, Lines: o.Reservations})
	if err != nil {
		w.Logger.WarnContext(ctx, "carrier did not answer", "order", o.ID, "error", err)
		return millrace.LabelResult{Outcome: millrace.OutcomeUnknown}
	}
	return r
}

// trackWorker follows a parcel.
type trackWorker struct {
	river.WorkerDefaults[millrace.TrackShipmentJob]
	Config
}

func (w *trackWorker) Work(ctx context.Context, job *river.Job[millrace.TrackShipmentJob]) error {
	o, err := w.Store.WorkOrder(ctx, job.Args.OrderID)
	if err != nil {
		return err
	}
	if o.Status != millrace.OrderProcessing || o.Shipment == nil || o.Shipment.State == millrace.ShipmentDelivered {
		return nil
	}
	call, cancel := context.WithTimeout(ctx, w.CallTimeout)
	defer cancel()
	r, err := w.Carrier.Track(call, o.Shipment.Reference, o.Shipment.TrackingNumber)
	if err != nil {
		return millrace.WrapError(millrace.CodeUnavailable, err, "The carrier cannot say where the parcel is.")
	}
	if r.State != o.Shipment.State {
		if _, err = w.Store.TrackShipment(ctx, o, r, actor(job.Kind)); err != nil {
			return err
		}
	}
	if r.State == millrace.ShipmentDelivered {
		return nil
	}
	if r.CheckAfter == 0 {
		return river.JobSnooze(w.CheckEvery)
	}
	return river.JobSnooze(max(r.CheckAfter, 50*time.Millisecond))
}

// cancelShipmentWorker gives back a label that was bought for an order canceled meanwhile.
type cancelShipmentWorker struct {
	river.WorkerDefaults[millrace.CancelShipmentJob]
	Config
}

func (w *cancelShipmentWorker) Work(ctx context.Context, job *river.Job[millrace.CancelShipmentJob]) error {
	o, err := w.Store.WorkOrder(ctx, job.Args.OrderID)
	if err != nil {
		return err
	}
	if !o.Status.Final() || o.Shipment == nil || o.Shipment.State != millrace.ShipmentPurchased {
		return nil
	}
	call, cancel := context.WithTimeout(ctx, w.CallTimeout/2)
	defer cancel()
	if err := w.unpick(call, o); err != nil {
		return err
	}
	r, err := w.Carrier.Cancel(call, o.Shipment.Reference)
	if err != nil || r.Outcome != millrace.OutcomeApproved && r.Outcome != millrace.OutcomeDeclined {
		return millrace.WrapError(millrace.CodeUnavailable, err, "The carrier did not take the label back yet.")
	}
	if r.Outcome == millrace.OutcomeDeclined {
		w.Logger.ErrorContext(ctx, "carrier does not take back the label of an order that has ended", "order", o.ID, "code", r.Code)
	}
	_, err = w.Store.ShipmentCanceled(ctx, o, actor(job.Kind))
	return err
}
