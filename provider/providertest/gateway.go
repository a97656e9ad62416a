package providertest

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"millrace"
)

// GatewayFixture is a gateway under test, how to provoke what the rules are about, and what really happened.
type GatewayFixture struct {
	Gateway millrace.Gateway
	// Approved is a payment method that is approved at once.
	Approved string
	// The other methods leave out their rules where they are empty.
	Declined string // is declined for good
	Flaky    string // is answered with OutcomeRetry at least once, then approved
	Lost     string // is approved, but no answer arrives until the context ends
	Action   string // requires action of the buyer
	// Decide does what the buyer of an Action payment would do: confirm, or decline. It fails if it is too late for that.
	Decide func(ctx context.Context, reference string, confirm bool) error
	// Ledger asks the gateway, past the adapter, what it holds of an order.
	Ledger func(ctx context.Context, order uuid.UUID) (Ledger, error)
}

// Ledger is what a gateway holds of one order, in minor units.
type Ledger struct {
	Captures      int   // how often money was taken
	CapturedMinor int64 // what was taken
	RefundedMinor int64 // what was sent back of it
	HeldMinor     int64 // what is authorized and neither taken nor given up
}

// amount is what the suite's orders cost, in minor units of EUR.
const amount = 2500

// Gateway tests that a gateway keeps the rules of [millrace.Gateway].
func Gateway(t *testing.T, factory func(t testing.TB) GatewayFixture) {
	t.Helper()
	s := &gatewaySuite{GatewayFixture: factory(t)}
	run := func(method string, rules map[string]func(*testing.T)) {
		if method == "" {
			return
		}
		for name, rule := range rules {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				rule(t)
			})
		}
	}
	run(s.Approved, map[string]func(*testing.T){
		"the name stays the same":                                                  s.nameStays,
		"an authorization holds the amount and takes nothing":                      s.authorizeHolds,
		"an authorization with capture takes the amount at once":                   s.authorizeTakes,
		"a capture takes what was authorized":                                      s.captureTakes,
		"the same key repeats the first answer and moves nothing":                  s.sameKeyRepeats,
		"a key with other parameters is declined and moves nothing":                s.sameKeyOtherParameters,
		"concurrent authorizations with one key charge once":                       s.concurrentAuthorize,
		"concurrent captures of one payment take once":                             s.concurrentCapture,
		"concurrent refunds never exceed what was captured":                        s.concurrentRefund,
		"concurrent capture and void: one of them wins":                            s.captureRacesVoid,
		"a second capture is declined":                                             s.secondCapture,
		"a capture of more than was authorized is declined":                        s.captureTooMuch,
		"a void gives up what is held":                                             s.voidGivesUp,
		"a capture after a void is declined":                                       s.captureAfterVoid,
		"a void after a capture is declined with already_captured":                 s.voidAfterCapture,
		"refunds sum to at most what was captured":                                 s.refunds,
		"a refund of what was not captured is declined":                            s.refundUncaptured,
		"a refund of nothing and of less is declined":                              s.refundNothing,
		"a reference that the gateway does not know is declined":                   s.unknownReference,
		"get answers not_found for a key never seen":                               s.getUnseen,
		"get tells what became of each call":                                       s.getEach,
		"a context that has ended is respected, and get agrees with what was done": s.endedContext,
	})
	run(s.Declined, map[string]func(*testing.T){
		"a declined payment stays declined, with a code, and moves nothing": s.declinedStays,
	})
	run(s.Flaky, map[string]func(*testing.T){
		"a call worth retrying is approved under the same key, charged once": s.flakyApproved,
	})
	run(s.Lost, map[string]func(*testing.T){
		"a lost answer is settled by get, charged once": s.lostAnswer,
	})
	run(s.Action, map[string]func(*testing.T){
		"a payment that requires action takes nothing before the buyer confirms": s.actionWaits,
		"a confirmed payment is approved by get":                                 s.actionConfirmed,
		"a payment declined by the buyer is declined by get":                     s.actionDeclined,
		"a payment that waits for the buyer cannot be captured":                  s.actionCapture,
		"after a void the buyer can no longer confirm":                           s.actionVoided,
		"a confirmation that races a void: one of them wins":                     s.confirmRacesVoid,
	})
}

type gatewaySuite struct{ GatewayFixture }

// request is an authorize of a new order.
func (s *gatewaySuite) request(method string) millrace.PaymentRequest {
	order := uuid.Must(uuid.NewV7())
	return millrace.PaymentRequest{Key: order.String() + ":authorize:1", Kind: millrace.TransactionAuthorize, OrderID: order,
		Method: method, AmountMinor: amount, Currency: "EUR"}
}

// next is a request of another kind on the payment that r authorized.
func next(r millrace.PaymentRequest, kind millrace.TransactionKind, reference, step string, minor int64) millrace.PaymentRequest {
	r.Key = r.OrderID.String() + ":" + string(kind) + ":" + step
	r.Kind, r.Reference, r.AmountMinor, r.WithCapture = kind, reference, minor, false
	return r
}

// send makes the call that r.Kind names.
func (s *gatewaySuite) send(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	switch r.Kind {
	case millrace.TransactionCapture:
		return s.Gateway.Capture(ctx, r)
	case millrace.TransactionVoid:
		return s.Gateway.Void(ctx, r)
	case millrace.TransactionRefund:
		return s.Gateway.Refund(ctx, r)
	case millrace.TransactionAuthorize:
	}
	return s.Gateway.Authorize(ctx, r)
}

// want sends r and demands an outcome. A declined call must have a code.
func (s *gatewaySuite) want(t *testing.T, r millrace.PaymentRequest, outcome millrace.Outcome) millrace.PaymentResult {
	t.Helper()
	got, err := s.send(t.Context(), r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Kind, r.Key, err)
	}
	if got.Outcome != outcome {
		t.Fatalf("%s %s: got %+v, want the outcome %s", r.Kind, r.Key, got, outcome)
	}
	if got.Outcome == millrace.OutcomeDeclined && got.Code == "" {
		t.Errorf("%s %s: declined without a code", r.Kind, r.Key)
	}
	return got
}

// wantGet demands an outcome of Get.
func (s *gatewaySuite) wantGet(t *testing.T, r millrace.PaymentRequest, outcome millrace.Outcome) millrace.PaymentResult {
	t.Helper()
	got, err := s.Gateway.Get(t.Context(), r)
	if err != nil {
		t.Fatalf("get %s: %v", r.Key, err)
	}
	if got.Outcome != outcome {
		t.Fatalf("get %s: got %+v, want the outcome %s", r.Key, got, outcome)
	}
	return got
}

// wantLedger demands what the gateway holds of the order.
func (s *gatewaySuite) wantLedger(t *testing.T, order uuid.UUID, want Ledger) {
	t.Helper()
	if got := s.ledger(t, order); got != want {
		t.Errorf("the gateway's own ledger has %+v, want %+v", got, want)
	}
}

func (s *gatewaySuite) ledger(t *testing.T, order uuid.UUID) Ledger {
	t.Helper()
	got, err := s.Ledger(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// authorized is a payment that was authorized and, if asked, captured.
func (s *gatewaySuite) authorized(t *testing.T, withCapture bool) (r millrace.PaymentRequest, reference string) {
	t.Helper()
	r = s.request(s.Approved)
	r.WithCapture = withCapture
	return r, s.want(t, r, millrace.OutcomeApproved).Reference
}
