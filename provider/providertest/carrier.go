package providertest

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"millrace"
)

// CarrierFixture is a carrier under test, how to provoke what the rules are about, and what really happened.
type CarrierFixture struct {
	Carrier millrace.Carrier
	// Address is one that the carrier goes to.
	Address millrace.Address
	// NoRate is one that it does not go to; without a country it leaves out its rules.
	NoRate millrace.Address
	// Move takes a parcel to in_transit, and from there to delivered. Nothing else may move the fixture's parcels.
	Move func(ctx context.Context, reference string) error
	// Labels asks the carrier, past the adapter, how many labels an order has that were not given back.
	Labels func(ctx context.Context, order uuid.UUID) (int, error)
}

// Carrier tests that a carrier keeps the rules of [millrace.Carrier].
func Carrier(t *testing.T, factory func(t testing.TB) CarrierFixture) {
	t.Helper()
	s := &carrierSuite{CarrierFixture: factory(t)}
	rules := map[string]func(*testing.T){
		"the name stays the same":                                   s.nameStays,
		"a label has a reference, a tracking number and an address": s.labelIsWhole,
		"the same key repeats the first answer and buys nothing":    s.sameKeyRepeats,
		"concurrent calls with one key buy one label":               s.concurrentBuy,
		"a key of another order is declined and buys nothing":       s.sameKeyOtherOrder,
		"get answers not_found for a key never seen":                s.getUnseen,
		"get answers as buy did":                                    s.getBought,
		"a parcel goes from purchased over in_transit to delivered": s.track,
		"tracking a parcel that does not exist is an error":         s.trackUnknown,
		"a label that was not used is given back, once":             s.cancelUnused,
		"a label that was used cannot be given back":                s.cancelUsed,
		"canceling a label that does not exist is declined":         s.cancelUnknown,
		"a context that has ended is respected, get agrees":         s.endedContext,
	}
	if s.NoRate.Country != "" {
		rules["an address without a rate is declined, with a code, and buys nothing"] = s.noRate
	}
	for name, rule := range rules {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rule(t)
		})
	}
}

type carrierSuite struct{ CarrierFixture }

func (s *carrierSuite) request() millrace.LabelRequest {
	return millrace.LabelRequest{Key: uuid.NewString(), OrderID: uuid.Must(uuid.NewV7()), ShipTo: s.Address,
		Lines: []millrace.Reservation{{SKU: "TEA-001", Location: millrace.DefaultLocation, Quantity: 2, State: millrace.ReservationHeld}}}
}

func (s *carrierSuite) want(t *testing.T, r millrace.LabelRequest, outcome millrace.Outcome) millrace.LabelResult {
	t.Helper()
	got, err := s.Carrier.Buy(t.Context(), r)
	return wantLabel(t, got, err, outcome)
}

func (s *carrierSuite) wantGet(t *testing.T, key string, outcome millrace.Outcome) millrace.LabelResult {
	t.Helper()
	got, err := s.Carrier.Get(t.Context(), key)
	return wantLabel(t, got, err, outcome)
}

func (s *carrierSuite) wantCancel(t *testing.T, reference string, outcome millrace.Outcome) {
	t.Helper()
	got, err := s.Carrier.Cancel(t.Context(), reference)
	wantLabel(t, got, err, outcome)
}

func wantLabel(t *testing.T, got millrace.LabelResult, err error, outcome millrace.Outcome) millrace.LabelResult {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if got.Outcome != outcome {
		t.Fatalf("got %+v, want the outcome %s", got, outcome)
	}
	if outcome == millrace.OutcomeDeclined && got.Code == "" {
		t.Errorf("got %+v: declined without a code", got)
	}
	return got
}

func (s *carrierSuite) wantLabels(t *testing.T, order uuid.UUID, want int) {
	t.Helper()
	got, err := s.Labels(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("the carrier has %d labels of the order, want %d", got, want)
	}
}

func (s *carrierSuite) wantState(t *testing.T, l millrace.LabelResult, want millrace.ShipmentState) {
	t.Helper()
	got, err := s.Carrier.Track(t.Context(), l.Reference, l.TrackingNumber)
	if err != nil {
		t.Fatal(err)
	}
	if got.State != want {
		t.Fatalf("the parcel is %s, want %s", got.State, want)
	}
	if got.CheckAfter < 0 {
		t.Errorf("to be asked again after %s", got.CheckAfter)
	}
}

func (s *carrierSuite) nameStays(t *testing.T) {
	if name := s.Carrier.Name(); name == "" || name != s.Carrier.Name() {
		t.Errorf("the name is %q", name)
	}
}

func (s *carrierSuite) labelIsWhole(t *testing.T) {
	r := s.request()
	got := s.want(t, r, millrace.OutcomeApproved)
	if got.Reference == "" || got.TrackingNumber == "" || got.LabelURL == "" || got.Service == "" || got.Code != "" {
		t.Errorf("got %+v, want all but a code", got)
	}
	if other := s.want(t, s.request(), millrace.OutcomeApproved); other.Reference == got.Reference || other.TrackingNumber == got.TrackingNumber {
		t.Errorf("another order got the same label: %+v", other)
	}
	s.wantLabels(t, r.OrderID, 1)
}

// sameKeyRepeats sends the stock in another state as well, which it may have by the time a call is repeated.
func (s *carrierSuite) sameKeyRepeats(t *testing.T) {
	r := s.request()
	first := s.want(t, r, millrace.OutcomeApproved)
	for _, state := range []millrace.ReservationState{millrace.ReservationHeld, millrace.ReservationConsumed} {
		r.Lines[0].State = state
		if again := s.want(t, r, millrace.OutcomeApproved); again != first {
			t.Errorf("got %+v again, first it was %+v", again, first)
		}
	}
	s.wantLabels(t, r.OrderID, 1)
}

func (s *carrierSuite) concurrentBuy(t *testing.T) {
	r := s.request()
	results := make([]millrace.LabelResult, callers)
	errs := make([]error, callers)
	together(callers, func(i int) { results[i], errs[i] = s.Carrier.Buy(t.Context(), r) })
	first := s.wantGet(t, r.Key, millrace.OutcomeApproved)
	for i, got := range results {
		if errs[i] != nil {
			t.Errorf("call %d: %v", i, errs[i])
		} else if got != first && got.Outcome != millrace.OutcomeRetry {
			t.Errorf("call %d: got %+v, the label is %+v", i, got, first)
		}
	}
	s.wantLabels(t, r.OrderID, 1)
}

func (s *carrierSuite) sameKeyOtherOrder(t *testing.T) {
	r := s.request()
	s.want(t, r, millrace.OutcomeApproved)
	other := r
	other.OrderID = uuid.Must(uuid.NewV7())
	s.want(t, other, millrace.OutcomeDeclined)
	s.wantLabels(t, other.OrderID, 0)
	s.wantLabels(t, r.OrderID, 1)
}

func (s *carrierSuite) getUnseen(t *testing.T) {
	s.wantGet(t, uuid.NewString(), millrace.OutcomeNotFound)
}

func (s *carrierSuite) getBought(t *testing.T) {
	r := s.request()
	first := s.want(t, r, millrace.OutcomeApproved)
	if got := s.wantGet(t, r.Key, millrace.OutcomeApproved); got != first {
		t.Errorf("got %+v, the label is %+v", got, first)
	}
}

func (s *carrierSuite) noRate(t *testing.T) {
	r := s.request()
	r.ShipTo = s.NoRate
	for range 2 {
		s.want(t, r, millrace.OutcomeDeclined)
	}
	if got, err := s.Carrier.Get(t.Context(), r.Key); err != nil || got.Outcome == millrace.OutcomeApproved {
		t.Errorf("get: got %+v, %v, want it not approved", got, err)
	}
	s.wantLabels(t, r.OrderID, 0)
	// An operator who corrects the address tries again under the same key.
	r.ShipTo = s.Address
	s.want(t, r, millrace.OutcomeApproved)
	s.wantLabels(t, r.OrderID, 1)
}

func (s *carrierSuite) track(t *testing.T) {
	l := s.want(t, s.request(), millrace.OutcomeApproved)
	for _, state := range []millrace.ShipmentState{millrace.ShipmentPurchased, millrace.ShipmentInTransit, millrace.ShipmentDelivered} {
		if state != millrace.ShipmentPurchased {
			if err := s.Move(t.Context(), l.Reference); err != nil {
				t.Fatal(err)
			}
		}
		s.wantState(t, l, state)
		s.wantState(t, l, state)
	}
}

func (s *carrierSuite) trackUnknown(t *testing.T) {
	if got, err := s.Carrier.Track(t.Context(), "shp_unknown", "SIMUNKNOWN"); err == nil {
		t.Errorf("got %+v, want an error", got)
	}
}

func (s *carrierSuite) cancelUnused(t *testing.T) {
	r := s.request()
	l := s.want(t, r, millrace.OutcomeApproved)
	for range 2 {
		s.wantCancel(t, l.Reference, millrace.OutcomeApproved)
		s.wantLabels(t, r.OrderID, 0)
	}
}

func (s *carrierSuite) cancelUsed(t *testing.T) {
	r := s.request()
	l := s.want(t, r, millrace.OutcomeApproved)
	for range 2 {
		if err := s.Move(t.Context(), l.Reference); err != nil {
			t.Fatal(err)
		}
		s.wantCancel(t, l.Reference, millrace.OutcomeDeclined)
	}
	s.wantState(t, l, millrace.ShipmentDelivered)
	s.wantLabels(t, r.OrderID, 1)
}

func (s *carrierSuite) cancelUnknown(t *testing.T) {
	s.wantCancel(t, "shp_unknown", millrace.OutcomeDeclined)
}

func (s *carrierSuite) endedContext(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	r := s.request()
	if got, err := s.Carrier.Buy(ended, r); err == nil && got.Outcome != millrace.OutcomeUnknown {
		t.Errorf("got %+v, want an error or the outcome unknown", got)
	}
	got, err := s.Carrier.Get(t.Context(), r.Key)
	if err != nil {
		t.Fatal(err)
	}
	bought := 0
	if got.Outcome == millrace.OutcomeApproved {
		bought = 1
	}
	s.wantLabels(t, r.OrderID, bought)
	s.want(t, r, millrace.OutcomeApproved)
	s.wantLabels(t, r.OrderID, 1)
}
