package providertest

import (
	"context"
	"sync"
	"testing"

	"millrace"
)

// callers is how many calls are made at once where that matters.
const callers = 8

// together makes n calls at once and waits for all of them.
func together(n int, call func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			call(i)
		})
	}
	close(start)
	wg.Wait()
}

func (s *gatewaySuite) nameStays(t *testing.T) {
	if name := s.Gateway.Name(); name == "" || name != s.Gateway.Name() {
		t.Errorf("the name is %q", name)
	}
}

func (s *gatewaySuite) authorizeHolds(t *testing.T) {
	r := s.request(s.Approved)
	got := s.want(t, r, millrace.OutcomeApproved)
	if got.Reference == "" || got.Captured {
		t.Errorf("got %+v, want a reference and nothing captured", got)
	}
	s.wantLedger(t, r.OrderID, Ledger{HeldMinor: amount})
}

func (s *gatewaySuite) authorizeTakes(t *testing.T) {
	r := s.request(s.Approved)
	r.WithCapture = true
	if got := s.want(t, r, millrace.OutcomeApproved); got.Reference == "" || !got.Captured {
		t.Errorf("got %+v, want a reference and the amount captured", got)
	}
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount})
}

func (s *gatewaySuite) captureTakes(t *testing.T) {
	r, reference := s.authorized(t, false)
	s.want(t, next(r, millrace.TransactionCapture, reference, "2", amount), millrace.OutcomeApproved)
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount})
}

func (s *gatewaySuite) sameKeyRepeats(t *testing.T) {
	twice := func(t *testing.T, r millrace.PaymentRequest, want Ledger) millrace.PaymentResult {
		t.Helper()
		first := s.want(t, r, millrace.OutcomeApproved)
		for range 2 {
			if again := s.want(t, r, millrace.OutcomeApproved); again != first {
				t.Errorf("%s: got %+v again, first it was %+v", r.Kind, again, first)
			}
		}
		s.wantLedger(t, r.OrderID, want)
		return first
	}
	r := s.request(s.Approved)
	reference := twice(t, r, Ledger{HeldMinor: amount}).Reference
	twice(t, next(r, millrace.TransactionCapture, reference, "2", amount), Ledger{Captures: 1, CapturedMinor: amount})
	twice(t, next(r, millrace.TransactionRefund, reference, "3", 1000), Ledger{Captures: 1, CapturedMinor: amount, RefundedMinor: 1000})
	twice(t, next(r, millrace.TransactionRefund, reference, "4", 500), Ledger{Captures: 1, CapturedMinor: amount, RefundedMinor: 1500})

	r = s.request(s.Approved)
	r.WithCapture = true
	twice(t, r, Ledger{Captures: 1, CapturedMinor: amount})

	r, reference = s.authorized(t, false)
	twice(t, next(r, millrace.TransactionVoid, reference, "2", amount), Ledger{})
}

func (s *gatewaySuite) sameKeyOtherParameters(t *testing.T) {
	r, reference := s.authorized(t, false)
	for what, change := range map[string]func(*millrace.PaymentRequest){
		"amount":   func(r *millrace.PaymentRequest) { r.AmountMinor++ },
		"currency": func(r *millrace.PaymentRequest) { r.Currency = "USD" },
		"capture":  func(r *millrace.PaymentRequest) { r.WithCapture = true },
	} {
		other := r
		change(&other)
		if got := s.want(t, other, millrace.OutcomeDeclined); got.Captured {
			t.Errorf("another %s: got %+v, want nothing captured", what, got)
		}
		s.wantLedger(t, r.OrderID, Ledger{HeldMinor: amount})
	}

	capture := next(r, millrace.TransactionCapture, reference, "2", amount)
	s.want(t, capture, millrace.OutcomeApproved)
	refund := next(r, millrace.TransactionRefund, reference, "3", 1000)
	s.want(t, refund, millrace.OutcomeApproved)
	refund.AmountMinor = 500
	s.want(t, refund, millrace.OutcomeDeclined)
	refund.Key, refund.AmountMinor = capture.Key, amount
	s.want(t, refund, millrace.OutcomeDeclined)
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount, RefundedMinor: 1000})
}

// concurrentAuthorize allows that a gateway puts off those that come while the first is under way, as some do.
func (s *gatewaySuite) concurrentAuthorize(t *testing.T) {
	r := s.request(s.Approved)
	r.WithCapture = true
	results := make([]millrace.PaymentResult, callers)
	errs := make([]error, callers)
	together(callers, func(i int) { results[i], errs[i] = s.Gateway.Authorize(t.Context(), r) })
	var first *millrace.PaymentResult
	for i, got := range results {
		switch {
		case errs[i] != nil:
			t.Errorf("call %d: %v", i, errs[i])
		case got.Outcome == millrace.OutcomeRetry:
		case got.Outcome != millrace.OutcomeApproved:
			t.Errorf("call %d: got %+v, want it approved", i, got)
		case first == nil:
			first = &results[i]
		case got != *first:
			t.Errorf("call %d: got %+v, another call under the same key %+v", i, got, *first)
		}
	}
	if first == nil {
		t.Error("no call was approved")
	}
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount})
}

func (s *gatewaySuite) concurrentCapture(t *testing.T) {
	r, reference := s.authorized(t, false)
	if approved := s.approvedOf(t, callers, func(i int) millrace.PaymentRequest {
		return next(r, millrace.TransactionCapture, reference, string(rune('a'+i)), amount)
	}); approved != 1 {
		t.Errorf("%d captures were approved, want 1", approved)
	}
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount})
}

func (s *gatewaySuite) concurrentRefund(t *testing.T) {
	r, reference := s.authorized(t, true)
	const each = 1000 // of 2500, so that two fit
	approved := s.approvedOf(t, callers, func(i int) millrace.PaymentRequest {
		return next(r, millrace.TransactionRefund, reference, string(rune('a'+i)), each)
	})
	if approved != amount/each {
		t.Errorf("%d refunds of %d were approved, want %d", approved, each, amount/each)
	}
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount, RefundedMinor: amount / each * each})
}

// approvedOf makes n calls at once and counts those approved. One that the gateway puts off is made again.
func (s *gatewaySuite) approvedOf(t *testing.T, n int, request func(i int) millrace.PaymentRequest) int {
	t.Helper()
	results := make([]millrace.PaymentResult, n)
	errs := make([]error, n)
	together(n, func(i int) {
		for results[i].Outcome = millrace.OutcomeRetry; results[i].Outcome == millrace.OutcomeRetry && errs[i] == nil; {
			results[i], errs[i] = s.send(t.Context(), request(i))
		}
	})
	approved := 0
	for i, got := range results {
		switch {
		case errs[i] != nil:
			t.Errorf("call %d: %v", i, errs[i])
		case got.Outcome == millrace.OutcomeApproved:
			approved++
		case got.Outcome != millrace.OutcomeDeclined:
			t.Errorf("call %d: got %+v, want it approved or declined", i, got)
		}
	}
	return approved
}

func (s *gatewaySuite) captureRacesVoid(t *testing.T) {
	for range 10 {
		r, reference := s.authorized(t, false)
		requests := []millrace.PaymentRequest{
			next(r, millrace.TransactionCapture, reference, "2", amount), next(r, millrace.TransactionVoid, reference, "3", amount)}
		if approved := s.approvedOf(t, len(requests), func(i int) millrace.PaymentRequest { return requests[i] }); approved != 1 {
			t.Fatalf("%d of capture and void were approved, want 1", approved)
		}
		want := Ledger{}
		if s.wantSettled(t, requests[0]) {
			want = Ledger{Captures: 1, CapturedMinor: amount}
		}
		s.wantLedger(t, r.OrderID, want)
	}
}

// wantSettled asks for a call that was answered for good, and reports whether it was approved.
func (s *gatewaySuite) wantSettled(t *testing.T, r millrace.PaymentRequest) bool {
	t.Helper()
	got, err := s.Gateway.Get(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got.Outcome != millrace.OutcomeApproved && got.Outcome != millrace.OutcomeDeclined {
		t.Fatalf("get %s: got %+v, want it approved or declined", r.Key, got)
	}
	return got.Outcome == millrace.OutcomeApproved
}

func (s *gatewaySuite) secondCapture(t *testing.T) {
	for _, withCapture := range []bool{true, false} {
		r, reference := s.authorized(t, withCapture)
		if !withCapture {
			s.want(t, next(r, millrace.TransactionCapture, reference, "2", 1000), millrace.OutcomeApproved)
		}
		taken := s.ledger(t, r.OrderID)
		s.want(t, next(r, millrace.TransactionCapture, reference, "3", 1000), millrace.OutcomeDeclined)
		s.wantLedger(t, r.OrderID, taken)
	}
}

func (s *gatewaySuite) captureTooMuch(t *testing.T) {
	r, reference := s.authorized(t, false)
	s.want(t, next(r, millrace.TransactionCapture, reference, "2", amount+1), millrace.OutcomeDeclined)
	s.wantLedger(t, r.OrderID, Ledger{HeldMinor: amount})
}

func (s *gatewaySuite) voidGivesUp(t *testing.T) {
	r, reference := s.authorized(t, false)
	s.want(t, next(r, millrace.TransactionVoid, reference, "2", amount), millrace.OutcomeApproved)
	s.wantLedger(t, r.OrderID, Ledger{})
}

func (s *gatewaySuite) captureAfterVoid(t *testing.T) {
	r, reference := s.authorized(t, false)
	s.want(t, next(r, millrace.TransactionVoid, reference, "2", amount), millrace.OutcomeApproved)
	s.want(t, next(r, millrace.TransactionCapture, reference, "3", amount), millrace.OutcomeDeclined)
	s.wantLedger(t, r.OrderID, Ledger{})
}

func (s *gatewaySuite) voidAfterCapture(t *testing.T) {
	for _, withCapture := range []bool{true, false} {
		r, reference := s.authorized(t, withCapture)
		if !withCapture {
			s.want(t, next(r, millrace.TransactionCapture, reference, "2", amount), millrace.OutcomeApproved)
		}
		if got := s.want(t, next(r, millrace.TransactionVoid, reference, "3", amount), millrace.OutcomeDeclined); got.Code != millrace.CodeAlreadyCaptured {
			t.Errorf("the code is %q, want %q", got.Code, millrace.CodeAlreadyCaptured)
		}
		s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount})
	}
}

func (s *gatewaySuite) refunds(t *testing.T) {
	r, reference := s.authorized(t, true)
	s.want(t, next(r, millrace.TransactionRefund, reference, "2", amount+1), millrace.OutcomeDeclined)
	s.want(t, next(r, millrace.TransactionRefund, reference, "3", 1000), millrace.OutcomeApproved)
	s.want(t, next(r, millrace.TransactionRefund, reference, "4", amount-1000+1), millrace.OutcomeDeclined)
	s.want(t, next(r, millrace.TransactionRefund, reference, "5", amount-1000), millrace.OutcomeApproved)
	s.want(t, next(r, millrace.TransactionRefund, reference, "6", 1), millrace.OutcomeDeclined)
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount, RefundedMinor: amount})
}

func (s *gatewaySuite) refundUncaptured(t *testing.T) {
	r, reference := s.authorized(t, false)
	s.want(t, next(r, millrace.TransactionRefund, reference, "2", 1), millrace.OutcomeDeclined)
	s.wantLedger(t, r.OrderID, Ledger{HeldMinor: amount})
}

func (s *gatewaySuite) refundNothing(t *testing.T) {
	r, reference := s.authorized(t, true)
	s.want(t, next(r, millrace.TransactionRefund, reference, "2", 0), millrace.OutcomeDeclined)
	s.want(t, next(r, millrace.TransactionRefund, reference, "3", -1), millrace.OutcomeDeclined)
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount})
}

func (s *gatewaySuite) unknownReference(t *testing.T) {
	r, reference := s.authorized(t, true)
	unknown := reference[:len(reference)-1] + "~"
	for _, kind := range []millrace.TransactionKind{millrace.TransactionCapture, millrace.TransactionVoid, millrace.TransactionRefund} {
		s.want(t, next(r, kind, unknown, "2", amount), millrace.OutcomeDeclined)
		s.want(t, next(r, kind, "", "3", amount), millrace.OutcomeDeclined)
	}
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount})
}

func (s *gatewaySuite) getUnseen(t *testing.T) {
	r := s.request(s.Approved)
	if got := s.wantGet(t, r, millrace.OutcomeNotFound); got.Captured || got.Reference != "" {
		t.Errorf("got %+v, want not_found alone", got)
	}
	s.wantLedger(t, r.OrderID, Ledger{})
}

func (s *gatewaySuite) getEach(t *testing.T) {
	same := func(t *testing.T, r millrace.PaymentRequest, outcome millrace.Outcome) millrace.PaymentResult {
		t.Helper()
		first := s.want(t, r, outcome)
		if got := s.wantGet(t, r, outcome); got.Reference != first.Reference || got.Captured != first.Captured || got.Code != first.Code {
			t.Errorf("get %s: got %+v, the call itself was answered with %+v", r.Key, got, first)
		}
		return first
	}
	r := s.request(s.Approved)
	reference := same(t, r, millrace.OutcomeApproved).Reference
	capture := next(r, millrace.TransactionCapture, reference, "2", amount)
	s.wantGet(t, capture, millrace.OutcomeNotFound)
	same(t, capture, millrace.OutcomeApproved)
	same(t, next(r, millrace.TransactionVoid, reference, "3", amount), millrace.OutcomeDeclined)
	same(t, next(r, millrace.TransactionRefund, reference, "4", amount), millrace.OutcomeApproved)
	if got := s.wantGet(t, r, millrace.OutcomeApproved); got.Captured {
		t.Errorf("get %s: got %+v, but this call captured nothing", r.Key, got)
	}

	r = s.request(s.Approved)
	r.WithCapture = true
	same(t, r, millrace.OutcomeApproved)

	r, reference = s.authorized(t, false)
	same(t, next(r, millrace.TransactionVoid, reference, "2", amount), millrace.OutcomeApproved)
}

func (s *gatewaySuite) endedContext(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	r := s.request(s.Approved)
	r.WithCapture = true
	if got, err := s.Gateway.Authorize(ended, r); err == nil && got.Outcome != millrace.OutcomeUnknown {
		t.Errorf("got %+v, want an error or the outcome unknown", got)
	}
	if got, err := s.Gateway.Get(ended, r); err == nil && got.Outcome != millrace.OutcomeUnknown {
		t.Errorf("get: got %+v, want an error or the outcome unknown", got)
	}
	got, err := s.Gateway.Get(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	want := Ledger{}
	if got.Outcome == millrace.OutcomeApproved {
		want = Ledger{Captures: 1, CapturedMinor: amount}
	}
	s.wantLedger(t, r.OrderID, want)
	s.want(t, r, millrace.OutcomeApproved)
	s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount})
}

func (s *gatewaySuite) declinedStays(t *testing.T) {
	r := s.request(s.Declined)
	r.WithCapture = true
	first := s.want(t, r, millrace.OutcomeDeclined)
	if again := s.want(t, r, millrace.OutcomeDeclined); again != first {
		t.Errorf("got %+v again, first it was %+v", again, first)
	}
	if got := s.wantGet(t, r, millrace.OutcomeDeclined); got.Code != first.Code || got.Captured {
		t.Errorf("get: got %+v, the call itself was answered with %+v", got, first)
	}
	s.wantLedger(t, r.OrderID, Ledger{})
}

func (s *gatewaySuite) flakyApproved(t *testing.T) {
	r := s.request(s.Flaky)
	r.WithCapture = true
	s.want(t, r, millrace.OutcomeRetry)
	s.wantLedger(t, r.OrderID, Ledger{})
	for range 10 {
		got, err := s.Gateway.Authorize(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if got.Outcome == millrace.OutcomeRetry {
			continue
		}
		if again := s.want(t, r, millrace.OutcomeApproved); again != got {
			t.Errorf("got %+v again, first it was %+v", again, got)
		}
		s.wantGet(t, r, millrace.OutcomeApproved)
		s.wantLedger(t, r.OrderID, Ledger{Captures: 1, CapturedMinor: amount})
		return
	}
	t.Error("it was not approved after ten tries")
}
