package providertest

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"millrace"
)

// WarehouseFixture is a warehouse under test, how to provoke what the rules are about, and what really happened.
type WarehouseFixture struct {
	Warehouse millrace.Warehouse
	// SKU is one that is picked.
	SKU string
	// NotPickable is a SKU that is declined; empty leaves out its rules.
	NotPickable string
	// Requests asks the warehouse, past the adapter, how many requests of an order it works on.
	Requests func(ctx context.Context, order uuid.UUID) (int, error)
}

// Warehouse tests that a warehouse keeps the rules of [millrace.Warehouse].
func Warehouse(t *testing.T, factory func(t testing.TB) WarehouseFixture) {
	t.Helper()
	s := &warehouseSuite{WarehouseFixture: factory(t)}
	rules := map[string]func(*testing.T){
		"the name stays the same":                                s.nameStays,
		"the same key repeats the first answer and works once":   s.sameKeyRepeats,
		"concurrent calls with one key work once":                s.concurrentFulfill,
		"a key of another order is declined and works nothing":   s.sameKeyOtherOrder,
		"a canceled request is worked no more, even if repeated": s.cancel,
		"a context that has ended is respected":                  s.endedContext,
	}
	if s.NotPickable != "" {
		rules["what cannot be picked is declined, with a code, and works nothing"] = s.notPickable
	}
	for name, rule := range rules {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rule(t)
		})
	}
}

type warehouseSuite struct{ WarehouseFixture }

func (s *warehouseSuite) request(skus ...string) millrace.FulfillRequest {
	r := millrace.FulfillRequest{Key: uuid.NewString(), OrderID: uuid.Must(uuid.NewV7()),
		ShipTo: millrace.Address{Name: "Ada", Line1: "1 Mill Lane", City: "Cambridge", PostalCode: "CB2 1RX", Country: "GB"}}
	for _, sku := range skus {
		r.Lines = append(r.Lines, millrace.Reservation{SKU: sku, Location: millrace.DefaultLocation, Quantity: 1, State: millrace.ReservationHeld})
	}
	return r
}

func (s *warehouseSuite) want(t *testing.T, r millrace.FulfillRequest, outcome millrace.Outcome) millrace.FulfillResult {
	t.Helper()
	got, err := s.Warehouse.Fulfill(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if got.Outcome != outcome || (got.Code == "") != (outcome != millrace.OutcomeDeclined) {
		t.Fatalf("got %+v, want the outcome %s, with a code if declined", got, outcome)
	}
	return got
}

func (s *warehouseSuite) wantRequests(t *testing.T, order uuid.UUID, want int) {
	t.Helper()
	got, err := s.Requests(t.Context(), order)
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("the warehouse works on %d requests of the order, want %d", got, want)
	}
}

func (s *warehouseSuite) nameStays(t *testing.T) {
	if name := s.Warehouse.Name(); name == "" || name != s.Warehouse.Name() {
		t.Errorf("the name is %q", name)
	}
}

func (s *warehouseSuite) sameKeyRepeats(t *testing.T) {
	r := s.request(s.SKU)
	first := s.want(t, r, millrace.OutcomeApproved)
	if again := s.want(t, r, millrace.OutcomeApproved); again != first {
		t.Errorf("got %+v again, first it was %+v", again, first)
	}
	s.wantRequests(t, r.OrderID, 1)
}

func (s *warehouseSuite) concurrentFulfill(t *testing.T) {
	r := s.request(s.SKU)
	results := make([]millrace.FulfillResult, callers)
	errs := make([]error, callers)
	together(callers, func(i int) { results[i], errs[i] = s.Warehouse.Fulfill(t.Context(), r) })
	for i, got := range results {
		if errs[i] != nil || got.Outcome != millrace.OutcomeApproved && got.Outcome != millrace.OutcomeRetry {
			t.Errorf("call %d: got %+v, %v", i, got, errs[i])
		}
	}
	s.wantRequests(t, r.OrderID, 1)
}

func (s *warehouseSuite) sameKeyOtherOrder(t *testing.T) {
	r := s.request(s.SKU)
	s.want(t, r, millrace.OutcomeApproved)
	other := r
	other.OrderID = uuid.Must(uuid.NewV7())
	s.want(t, other, millrace.OutcomeDeclined)
	s.wantRequests(t, other.OrderID, 0)
	s.wantRequests(t, r.OrderID, 1)
}

func (s *warehouseSuite) notPickable(t *testing.T) {
	r := s.request(s.SKU, s.NotPickable)
	for range 2 {
		s.want(t, r, millrace.OutcomeDeclined)
	}
	s.wantRequests(t, r.OrderID, 0)
}

func (s *warehouseSuite) cancel(t *testing.T) {
	r := s.request(s.SKU)
	s.want(t, r, millrace.OutcomeApproved)
	for range 2 {
		got, err := s.Warehouse.Cancel(t.Context(), r.Key)
		if err != nil || got.Outcome != millrace.OutcomeApproved {
			t.Fatalf("got %+v, %v, want it approved", got, err)
		}
		s.wantRequests(t, r.OrderID, 0)
	}
	// A repeat that comes late must not start the work anew, whatever it is answered.
	if _, err := s.Warehouse.Fulfill(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	s.wantRequests(t, r.OrderID, 0)
}

func (s *warehouseSuite) endedContext(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	r := s.request(s.SKU)
	if got, err := s.Warehouse.Fulfill(ended, r); err == nil && got.Outcome != millrace.OutcomeUnknown {
		t.Errorf("got %+v, want an error or the outcome unknown", got)
	}
	s.want(t, r, millrace.OutcomeApproved)
	s.wantRequests(t, r.OrderID, 1)
}
