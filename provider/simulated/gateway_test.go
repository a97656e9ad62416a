package simulated_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace"
	"millrace/provider/simulated"
)

func TestThePaymentMethodDecides(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{PublicURL: "https://shop.example/", SlowBy: time.Millisecond})
	for _, c := range []struct {
		method   string
		outcomes []millrace.Outcome // one a call, all under one key
		code     string             // of the last
		captured bool               // by the last
	}{
		{method: "pm_ok", outcomes: []millrace.Outcome{"approved", "approved"}, captured: true},
		{method: "pm_declined", outcomes: []millrace.Outcome{"declined", "declined"}, code: "insufficient_funds"},
		{method: "pm_flaky", outcomes: []millrace.Outcome{"retry", "retry", "approved", "approved"}, captured: true},
		{method: "pm_slow", outcomes: []millrace.Outcome{"approved", "approved"}, captured: true},
		{method: "pm_3ds", outcomes: []millrace.Outcome{"requires_action", "requires_action"}},
		{method: "pm_other", outcomes: []millrace.Outcome{"declined", "declined"}, code: "unknown_payment_method"},
		{method: "", outcomes: []millrace.Outcome{"declined"}, code: "unknown_payment_method"},
	} {
		t.Run(c.method, func(t *testing.T) {
			t.Parallel()
			r := authorize(c.method)
			r.WithCapture = true
			var last millrace.PaymentResult
			for i, want := range c.outcomes {
				got, err := b.Gateway().Authorize(t.Context(), r)
				if err != nil || got.Outcome != want {
					t.Fatalf("call %d: got %+v, %v, want %s", i+1, got, err, want)
				}
				last = got
			}
			if last.Code != c.code || last.Captured != c.captured {
				t.Errorf("got %+v, want code %q and captured: %t", last, c.code, c.captured)
			}
			action := ""
			if last.Outcome == millrace.OutcomeRequiresAction {
				action = "https://shop.example/simulated/payments/" + last.Reference
			}
			if last.ActionURL != action {
				t.Errorf("the buyer acts at %q, want %q", last.ActionURL, action)
			}
		})
	}
}

func TestSlowAnswersAfterSlowBy(t *testing.T) {
	t.Parallel()
	const slowBy = 50 * time.Millisecond
	b := setup(t, simulated.Config{SlowBy: slowBy})
	start := time.Now()
	if _, err := b.Gateway().Authorize(t.Context(), authorize("pm_slow")); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < slowBy {
		t.Errorf("it answered after %s, want at least %s", took, slowBy)
	}
}

// A slow answer that nobody waits for any more was charged all the same.
func TestSlowAnswerGivenUpIsToldByGet(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{SlowBy: never})
	r := authorize("pm_slow")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := b.Gateway().Authorize(ctx, r)
		done <- err
	}()
	b.untilCalled(t, r.Key, 1)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the context was canceled", err)
	}
	if got, err := b.Gateway().Get(t.Context(), r); err != nil || got.Outcome != millrace.OutcomeApproved {
		t.Errorf("got %+v, %v, want it approved", got, err)
	}
}

func TestLostAnswerIsLostAgainWhenRepeatedAndChargesOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	r := authorize("pm_lost_answer")
	r.WithCapture = true
	for try := 1; try <= 3; try++ {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := b.Gateway().Authorize(ctx, r)
			done <- err
		}()
		b.untilCalled(t, r.Key, try)
		select {
		case err := <-done:
			t.Errorf("try %d ended before its context, with %v", try, err)
			done <- err
		default:
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("try %d: got %v, want that the context was canceled", try, err)
		}
	}
	b.wantEntry(t, r.OrderID, simulated.Entry{Captures: 1, CapturedMinor: 2500})
}

func TestRulesHoldAcrossProcesses(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	processes := []*simulated.Providers{b.Providers, b.open(t, simulated.Config{}), b.open(t, simulated.Config{})}

	flaky := authorize("pm_flaky")
	for i, want := range []millrace.Outcome{"retry", "retry", "approved"} {
		if got, err := processes[i].Gateway().Authorize(t.Context(), flaky); err != nil || got.Outcome != want {
			t.Errorf("process %d: got %+v, %v, want %s", i, got, err, want)
		}
	}

	ok := authorize("pm_ok")
	ok.WithCapture = true
	var first millrace.PaymentResult
	for i, p := range processes {
		got, err := p.Gateway().Authorize(t.Context(), ok)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = got
		}
		if got != first {
			t.Errorf("process %d: got %+v, the first process answered %+v", i, got, first)
		}
	}
	b.wantEntry(t, ok.OrderID, simulated.Entry{Captures: 1, CapturedMinor: 2500})
}

func TestDeclinesSayWhy(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	g := b.Gateway()
	authorized := func(t *testing.T, method string, withCapture bool) millrace.PaymentRequest {
		t.Helper()
		r := authorize(method)
		r.WithCapture = withCapture
		got, err := g.Authorize(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		r.Reference = got.Reference
		return r
	}
	type call = func(context.Context, millrace.PaymentRequest) (millrace.PaymentResult, error)
	for _, c := range []struct {
		name    string
		method  string
		capture bool // with the authorize
		before  call // on the payment, nil for none
		call    call
		change  func(*millrace.PaymentRequest)
		code    string
	}{
		{name: "an amount below zero", call: g.Authorize, change: func(r *millrace.PaymentRequest) { r.AmountMinor = -1 }, code: "invalid_amount"},
		{name: "no key", call: g.Authorize, change: func(r *millrace.PaymentRequest) { r.Key = "" }, code: "invalid_request"},
		{name: "a key too long", call: g.Authorize, change: func(r *millrace.PaymentRequest) { r.Key = strings.Repeat("k", 256) }, code: "invalid_request"},
		{name: "a key with a zero byte", call: g.Capture, change: func(r *millrace.PaymentRequest) { r.Key = "a\x00b" }, code: "invalid_request"},
		{name: "a method that is not UTF-8", call: g.Authorize, change: func(r *millrace.PaymentRequest) { r.Method = "\xff" }, code: "invalid_request"},
		{name: "a reference that is not UTF-8", call: g.Void, change: func(r *millrace.PaymentRequest) { r.Reference = "\xff" }, code: "invalid_request"},
		{name: "another order's payment", call: g.Capture, change: func(r *millrace.PaymentRequest) { r.OrderID = uuid.New() }, code: "unknown_reference"},
		{name: "another currency", call: g.Capture, change: func(r *millrace.PaymentRequest) { r.Currency = "USD" }, code: "currency_mismatch"},
		{name: "a capture below zero", call: g.Capture, change: func(r *millrace.PaymentRequest) { r.AmountMinor = -1 }, code: "invalid_amount"},
		{name: "a capture of too much", call: g.Capture, change: func(r *millrace.PaymentRequest) { r.AmountMinor = math.MaxInt64 }, code: "amount_too_large"},
		{name: "a capture of what was captured", capture: true, call: g.Capture, code: "already_captured"},
		{name: "a capture of what was voided", before: g.Void, call: g.Capture, code: "voided"},
		{name: "a capture of what waits for the buyer", method: "pm_3ds", call: g.Capture, code: "not_authorized"},
		{name: "a void of a part", call: g.Void, change: func(r *millrace.PaymentRequest) { r.AmountMinor = 1 }, code: "amount_mismatch"},
		{name: "a void of what was captured", before: g.Capture, call: g.Void, code: "already_captured"},
		{name: "a refund of what was not captured", call: g.Refund, code: "not_captured"},
		{name: "a refund of what was voided", before: g.Void, call: g.Refund, code: "not_captured"},
		{name: "a refund of too much", capture: true, call: g.Refund, change: func(r *millrace.PaymentRequest) { r.AmountMinor = math.MaxInt64 }, code: "amount_too_large"},
		{name: "a refund of nothing", capture: true, call: g.Refund, change: func(r *millrace.PaymentRequest) { r.AmountMinor = 0 }, code: "invalid_amount"},
		{name: "the key of another call", call: g.Void, change: func(r *millrace.PaymentRequest) { r.Key = strings.TrimSuffix(r.Key, ":again") }, code: "idempotency_mismatch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.method == "" {
				c.method = "pm_ok"
			}
			r := authorized(t, c.method, c.capture)
			if c.before != nil {
				before := r
				before.Key += ":before"
				if got, err := c.before(t.Context(), before); err != nil || got.Outcome != millrace.OutcomeApproved {
					t.Fatalf("before: got %+v, %v", got, err)
				}
			}
			r.Key += ":again"
			if c.change != nil {
				c.change(&r)
			}
			held := b.entry(t, r.OrderID)
			got, err := c.call(t.Context(), r)
			if err != nil || got.Outcome != millrace.OutcomeDeclined || got.Code != c.code {
				t.Errorf("got %+v, %v, want it declined with %s", got, err, c.code)
			}
			b.wantEntry(t, r.OrderID, held)
		})
	}
}

func TestAVoidNeedsNoAmount(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	r := authorize("pm_ok")
	got, err := b.Gateway().Authorize(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	r.Key, r.Reference, r.AmountMinor = r.Key+":void", got.Reference, 0
	if got, err := b.Gateway().Void(t.Context(), r); err != nil || got.Outcome != millrace.OutcomeApproved {
		t.Fatalf("got %+v, %v, want it approved", got, err)
	}
	b.wantEntry(t, r.OrderID, simulated.Entry{})
}

// Not even a mistake in the functions can take money twice: the table refuses it.
func TestTheTableRefusesWhatMustNeverBe(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	r := authorize("pm_ok")
	r.WithCapture = true
	if _, err := b.Gateway().Authorize(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for _, set := range []string{"captures = 2", "captured_minor = captured_minor + 1", "refunded_minor = captured_minor + 1", "refunded_minor = -1",
		"state = 'authorized'", "captures = 0",
		"captures = 2, captured_minor = 0, state = 'voided'", "decision = 'confirmed'"} {
		if _, err := b.pool.Exec(t.Context(), `UPDATE simulated.charges SET `+set); err == nil {
			t.Errorf("SET %s was accepted", set)
		}
	}
}

func TestLedgerShowsASecondChargeOfAnOrder(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	r := authorize("pm_ok")
	r.WithCapture = true
	for range 2 {
		if _, err := b.Gateway().Authorize(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		r.Key += "x" // what a caller that makes a new key on each try does
	}
	b.wantEntry(t, r.OrderID, simulated.Entry{Captures: 2, CapturedMinor: 5000})
}

func TestEveryCallIsLoggedWithItsKeyAndAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	g := b.Gateway()
	r := authorize("pm_ok")
	got, err := g.Authorize(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	settle := r
	settle.Key, settle.Reference = r.Key+":2", got.Reference
	for _, call := range []func() (millrace.PaymentResult, error){
		func() (millrace.PaymentResult, error) { return g.Authorize(t.Context(), r) },
		func() (millrace.PaymentResult, error) { return g.Get(t.Context(), r) },
		func() (millrace.PaymentResult, error) { return g.Void(t.Context(), settle) },
		func() (millrace.PaymentResult, error) { return g.Capture(t.Context(), settle) },
	} {
		if _, err := call(); err != nil {
			t.Fatal(err)
		}
	}
	rows, err := b.pool.Query(t.Context(), `SELECT operation || ' ' || key || ' ' || outcome || ' ' || code FROM simulated.calls
		WHERE provider = 'gateway' AND reference = $1 ORDER BY at`, got.Reference)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var log []string
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			t.Fatal(err)
		}
		log = append(log, strings.ReplaceAll(line, r.Key, "K"))
	}
	want := "authorize K approved |authorize K approved |get K approved |void K:2 approved |capture K:2 declined idempotency_mismatch"
	if got := strings.Join(log, "|"); got != want {
		t.Errorf("the log is\n%s, want\n%s", got, want)
	}
}
