package simulated_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"millrace"
	"millrace/db/dbtest"
	"millrace/provider/simulated"
)

var empty = dbtest.Template{Name: "simulated_empty", Version: "1", Migrate: func(context.Context, string) error { return nil }}

func TestOpenRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	newer := dbtest.New(t, template)
	conn, err := pgx.Connect(t.Context(), newer)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), `INSERT INTO simulated.goose_db_version (version_id, is_applied) VALUES (9999, true)`); err != nil {
		t.Fatal(err)
	}
	migrated := dbtest.New(t, template)
	for _, c := range []struct {
		name, url string
		cfg       simulated.Config
		says      string
	}{
		{name: "a database that was not migrated", url: dbtest.New(t, empty), says: "simulated.Migrate"},
		{name: "a newer schema", url: newer, says: "newer"},
		{name: "a URL that is none", url: "postgres://%zz", says: "database URL"},
		{name: "a delay below zero", url: migrated, cfg: simulated.Config{SlowBy: -1}, says: "negative"},
		{name: "delivery before transit", url: migrated, cfg: simulated.Config{TransitAfter: 2 * time.Second, DeliverAfter: time.Second}, says: "longer delivery"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p, err := simulated.Open(t.Context(), c.url, c.cfg)
			if err == nil {
				p.Close()
				t.Fatal("it was opened")
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error is %q, want it to say %q", err, c.says)
			}
		})
	}
}

func TestMigrateIsSafeWhenProcessesStartAtOnceAndWhenRepeated(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t, empty)
	const processes = 4
	errs := make(chan error, processes)
	for range processes {
		go func() { errs <- simulated.Migrate(t.Context(), url) }()
	}
	for range processes {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	p, err := simulated.Open(t.Context(), url, simulated.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r := authorize("pm_ok")
	if _, err := p.Gateway().Authorize(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := simulated.Migrate(t.Context(), url); err != nil {
		t.Fatal(err)
	}
	if got, err := p.Gateway().Get(t.Context(), r); err != nil || got.Outcome != millrace.OutcomeApproved {
		t.Errorf("after another migration: got %+v, %v, want the payment still there", got, err)
	}
}

func TestInstantMemoryIsBoundedAndWhatItForgotIsApproved(t *testing.T) {
	t.Parallel()
	const kept = 10
	p := simulated.NewInstant(kept)
	var first millrace.PaymentRequest
	var reference string
	for i := range 5 * kept {
		r := authorize("pm_ok")
		got, err := p.Gateway().Authorize(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first, reference = r, got.Reference
		}
		if _, err := p.Carrier().Buy(t.Context(), label("GB")); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Warehouse().Fulfill(t.Context(), millrace.FulfillRequest{Key: uuid.NewString(), OrderID: uuid.New()}); err != nil {
			t.Fatal(err)
		}
	}
	if answers, charges, labels, requests := simulated.InstantSize(p); answers != kept || charges != kept || labels != kept || requests != kept {
		t.Errorf("it holds %d answers, %d charges, %d labels and %d requests, want %d of each", answers, charges, labels, requests, kept)
	}
	if again, err := p.Gateway().Authorize(t.Context(), first); err != nil || again.Reference != reference {
		t.Errorf("got %+v, %v, want the reference %s again", again, err, reference)
	}
	capture := first
	capture.Key, capture.Reference = first.Key+":capture", "pay_forgotten"
	if got, err := p.Gateway().Capture(t.Context(), capture); err != nil || got.Outcome != millrace.OutcomeApproved || !got.Captured {
		t.Errorf("got %+v, %v, want it captured", got, err)
	}
}

func TestInstantDeliversAtOnce(t *testing.T) {
	t.Parallel()
	p := simulated.Instant()
	defer p.Close()
	r := label("GB")
	if got, err := p.Carrier().Get(t.Context(), r.Key); err != nil || got.Outcome != millrace.OutcomeNotFound {
		t.Errorf("get: got %+v, %v", got, err)
	}
	l, err := p.Carrier().Buy(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for _, again := range []func() (millrace.LabelResult, error){
		func() (millrace.LabelResult, error) { return p.Carrier().Buy(t.Context(), r) },
		func() (millrace.LabelResult, error) { return p.Carrier().Get(t.Context(), r.Key) },
	} {
		if got, err := again(); err != nil || got != l {
			t.Errorf("got %+v, %v, want the label %+v", got, err, l)
		}
	}
	if got, err := p.Carrier().Track(t.Context(), l.Reference, l.TrackingNumber); err != nil || got != (millrace.TrackResult{State: millrace.ShipmentDelivered}) {
		t.Errorf("track: got %+v, %v", got, err)
	}
	if got, err := p.Carrier().Cancel(t.Context(), l.Reference); err != nil || got.Outcome != millrace.OutcomeDeclined {
		t.Errorf("cancel: got %+v, %v, want it declined: it was delivered", got, err)
	}
	r.OrderID = uuid.New()
	if got, err := p.Carrier().Buy(t.Context(), r); err != nil || got.Code != "idempotency_mismatch" {
		t.Errorf("the key for another order: got %+v, %v", got, err)
	}
}
