package db_test

import (
	"cmp"
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
)

func TestEventsAreReadFromAVersionOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	one, two := b.place("TEA-001"), b.place("TEA-001")
	for _, id := range []uuid.UUID{one, two} {
		b.drive(id) // eight events
	}
	page, err := b.store.ListEvents(t.Context(), one, 3, 2)
	require.NoError(t, err)
	require.Equal(t, []int32{4, 5}, versions(page))
	require.Equal(t, millrace.EventPaymentCaptured, page[0].Type)
	require.JSONEq(t, `{"amount_minor":1250,"currency":"EUR","transaction":2}`, string(page[0].Data))
	require.Equal(t, "job:test", page[0].Actor)
	require.Positive(t, page[0].Tx)
	require.Equal(t, time.UTC, page[0].At.Location())

	events, err := b.store.EventsAfter(t.Context(), []millrace.EventCursor{{OrderID: two, After: 6}, {OrderID: one, After: 0}, {OrderID: uuid.New(), After: 0}}, 3)
	require.NoError(t, err)
	require.Equal(t, []int32{1, 2, 3, 7, 8}, versions(events), "at most three of each, by order and version")
	require.Equal(t, one, events[0].OrderID)
	require.Equal(t, two, events[4].OrderID)
	events, err = b.store.EventsAfter(t.Context(), []millrace.EventCursor{{OrderID: one, After: 8}, {OrderID: two, After: 1000}}, 3)
	require.NoError(t, err)
	require.Empty(t, events)
	events, err = b.store.EventsAfter(t.Context(), nil, 3)
	require.NoError(t, err)
	require.Empty(t, events)
}

func versions(events []millrace.Event) (list []int32) {
	for _, e := range events {
		list = append(list, e.Version)
	}
	return list
}

// follower reads all events of a customer, or of all for uuid.Nil, as a stream does that resumes: all that is visible, from the
// watermark of the time before.
type follower struct {
	customer uuid.UUID
	from     int64
	seen     map[millrace.EventPosition]bool
}

func (f *follower) read(ctx context.Context, s *db.Store) error {
	next, err := s.Watermark(ctx)
	if err != nil {
		return err
	}
	var after millrace.EventPosition
	for {
		events, err := s.CustomerEventsSince(ctx, f.customer, f.from, after, 3)
		if err != nil {
			return err
		}
		if len(events) == 0 {
			f.from = next
			return nil
		}
		for _, e := range events {
			if c := compare(e.Position(), after); c <= 0 {
				return millrace.Errorf(millrace.CodeInternal, "events are not in order: %v after %v", e.Position(), after)
			}
			after = e.Position()
			f.seen[after] = true
		}
	}
}

func compare(a, b millrace.EventPosition) int {
	return cmp.Or(cmp.Compare(a.Tx, b.Tx), slices.Compare(a.OrderID[:], b.OrderID[:]), cmp.Compare(a.Version, b.Version))
}

func follow(customer uuid.UUID) *follower {
	return &follower{customer: customer, seen: make(map[millrace.EventPosition]bool)}
}

// An event whose transaction began early and ends late comes up behind those that were read already. From the watermark on it is found.
func TestAnEventThatBecomesVisibleLateIsNotMissed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	early := b.find(b.place("TEA-001"))
	other := b.stores(1)[0]
	tx, err := b.newPool(1).Begin(t.Context())
	require.NoError(t, err)
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	_, err = tx.Exec(t.Context(), `INSERT INTO order_events (order_id, version, type, status, payment_status, fulfillment_status, data, actor, at, customer_id)
		VALUES ($1, 100, 'order.on_hold', 'on_hold', 'unpaid', 'unfulfilled', '{}', 'test', now(), $2)`, early.ID, early.CustomerID)
	require.NoError(t, err)

	all, own := follow(uuid.Nil), follow(early.CustomerID)
	for range 3 {
		require.NoError(t, reserve(t.Context(), other, b.place("TEA-001")))
		require.NoError(t, all.read(t.Context(), b.store))
		require.NoError(t, own.read(t.Context(), b.store))
	}
	before := len(all.seen)
	require.Equal(t, before, len(own.seen))
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, all.read(t.Context(), b.store))
	require.NoError(t, own.read(t.Context(), b.store))
	require.Len(t, all.seen, before+1)
	require.Len(t, own.seen, before+1)
}

func TestFollowersMissNothingWhileManyWrite(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stores := b.stores(4)
	grace := millrace.Principal{Subject: "grace", Email: "grace@example.com"}
	ada, err := b.store.EnsureCustomer(t.Context(), b.ada)
	require.NoError(t, err)
	done := make(chan struct{})
	followed := make(chan error, 2)
	all, own := follow(uuid.Nil), follow(ada.ID)
	for _, f := range []*follower{all, own} {
		go func() {
			for {
				select {
				case <-done:
					followed <- f.read(t.Context(), b.store) // once more for what came last
					return
				default:
				}
				if err := f.read(t.Context(), b.store); err != nil {
					followed <- err
					return
				}
			}
		}()
	}
	b.concurrently(16, func(i int) error {
		s, who := stores[i%4], []millrace.Principal{b.ada, grace}[i%2]
		for range 6 {
			placed, err := s.PlaceOrder(t.Context(), placement(who, uuid.NewString(), request("TEA-001")))
			if err != nil {
				return err
			}
			for _, d := range []deed{reserve, paid, labeled, delivered} {
				if err := d(t.Context(), s, placed.Order.ID); err != nil {
					return err
				}
			}
		}
		return nil
	})
	close(done)
	require.NoError(t, <-followed)
	require.NoError(t, <-followed)
	require.EqualValues(t, b.count("SELECT count(*) FROM order_events"), len(all.seen))
	require.EqualValues(t, b.count("SELECT count(*) FROM order_events WHERE customer_id = $1", ada.ID), len(own.seen))
	require.Len(t, own.seen, 8*6*8)
}

// Rings come after the commit, for each order that changed.
func TestTheDoorbellRingsForWhatCanBeReadByThen(t *testing.T) {
	t.Parallel()
	rung := make(chan millrace.Ring, 100)
	b := setup(t, func(c *db.Config) {
		c.Ring = func(orderID, customerID uuid.UUID) { rung <- millrace.Ring{OrderID: orderID, CustomerID: customerID} }
	})
	id := b.place("TEA-001")
	for version, d := range []deed{nil, reserve, paid, cancel} {
		if d != nil {
			require.NoError(t, d(t.Context(), b.store, id))
		}
		r := <-rung
		require.Equal(t, id, r.OrderID)
		require.Equal(t, b.find(id).CustomerID, r.CustomerID)
		require.Greater(t, int(b.find(id).Version), version)
	}
	require.NoError(t, cancel(t.Context(), b.store, id))
	require.Empty(t, rung, "nothing changed, so nothing rings")
}
