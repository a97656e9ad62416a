package jobs_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/jobs"
	"millrace/provider/simulated"
)

func carrier(b *testBundle, on func(ctx context.Context, op string, next func() (millrace.LabelResult, error)) (millrace.LabelResult, error)) func(*jobs.Config) {
	return func(c *jobs.Config) { c.Carrier = &faultyCarrier{Carrier: b.providers.Carrier(), on: on} }
}

// requireNothingLeaves waits until a canceled order has nothing left anywhere: no label, nothing to pick, no money.
func (b *testBundle) requireNothingLeaves(o *millrace.Order) {
	b.t.Helper()
	b.until(o.ID, "refunded", func(o *millrace.Order) bool { return o.PaymentStatus == millrace.PaymentRefunded })
	b.until(o.ID, "without a parcel", func(o *millrace.Order) bool { return o.Shipment.State == millrace.ShipmentCanceled })
	b.untilQuiet()
	require.Zero(b.t, b.labels(o.ID), "no label is left")
	require.Zero(b.t, b.picks(o.ID), "nothing is picked")
	b.requireLedger(o.ID)
	b.requireConserved()
}

// withSlowParcels has parcels lie at the carrier for so long that their labels can be given back.
func (b *testBundle) withSlowParcels() *testBundle {
	b.t.Helper()
	providers, err := simulated.Open(b.t.Context(), b.url, simulated.Config{TransitAfter: time.Hour, DeliverAfter: time.Hour})
	require.NoError(b.t, err)
	b.t.Cleanup(providers.Close)
	b.providers = providers
	return b
}

func TestALabelBoughtWhileTheOrderIsCanceledIsGivenBack(t *testing.T) {
	t.Parallel()
	b := setup(t).withSlowParcels()
	bought, proceed := make(chan struct{}), make(chan struct{})
	b.work(carrier(b, func(_ context.Context, op string, next func() (millrace.LabelResult, error)) (millrace.LabelResult, error) {
		r, err := next()
		if op == "buy" {
			close(bought)
			<-proceed
		}
		return r, err
	}))
	id := b.place("pm_ok", "GB", "RARE-010")
	<-bought
	b.cancel(id)
	close(proceed)
	b.requireNothingLeaves(b.find(id))
}

// The label was bought, its answer was lost, and the order is canceled before the job comes back to it.
func TestALabelWhoseAnswerWasLostIsFoundAndGivenBack(t *testing.T) {
	t.Parallel()
	b := setup(t).withSlowParcels()
	b.work(carrier(b, func(_ context.Context, op string, next func() (millrace.LabelResult, error)) (millrace.LabelResult, error) {
		r, err := next()
		if op == "buy" {
			return millrace.LabelResult{}, errDown
		}
		return r, err
	}))
	id := b.place("pm_ok", "GB", "RARE-010")
	b.until(id, "labeled", func(*millrace.Order) bool { return b.labels(id) == 1 })
	b.cancel(id)
	b.requireNothingLeaves(b.find(id))
}

// The warehouse has begun to pick, the carrier has no rate: when the order is canceled, nothing must be picked.
func TestTheWarehouseIsToldOfAnOrderCanceledBeforeItHadALabel(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work()
	id := b.place("pm_ok", "XX", "RARE-010")
	b.untilStatus(id, millrace.OrderOnHold)
	require.Equal(t, 1, b.picks(id))
	b.cancel(id)
	b.requireNothingLeaves(b.find(id))
}

func TestALabelIsPaidForOnceThoughItsAnswerIsLost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var once first
	b.work(carrier(b, func(_ context.Context, op string, next func() (millrace.LabelResult, error)) (millrace.LabelResult, error) {
		r, err := next()
		if once.times(1, op) { // each kind of call is lost once
			return millrace.LabelResult{}, errDown
		}
		return r, err
	}), func(c *jobs.Config) {
		c.Warehouse = &faultyWarehouse{Warehouse: b.providers.Warehouse(), on: func(op string, next func() (millrace.FulfillResult, error)) (millrace.FulfillResult, error) {
			r, err := next()
			if once.times(1, op) {
				return millrace.FulfillResult{}, errDown
			}
			return r, err
		}}
	})
	id := b.place("pm_ok", "GB", "TEA-001")
	b.untilStatus(id, millrace.OrderCompleted)
	require.Equal(t, happyPath, b.events(id))
	require.Equal(t, 1, b.labels(id))
	require.Equal(t, 1, b.picks(id))
	b.requireConserved()
}

// Giving a label back is tried until it is done: by the carrier and by the warehouse.
func TestGivingALabelBackIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t).withSlowParcels()
	bought, proceed := make(chan struct{}), make(chan struct{})
	var once first
	b.work(carrier(b, func(_ context.Context, op string, next func() (millrace.LabelResult, error)) (millrace.LabelResult, error) {
		if op == "cancel" && once.times(1, op) {
			return millrace.LabelResult{Outcome: millrace.OutcomeRetry}, nil
		}
		r, err := next()
		if op == "buy" {
			close(bought)
			<-proceed
		}
		return r, err
	}), func(c *jobs.Config) {
		c.Warehouse = &faultyWarehouse{Warehouse: b.providers.Warehouse(), on: func(op string, next func() (millrace.FulfillResult, error)) (millrace.FulfillResult, error) {
			if op == "cancel" && once.times(1, "warehouse "+op) {
				return millrace.FulfillResult{Outcome: millrace.OutcomeUnknown}, nil
			}
			return next()
		}}
	})
	id := b.place("pm_ok", "GB", "RARE-010")
	<-bought
	b.cancel(id)
	close(proceed)
	b.requireNothingLeaves(b.find(id))
}

func TestAHeldShipmentGoesOnWhenReleased(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var once first
	b.work(carrier(b, func(_ context.Context, op string, next func() (millrace.LabelResult, error)) (millrace.LabelResult, error) {
		if op == "buy" && once.times(1, op) {
			return millrace.LabelResult{Outcome: millrace.OutcomeDeclined, Code: "no_rate"}, nil
		}
		return next()
	}))
	id := b.place("pm_ok", "GB", "TEA-001")
	o := b.untilStatus(id, millrace.OrderOnHold)
	require.Equal(t, "no_rate", o.HoldReason)
	require.Equal(t, millrace.FulfillmentOnHold, o.FulfillmentStatus)
	b.release(id)
	b.untilStatus(id, millrace.OrderCompleted)
	b.requireLedger(id)
}

func TestAnOrderWhoseAddressWasErasedIsHeld(t *testing.T) {
	t.Parallel()
	b := setup(t)
	paying, proceed := make(chan struct{}, 10), make(chan struct{})
	_, with := gateway(b, func(ctx context.Context, _ string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		paying <- struct{}{}
		<-proceed
		return next(ctx, r)
	})
	b.work(with)
	id := b.place("pm_ok", "GB", "TEA-001")
	<-paying
	require.NoError(t, b.store.EraseCustomer(t.Context(), "ada"))
	close(proceed)
	require.Equal(t, "ship_order gave up at try 1: invalid", b.untilStatus(id, millrace.OrderOnHold).HoldReason)
	b.cancel(id)
	b.requireNothingLeaves(b.find(id))
}

// What ships is taken off the levels of stock a while later by the process that shipped it, and by the sweep where that process is gone.
func TestWhatShippedIsTakenOffTheStock(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]func(*jobs.Config){
		"by who shipped": func(c *jobs.Config) { c.BookEvery = 10 * time.Millisecond },
		"by the sweep":   func(c *jobs.Config) { c.BookEvery, c.SweepEvery = time.Hour, time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t)
			b.stock("RARE-010", 10)
			b.work(c)
			for range 2 {
				b.untilStatus(b.place("pm_ok", "GB", "RARE-010"), millrace.OrderCompleted)
			}
			require.Eventually(t, func() bool {
				return b.count("SELECT count(*) FROM inventory_levels WHERE sku = 'RARE-010' AND on_hand = 8 AND reserved = 0") == 1
			}, soon, 10*time.Millisecond)
			b.untilQuiet()
			b.requireConserved()
		})
	}
}
