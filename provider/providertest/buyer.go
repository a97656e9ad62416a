package providertest

import (
	"context"
	"testing"

	"millrace"
)

// lostAnswer ends the call's context once the gateway has the money, so that nothing depends on how long that takes.
func (s *gatewaySuite) lostAnswer(t *testing.T) {
	r := s.request(s.Lost)
	r.WithCapture = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type answer struct {
		result millrace.PaymentResult
		err    error
	}
	answers := make(chan answer, 1)
	go func() {
		result, err := s.Gateway.Authorize(ctx, r)
		answers <- answer{result, err}
	}()
	var early *answer
	for s.ledger(t, r.OrderID).Captures == 0 && early == nil {
		select {
		case a := <-answers:
			early = &a
		default: // the ledger is asked again
		}
	}
	cancel()
	if early == nil {
		a := <-answers
		early = &a
	}
	if early.err == nil && early.result.Outcome != millrace.OutcomeUnknown {
		t.Errorf("got %+v, want an error or the outcome unknown", early.result)
	}
	got := s.wantGet(t, r, millrace.OutcomeApproved)
	if !got.Captured || got.Reference == "" {
		t.Errorf("get: got %+v, want a reference and the amount captured", got)
	}
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount})
	refund := next(r, millrace.TransactionRefund, got.Reference, "2", amount)
	s.want(t, refund, millrace.OutcomeApproved)
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount, RefundedMinor: amount})
}

// waiting is a payment that waits for its buyer.
func (s *gatewaySuite) waiting(t *testing.T, withCapture bool) (millrace.PaymentRequest, millrace.PaymentResult) {
	t.Helper()
	r := s.request(s.Action)
	r.WithCapture = withCapture
	got := s.want(t, r, millrace.OutcomeRequiresAction)
	if got.Reference == "" || got.ActionURL == "" || got.Captured {
		t.Fatalf("got %+v, want a reference, where to act, and nothing captured", got)
	}
	return r, got
}

func (s *gatewaySuite) actionWaits(t *testing.T) {
	r, first := s.waiting(t, true)
	if again := s.want(t, r, millrace.OutcomeRequiresAction); again != first {
		t.Errorf("got %+v again, first it was %+v", again, first)
	}
	if got := s.wantGet(t, r, millrace.OutcomeRequiresAction); got.Reference != first.Reference || got.Captured {
		t.Errorf("get: got %+v, the call itself was answered with %+v", got, first)
	}
	s.wantLedger(t, r.OrderID, Ledger{})
}

func (s *gatewaySuite) actionConfirmed(t *testing.T) {
	for _, withCapture := range []bool{true, false} {
		r, first := s.waiting(t, withCapture)
		for range 2 {
			if err := s.Decide(t.Context(), first.Reference, true); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Decide(t.Context(), first.Reference, false); err == nil {
			t.Error("a confirmed payment was declined")
		}
		if got := s.wantGet(t, r, millrace.OutcomeApproved); got.Captured != withCapture || got.Reference != first.Reference {
			t.Errorf("get: got %+v, want %s and captured: %t", got, first.Reference, withCapture)
		}
		if !withCapture {
			s.wantLedger(t, r.OrderID, Ledger{HeldMinor: amount})
			s.want(t, next(r, millrace.TransactionCapture, first.Reference, "2", amount), millrace.OutcomeApproved)
		}
		s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount})
	}
}

func (s *gatewaySuite) actionDeclined(t *testing.T) {
	r, first := s.waiting(t, true)
	for range 2 {
		if err := s.Decide(t.Context(), first.Reference, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Decide(t.Context(), first.Reference, true); err == nil {
		t.Error("a declined payment was confirmed")
	}
	if got := s.wantGet(t, r, millrace.OutcomeDeclined); got.Code == "" {
		t.Errorf("get: got %+v, want a code", got)
	}
	s.want(t, next(r, millrace.TransactionCapture, first.Reference, "2", amount), millrace.OutcomeDeclined)
	s.wantLedger(t, r.OrderID, Ledger{})
}

func (s *gatewaySuite) actionCapture(t *testing.T) {
	r, first := s.waiting(t, false)
	s.want(t, next(r, millrace.TransactionCapture, first.Reference, "2", amount), millrace.OutcomeDeclined)
	s.wantLedger(t, r.OrderID, Ledger{})
}

func (s *gatewaySuite) actionVoided(t *testing.T) {
	r, first := s.waiting(t, true)
	s.want(t, next(r, millrace.TransactionVoid, first.Reference, "2", amount), millrace.OutcomeApproved)
	if err := s.Decide(t.Context(), first.Reference, true); err == nil {
		t.Error("a voided payment was confirmed")
	}
	s.wantGet(t, r, millrace.OutcomeDeclined)
	s.wantLedger(t, r.OrderID, Ledger{})
}

func (s *gatewaySuite) confirmRacesVoid(t *testing.T) {
	for range 20 {
		r, first := s.waiting(t, true)
		void := next(r, millrace.TransactionVoid, first.Reference, "2", amount)
		var confirmErr error
		voided := false
		together(2, func(i int) {
			if i == 0 {
				confirmErr = s.Decide(t.Context(), first.Reference, true)
				return
			}
			got, err := s.Gateway.Void(t.Context(), void)
			if err != nil {
				t.Error(err)
			}
			voided = got.Outcome == millrace.OutcomeApproved
			if !voided && got.Code != millrace.CodeAlreadyCaptured {
				t.Errorf("void: got %+v, want it approved or %s", got, millrace.CodeAlreadyCaptured)
			}
		})
		if confirmed := confirmErr == nil; confirmed == voided {
			t.Fatalf("confirmed: %t, voided: %t, want one of them", confirmed, voided)
		}
		want, outcome := Ledger{Captures: 1, CapturedMinor: amount}, millrace.OutcomeApproved
		if voided {
			want, outcome = Ledger{}, millrace.OutcomeDeclined
		}
		s.wantGet(t, r, outcome)
		s.wantLedger(t, r.OrderID, want)
	}
}
