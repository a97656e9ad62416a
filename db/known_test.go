package db_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
)

// tripCounter counts what is sent to Postgres and waited for.
type tripCounter struct{ trips atomic.Int32 }

func (c *tripCounter) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	c.trips.Add(1)
	return ctx
}
func (c *tripCounter) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
func (c *tripCounter) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	c.trips.Add(1)
	return ctx
}
func (c *tripCounter) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (c *tripCounter) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// during is how many trips f takes.
func (c *tripCounter) during(f func()) int {
	before := c.trips.Load()
	f()
	return int(c.trips.Load() - before)
}

// counted is a store whose trips are counted.
func (b *testBundle) counted() (*db.Store, *tripCounter) {
	b.t.Helper()
	config := b.pool.Config()
	c := &tripCounter{}
	config.ConnConfig.Tracer = c
	pool, err := pgxpool.NewWithConfig(b.t.Context(), config)
	require.NoError(b.t, err)
	b.t.Cleanup(pool.Close)
	return b.newStore(pool), c
}

var (
	captured = millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Gateway: "simulated", Reference: "ch_1", Captured: true}
	bought   = millrace.LabelResult{Outcome: millrace.OutcomeApproved, Reference: "shp_1", TrackingNumber: "T1"}
	arrived  = millrace.TrackResult{State: millrace.ShipmentDelivered}
)

// What a quiet shop waits for is the way to Postgres and back: a step of an order that has not changed since its job read it is one, and an
// allocation two.
func TestAStepOfAKnownOrderIsOneTrip(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s, trips := b.counted()
	life := func(id uuid.UUID) (taken []int) {
		taken = append(taken, trips.during(func() { require.NoError(t, s.ReserveStock(t.Context(), id)) }))
		o, err := s.WorkOrder(t.Context(), id)
		require.NoError(t, err)
		for _, step := range []func() (*millrace.Order, error){
			func() (*millrace.Order, error) { return s.SettlePayment(t.Context(), o, 1, captured, "job:test") },
			func() (*millrace.Order, error) {
				return s.SettleShipment(t.Context(), o, bought, "simulated", "job:test")
			},
			func() (*millrace.Order, error) { return s.TrackShipment(t.Context(), o, arrived, "job:test") },
			func() (*millrace.Order, error) { return s.TrackShipment(t.Context(), o, arrived, "job:test") }, // changes nothing
		} {
			taken = append(taken, trips.during(func() { o, err = step() }))
			require.NoError(t, err)
		}
		require.Equal(t, millrace.OrderCompleted, b.find(id).Status)
		return taken
	}
	life(b.place("TEA-001")) // the first statements of a connection are prepared
	require.Equal(t, []int{2, 1, 1, 1, 0}, life(b.place("TEA-001", "CUP-002")))
	b.requireSound()
}

// A step that goes by what its job knew of an order ends as if it had read the order only now, whatever has changed meanwhile and whether
// or not there was an event of it.
func TestAStepOfAnOrderThatChangedMeanwhileGoesByTheChange(t *testing.T) {
	t.Parallel()
	pay := func(ctx context.Context, s *db.Store, o *millrace.Order) (*millrace.Order, error) {
		return s.SettlePayment(ctx, o, 1, captured, "job:test")
	}
	label := func(ctx context.Context, s *db.Store, o *millrace.Order) (*millrace.Order, error) {
		return s.SettleShipment(ctx, o, bought, "simulated", "job:test")
	}
	parcel := func(ctx context.Context, s *db.Store, o *millrace.Order) (*millrace.Order, error) {
		return s.TrackShipment(ctx, o, arrived, "job:test")
	}
	for name, c := range map[string]struct {
		before, meanwhile []deed
		step              func(context.Context, *db.Store, *millrace.Order) (*millrace.Order, error)
		check             func(*testing.T, *millrace.Order)
	}{
		"canceled": {[]deed{reserve}, []deed{cancel}, pay, func(t *testing.T, o *millrace.Order) {
			require.Equal(t, millrace.OrderCanceled, o.Status)
			require.Len(t, o.Transactions, 3, "what was taken goes back")
			require.Equal(t, millrace.TransactionRefund, o.Transactions[2].Kind)
		}},
		"paid by another job": {[]deed{reserve}, []deed{paid}, pay, func(t *testing.T, o *millrace.Order) {
			require.Len(t, o.Transactions, 2)
			require.EqualValues(t, 4, o.Version)
		}},
		"its answer lost": {[]deed{reserve}, []deed{lostAnswer}, func(ctx context.Context, s *db.Store, o *millrace.Order) (*millrace.Order, error) {
			return s.SettlePayment(ctx, o, 1, millrace.PaymentResult{Outcome: millrace.OutcomeRetry, Gateway: "simulated"}, "job:test")
		}, func(t *testing.T, o *millrace.Order) {
			require.Equal(t, millrace.TransactionUnknown, o.Transactions[0].State, "it is not forgotten that the gateway may have taken it")
			require.Equal(t, "simulated", o.Transactions[0].Gateway)
		}},
		"a refund asked for": {[]deed{reserve, paid}, []deed{refund(100, "r1")}, label, func(t *testing.T, o *millrace.Order) {
			require.Len(t, o.Transactions, 3)
			require.Equal(t, millrace.TransactionRequested, o.Transactions[2].State)
			require.Equal(t, millrace.FulfillmentFulfilled, o.FulfillmentStatus)
		}},
		"held and released": {[]deed{reserve, paid}, []deed{hold, release}, label, func(t *testing.T, o *millrace.Order) {
			require.EqualValues(t, 7, o.Version)
			require.Equal(t, millrace.FulfillmentFulfilled, o.FulfillmentStatus)
		}},
		"shipped, of which nothing was known": {[]deed{reserve, paid}, []deed{labeled}, parcel, func(t *testing.T, o *millrace.Order) {
			require.Equal(t, millrace.OrderCompleted, o.Status)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			oneAndMany(t, func(t *testing.T, change func(*db.Config)) {
				b := setup(t, change)
				other := b.newStore(b.newPool(2))
				id := b.place("TEA-001")
				for _, d := range c.before {
					require.NoError(t, d(t.Context(), b.store, id))
				}
				known := b.find(id)
				for _, d := range c.meanwhile {
					require.NoError(t, d(t.Context(), other, id))
				}
				answer, err := c.step(t.Context(), b.store, known)
				require.NoError(t, err)
				found := b.find(id)
				c.check(t, found)
				require.Equal(t, found.Status, answer.Status)
				require.Equal(t, found.Revision, answer.Revision)
				b.requireSound()
			})
		})
	}
}

// A customer who is erased while a gateway is asked leaves no address with what is known of the order.
func TestWhatIsKnownOfAnErasedOrderIsForgotten(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *db.Config) { c.Workers = &crew{t: t, every: 1} })
	id := b.place("TEA-001")
	require.NoError(t, b.store.ReserveStock(t.Context(), id))
	known, err := b.store.WorkOrder(t.Context(), id)
	require.NoError(t, err)
	require.NotNil(t, known.ShipTo)
	require.NoError(t, b.store.EraseCustomer(t.Context(), b.ada.Subject))
	_, err = b.store.SettlePayment(t.Context(), known, 1, captured, "job:test")
	require.NoError(t, err)
	next, err := b.store.WorkOrder(t.Context(), id) // of the next job
	require.NoError(t, err)
	require.Equal(t, millrace.PaymentPaid, next.PaymentStatus)
	require.Nil(t, next.ShipTo)
	require.Empty(t, next.Email)
}

// Where the order that made a turn worth taking is canceled before its lines are read, those in front of it are served all the same.
func TestATurnThatNobodyWaitsForAnyMoreIsTakenWhole(t *testing.T) {
	t.Parallel()
	b := setup(t, maxGroup(1))
	first, second := b.place("TEA-001"), b.place("CUP-002")
	free := b.lock(fmt.Sprintf("SELECT FROM orders WHERE id = '%s'", first))
	done := make(chan error, 1)
	go func() { done <- b.store.ReserveStock(t.Context(), second) }() // which has to serve the first before
	b.untilBlocked(1)
	require.NoError(t, cancel(t.Context(), b.newStore(b.newPool(2)), second))
	free()
	require.NoError(t, <-done)
	o := b.find(first)
	require.Equal(t, millrace.OrderProcessing, o.Status)
	require.Len(t, o.Reservations, 1)
	b.requireSound()
}

// The first order of a customer whom nobody has seen is taken in by one trip; one whom only this process has not seen costs two more, and
// is looked up by those who come next.
func TestAStrangersOrderIsOneTrip(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.place("TEA-001") // by ada
	s, trips := b.counted()
	place := func(subject string) (uuid.UUID, int) {
		var placed db.Placed
		n := trips.during(func() {
			var err error
			p := millrace.Principal{Subject: subject, Email: "someone@example.com"}
			placed, err = s.PlaceOrder(t.Context(), placement(p, uuid.NewString(), request("TEA-001")))
			require.NoError(t, err)
		})
		return b.find(placed.Order.ID).CustomerID, n
	}
	place("the first") // reads the prices
	_, n := place("new")
	require.Equal(t, 1, n)
	_, n = place("new")
	require.Equal(t, 1, n)
	found, n := place(b.ada.Subject)
	require.Equal(t, 3, n)
	ada, err := b.store.FindCustomer(t.Context(), b.ada.Subject)
	require.NoError(t, err)
	require.Equal(t, ada.ID, found)
	_, n = place("newer")
	require.Equal(t, 2, n)
	require.EqualValues(t, 4, b.count("SELECT count(*) FROM customers"))
}
