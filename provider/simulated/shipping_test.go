package simulated_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace"
	"millrace/provider/simulated"
)

// label asks for a label of a new order.
func label(country string) millrace.LabelRequest {
	return millrace.LabelRequest{Key: uuid.NewString(), OrderID: uuid.Must(uuid.NewV7()),
		ShipTo: millrace.Address{Name: "Ada Lovelace", Line1: "1 Mill Lane", City: "Cambridge", Country: country}}
}

func TestTheCountryDecidesAboutALabel(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{PublicURL: "https://shop.example"})
	instant := simulated.Instant()
	for country, code := range map[string]string{"GB": "", "XX": "no_rate", "": "bad_address", "gb": "bad_address", "GBR": "bad_address", "\x00\xff": "bad_address"} {
		for name, c := range map[string]millrace.Carrier{"simulated": b.Carrier(), "instant": instant.Carrier()} {
			got, err := c.Buy(t.Context(), label(country))
			if err != nil || got.Code != code || (got.Outcome == millrace.OutcomeApproved) != (code == "") {
				t.Errorf("%s, %q: got %+v, %v, want code %q", name, country, got, err, code)
			}
		}
	}
	got, err := b.Carrier().Buy(t.Context(), label("GB"))
	if want := "https://shop.example/simulated/labels/" + got.TrackingNumber; err != nil || got.LabelURL != want {
		t.Errorf("got %+v, %v, want the label at %s", got, err, want)
	}
}

func TestMalformedLabelRequestsAreDeclined(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	for name, c := range map[string]millrace.Carrier{"simulated": b.Carrier(), "instant": simulated.Instant().Carrier()} {
		for _, key := range []string{"", "a\x00b", "\xff"} {
			r := label("GB")
			r.Key = key
			if got, err := c.Buy(t.Context(), r); err != nil || got.Outcome != millrace.OutcomeDeclined || got.Code != "invalid_request" {
				t.Errorf("%s, buy %q: got %+v, %v", name, key, got, err)
			}
			if got, err := c.Get(t.Context(), key); err != nil || got.Outcome != millrace.OutcomeNotFound {
				t.Errorf("%s, get %q: got %+v, %v", name, key, got, err)
			}
			if got, err := c.Cancel(t.Context(), key); err != nil || got.Outcome != millrace.OutcomeDeclined {
				t.Errorf("%s, cancel %q: got %+v, %v", name, key, got, err)
			}
			if _, err := c.Track(t.Context(), key, key); !errors.Is(err, simulated.ErrUnknownParcel) {
				t.Errorf("%s, track %q: got %v", name, key, err)
			}
		}
	}
}

// The clock is moved by moving the purchase, and each state is asked of another process.
func TestAParcelMovesByTheDatabaseClock(t *testing.T) {
	t.Parallel()
	cfg := simulated.Config{TransitAfter: time.Hour, DeliverAfter: 3 * time.Hour}
	b := setup(t, cfg)
	l, err := b.Carrier().Buy(t.Context(), label("GB"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ago      time.Duration
		state    millrace.ShipmentState
		min, max time.Duration // of CheckAfter
	}{
		{ago: 0, state: "purchased", min: 50 * time.Minute, max: time.Hour},
		{ago: 30 * time.Minute, state: "purchased", min: 20 * time.Minute, max: 30 * time.Minute},
		{ago: time.Hour, state: "in_transit", min: 110 * time.Minute, max: 2 * time.Hour},
		{ago: 2 * time.Hour, state: "in_transit", min: 50 * time.Minute, max: time.Hour},
		{ago: 3 * time.Hour, state: "delivered"},
		{ago: 300 * time.Hour, state: "delivered"},
	} {
		if _, err := b.pool.Exec(t.Context(), `UPDATE simulated.labels SET purchased_at = clock_timestamp() - $1::interval`, c.ago); err != nil {
			t.Fatal(err)
		}
		got, err := b.open(t, cfg).Carrier().Track(t.Context(), l.Reference, l.TrackingNumber)
		if err != nil || got.State != c.state || got.CheckAfter < c.min || got.CheckAfter > c.max {
			t.Errorf("after %s: got %+v, %v, want %s and a hint of %s to %s", c.ago, got, err, c.state, c.min, c.max)
		}
	}
	if _, err := b.Carrier().Track(t.Context(), l.Reference, "SIM0"); !errors.Is(err, simulated.ErrUnknownParcel) {
		t.Errorf("another tracking number: got %v", err)
	}
}

func TestTheHintIsWhenTheParcelHasMoved(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{TransitAfter: 20 * time.Millisecond, DeliverAfter: 40 * time.Millisecond})
	l, err := b.Carrier().Buy(t.Context(), label("GB"))
	if err != nil {
		t.Fatal(err)
	}
	for asked := 1; ; asked++ {
		got, err := b.Carrier().Track(t.Context(), l.Reference, l.TrackingNumber)
		if err != nil {
			t.Fatal(err)
		}
		if got.State == millrace.ShipmentDelivered {
			if got.CheckAfter != 0 {
				t.Errorf("a delivered parcel is to be asked about after %s", got.CheckAfter)
			}
			return
		}
		if asked == 10 { // three are enough, but for two clocks that differ
			t.Fatalf("asked as the hints said, the parcel is %s, want it delivered", got.State)
		}
		<-time.After(got.CheckAfter)
	}
}

func TestACanceledLabelStaysCanceled(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{TransitAfter: never, DeliverAfter: never})
	r := label("GB")
	l, err := b.Carrier().Buy(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := b.Carrier().Cancel(t.Context(), l.Reference); err != nil || got.Outcome != millrace.OutcomeApproved {
		t.Fatalf("got %+v, %v", got, err)
	}
	if _, err := b.pool.Exec(t.Context(), `UPDATE simulated.labels SET purchased_at = purchased_at - $1::interval`, 10*never); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Carrier().Track(t.Context(), l.Reference, l.TrackingNumber); err != nil || got.State != millrace.ShipmentPurchased || got.CheckAfter != 0 {
		t.Errorf("track: got %+v, %v, want it never handed over", got, err)
	}
	if got, err := b.Carrier().Get(t.Context(), r.Key); err != nil || got.Outcome != millrace.OutcomeDeclined || got.Code != "canceled" {
		t.Errorf("get: got %+v, %v, want it declined as canceled", got, err)
	}
	if got, err := b.Carrier().Buy(t.Context(), r); err != nil || got != l {
		t.Errorf("buy: got %+v, %v, want the first answer %+v", got, err, l)
	}
}

func TestWhatTheWarehouseDeclines(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	for name, w := range map[string]millrace.Warehouse{"simulated": b.Warehouse(), "instant": simulated.Instant().Warehouse()} {
		request := func(sku string) millrace.FulfillRequest {
			return millrace.FulfillRequest{Key: uuid.NewString(), OrderID: uuid.New(), Lines: []millrace.Reservation{{SKU: "TEA-001"}, {SKU: sku}}}
		}
		want := func(rule string, r millrace.FulfillRequest, code string) {
			t.Helper()
			if got, err := w.Fulfill(t.Context(), r); err != nil || got.Code != code || (got.Outcome == millrace.OutcomeApproved) != (code == "") {
				t.Errorf("%s, %s: got %+v, %v, want code %q", name, rule, got, err, code)
			}
		}
		good := request("CUP-002")
		want("what can be picked", good, "")
		want("the same again", good, "")
		good.OrderID = uuid.New()
		want("its key for another order", good, "idempotency_mismatch")

		bad := request("NOPICK-7")
		want("what cannot be picked", bad, "not_pickable")
		bad.Lines = bad.Lines[:1]
		want("the same without it", bad, "")

		late := request("CUP-002")
		if got, err := w.Cancel(t.Context(), late.Key); err != nil || got.Outcome != millrace.OutcomeApproved {
			t.Errorf("%s, cancel before it came: got %+v, %v", name, got, err)
		}
		want("what was canceled before it came", late, "canceled")

		malformed := request("CUP-002")
		malformed.Key = "a\x00b"
		want("a malformed key", malformed, "invalid_request")
		if got, err := w.Cancel(t.Context(), malformed.Key); err != nil || got.Code != "invalid_request" {
			t.Errorf("%s, cancel a malformed key: got %+v, %v", name, got, err)
		}
	}
}
