package jobs_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
	"millrace/jobs"
)

// The call is lost on its way to the gateway: it is asked, knows nothing, and is asked for the money again under the same key.
func TestAPaymentThatNeverReachedTheGatewayIsMadeAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var once first
	g, with := gateway(b, func(ctx context.Context, op string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		if op == "authorize" && once.times(1, op) {
			return millrace.PaymentResult{}, errDown
		}
		return next(ctx, r)
	})
	b.work(with)
	id := b.place("pm_ok", "GB", "TEA-001")
	b.untilStatus(id, millrace.OrderCompleted)
	require.Equal(t, []string{"authorize", "get", "authorize"}, g.log())
	require.Equal(t, "simulated", b.find(id).Transactions[0].Gateway)
	b.requireLedger(id)
}

// The gateway says that nothing happened at the call whose answer was lost: it is asked for the money again, or that is the end of it.
func TestAPaymentThatTheGatewayDidNotTakeUpIsMadeAgain(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *db.Config) { c.Now = func() time.Time { return time.Now().Add(-time.Minute) } })
	g, with := gateway(b, func(ctx context.Context, op string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		answer, err := next(ctx, r)
		if answer.Outcome == millrace.OutcomeRetry && op == "authorize" {
			return millrace.PaymentResult{}, errDown
		}
		return answer, err
	})
	canceled := b.place("pm_flaky", "GB", "TEA-001")
	require.NoError(t, b.store.ReserveStock(t.Context(), canceled))
	_, err := b.store.SettlePayment(t.Context(), b.find(canceled), 1, millrace.PaymentResult{Outcome: millrace.OutcomeUnknown}, "job:test")
	require.NoError(t, err)
	_, err = b.providers.Gateway().Authorize(t.Context(), millrace.PaymentRequest{Key: b.find(canceled).Transactions[0].Key, OrderID: canceled,
		Kind: millrace.TransactionAuthorize, Method: "pm_flaky", AmountMinor: 1250, Currency: "EUR", WithCapture: true})
	require.NoError(t, err)
	b.cancel(canceled)
	b.work(with)
	b.until(canceled, "voided", func(o *millrace.Order) bool { return o.PaymentStatus == millrace.PaymentVoided })
	require.Zero(t, g.count("authorize"))

	id := b.place("pm_flaky", "GB", "TEA-001")
	b.untilStatus(id, millrace.OrderCompleted)
	require.Equal(t, 3, g.count("authorize"), "two failed")
	b.requireLedger(id)
	b.requireLedger(canceled)
}

// The answer is lost on its way back: the gateway is asked, and nothing is requested a second time.
func TestAPaymentWhoseAnswerWasLostIsFoundByAsking(t *testing.T) {
	t.Parallel()
	b := setup(t)
	var once first
	g, with := gateway(b, func(ctx context.Context, op string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		answer, err := next(ctx, r)
		if op != "get" && once.times(1, op) || op == "get" && once.times(2, op) { // the first questions are lost as well
			return millrace.PaymentResult{}, errDown
		}
		return answer, err
	})
	b.work(with)
	id := b.place("pm_ok", "GB", "TEA-001")
	b.untilStatus(id, millrace.OrderCompleted)
	require.Equal(t, []string{"authorize", "get", "get", "get"}, g.log())
	b.requireLedger(id)
}

// The same for what comes after: a capture, a void and a refund whose answers are lost are done once.
func TestEveryKindOfPaymentSurvivesALostAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *db.Config) { c.Policy.CaptureOnShipment = true })
	var once first
	g, with := gateway(b, func(ctx context.Context, op string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		answer, err := next(ctx, r)
		if op != "get" && once.times(1, r.Key) {
			return millrace.PaymentResult{}, errDown
		}
		return answer, err
	})
	b.work(with)
	shipped, voided := b.place("pm_ok", "GB", "TEA-001"), b.place("pm_ok", "XX", "TEA-001")
	b.untilStatus(shipped, millrace.OrderCompleted)
	for range 2 {
		_, err := b.store.RefundOrder(t.Context(), shipped, 250, "r1", "operator:test")
		require.NoError(t, err)
	}
	b.until(shipped, "refunded", func(o *millrace.Order) bool { return o.PaymentStatus == millrace.PaymentPartiallyRefunded })
	b.untilStatus(voided, millrace.OrderOnHold)
	b.cancel(voided)
	b.until(voided, "voided", func(o *millrace.Order) bool { return o.PaymentStatus == millrace.PaymentVoided })
	b.untilQuiet()
	require.Equal(t, []int{2, 1, 1, 1}, []int{g.count("authorize"), g.count("capture"), g.count("void"), g.count("refund")})
	require.Equal(t, int64(250), b.ledger()[shipped].RefundedMinor)
	b.requireLedger(shipped)
	b.requireLedger(voided)
	b.requireConserved()
}

// A gateway that cannot be reached is tried again, and in the end a person is called. What that person releases goes on.
func TestAnOrderIsHeldWhenItsPaymentIsGivenUpAndGoesOnWhenReleased(t *testing.T) {
	t.Parallel()
	b := setup(t, attempts(2))
	back := make(chan struct{})
	_, with := gateway(b, func(ctx context.Context, _ string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		select {
		case <-back:
			return next(ctx, r)
		default:
			return millrace.PaymentResult{}, errDown
		}
	})
	b.work(with)
	id := b.place("pm_ok", "GB", "RARE-010")
	o := b.untilStatus(id, millrace.OrderOnHold)
	require.Equal(t, "settle_payment gave up at try 2: unavailable", o.HoldReason)
	b.untilQuiet()
	close(back)
	b.release(id)
	b.untilStatus(id, millrace.OrderCompleted)
	b.requireLedger(id)
	b.requireConserved()
}

// An operator's refund does not wait until the order that it is for is released.
func TestAHeldOrdersRefundIsPaid(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.work()
	id := b.place("pm_ok", "XX", "TEA-001")
	b.untilStatus(id, millrace.OrderOnHold)
	for _, key := range []string{"one", "two"} {
		_, err := b.store.RefundOrder(t.Context(), id, 100, key, "operator:test")
		require.NoError(t, err)
	}
	o := b.until(id, "refunded", func(o *millrace.Order) bool { return o.RefundedMinor() == 200 })
	require.Equal(t, millrace.OrderOnHold, o.Status)
	b.cancel(id)
	b.until(id, "refunded in whole", func(o *millrace.Order) bool { return o.PaymentStatus == millrace.PaymentRefunded })
	b.requireLedger(id)
}

func TestADeclinedCaptureHoldsTheOrderAndIsMadeAnewWhenReleased(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *db.Config) { c.Policy.CaptureOnShipment = true })
	var once first
	g, with := gateway(b, func(ctx context.Context, op string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		if op == "capture" && once.times(1, op) {
			return millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: "try_later"}, nil
		}
		return next(ctx, r)
	})
	b.work(with)
	id := b.place("pm_ok", "GB", "TEA-001")
	require.Equal(t, "capture_declined: try_later", b.untilStatus(id, millrace.OrderOnHold).HoldReason)
	b.release(id)
	b.untilStatus(id, millrace.OrderCompleted)
	require.Equal(t, 2, g.count("capture"))
	b.requireLedger(id)
}

// The order is canceled while the gateway is taking the money, however long ago the payment was asked for: the money comes back.
func TestMoneyThatIsTakenWhileTheOrderIsCanceledComesBack(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *db.Config) { c.Now = func() time.Time { return time.Now().Add(-time.Hour) } }) // the payments queue was long
	calling, proceed := make(chan struct{}), make(chan struct{})
	open := sync.OnceFunc(func() { close(proceed) })
	g, with := gateway(b, func(ctx context.Context, op string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		if op == "authorize" {
			close(calling)
			<-proceed
			ctx = context.WithoutCancel(ctx)
		}
		return next(ctx, r)
	})
	b.work(with, func(c *jobs.Config) { c.CallTimeout = 10 * time.Second })
	t.Cleanup(open)
	id := b.place("pm_ok", "GB", "RARE-010")
	<-calling
	now, err := db.NewStore(db.Config{Pool: b.pool})
	require.NoError(t, err)
	t.Cleanup(now.Close)
	_, err = now.CancelOrder(t.Context(), id, "", "customer:ada")
	require.NoError(t, err)
	b.until(id, "asked about", func(o *millrace.Order) bool { // the job that looks after the money is told that there is none
		return g.count("get") >= 3 || o.PaymentStatus != millrace.PaymentPending
	})
	require.Equal(t, millrace.PaymentPending, b.find(id).PaymentStatus, "it is too early to believe that")
	open()
	b.until(id, "refunded", func(o *millrace.Order) bool { return o.PaymentStatus == millrace.PaymentRefunded })
	require.Equal(t, int64(1250), b.ledger()[id].RefundedMinor)
	b.requireLedger(id)
	b.requireConserved()
}

// Where the gateway never heard of a canceled order's payment, and cannot any more, that is the end of it.
func TestACanceledOrdersPaymentThatWasNeverMadeIsGivenUp(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *db.Config) { c.Now = func() time.Time { return time.Now().Add(-time.Minute) } })
	id := b.place("pm_ok", "GB", "RARE-010")
	require.NoError(t, b.store.ReserveStock(t.Context(), id))
	b.cancel(id)
	g, with := gateway(b, func(ctx context.Context, _ string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		return next(ctx, r)
	})
	b.work(with)
	o := b.until(id, "voided", func(o *millrace.Order) bool { return o.PaymentStatus == millrace.PaymentVoided })
	require.Equal(t, millrace.CodeAbandoned, o.Transactions[0].Code)
	require.Zero(t, g.count("authorize"), "for an order that has ended nothing is requested")
	b.untilQuiet()
	b.requireLedger(id)
	b.requireConserved()
}

// A buyer who has to act and a gateway that cannot always be reached: no more time, and no second request to act.
func TestABuyersTimeRunsOutThoughTheGatewayIsShaky(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *db.Config) { c.Policy.ActionTimeout = 300 * time.Millisecond })
	var once first
	_, with := gateway(b, func(ctx context.Context, op string, r millrace.PaymentRequest, next paymentCall) (millrace.PaymentResult, error) {
		if op == "get" && once.times(2, op) {
			return millrace.PaymentResult{}, errDown
		}
		return next(ctx, r)
	})
	b.work(with)
	id := b.place("pm_3ds", "GB", "RARE-010")
	b.untilStatus(id, millrace.OrderExpired)
	require.Equal(t, []string{"order.placed", "stock.reserved", "payment.requires_action", "order.expired"}, b.events(id)[:4])
	b.untilQuiet()
	b.requireLedger(id)
	b.requireConserved()
}
