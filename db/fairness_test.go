package db_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
)

// submission is an order by its client's own clock.
type submission struct {
	id                  uuid.UUID
	submitted, answered time.Time
	seq                 int64
	served              bool
}

// rush has 16 clients at several stores place orders for one SKU, one each time, while others ask for stock for any of them in any
// order at any store. It returns the orders in the end, all of which were served or denied.
func (b *testBundle) rush(stores []*db.Store, orders int) []*submission {
	b.t.Helper()
	const clients = 16
	var mu sync.Mutex
	var all []*submission
	var left atomic.Int64
	left.Store(int64(orders))
	placed := make(chan struct{})
	var intake, reserving sync.WaitGroup
	for c := range clients {
		intake.Go(func() {
			for left.Add(-1) >= 0 {
				s := &submission{submitted: time.Now()}
				p, err := stores[c%len(stores)].PlaceOrder(b.t.Context(), placement(b.ada, uuid.NewString(), request("RARE-010")))
				s.id, s.answered = p.Order.ID, time.Now()
				if err != nil {
					b.t.Errorf("place: %v", err)
					return
				}
				mu.Lock()
				all = append(all, s)
				mu.Unlock()
			}
		})
	}
	for range 4 {
		reserving.Go(func() {
			for {
				select {
				case <-placed:
					return
				default:
				}
				mu.Lock()
				var some *submission
				if len(all) > 0 {
					some = pick(all[len(all)/2:]) // rather the young ones, as a job system that is in no order would
				}
				mu.Unlock()
				if some == nil {
					continue
				}
				if err := pick(stores).ReserveStock(b.t.Context(), some.id); err != nil {
					b.t.Errorf("reserve: %v", err)
					return
				}
			}
		})
	}
	intake.Wait()
	close(placed)
	reserving.Wait()
	rest := shuffled(all)
	b.concurrently(len(rest), func(i int) error { return stores[i%len(stores)].ReserveStock(b.t.Context(), rest[i].id) })
	for _, s := range all {
		o := b.find(s.id)
		s.seq, s.served = o.ReceivedSeq, o.Status == millrace.OrderProcessing
		require.True(b.t, s.served || o.Status == millrace.OrderFailed, "order %d is %s", s.seq, o.Status)
	}
	return all
}

// requireFair checks guarantee 3 by the clients' own clocks: when A was acknowledged before B was submitted, A has the lower number,
// and B did not get stock that A was denied.
func requireFair(t *testing.T, all []*submission) {
	t.Helper()
	for _, a := range all {
		for _, b := range all {
			if !a.answered.Before(b.submitted) {
				continue
			}
			require.Less(t, a.seq, b.seq, "acknowledged before the other was submitted")
			require.False(t, b.served && !a.served, "order %d got stock that order %d, acknowledged before it was submitted, was denied", b.seq, a.seq)
		}
	}
}

// Guarantee 3: first come, first served, across processes.
func TestFirstComeIsFirstServed(t *testing.T) {
	t.Parallel()
	oneAndMany(t, func(t *testing.T, change func(*db.Config)) {
		b := setup(t)
		const orders, stock = 240, 90
		b.stock("RARE-010", stock)
		all := b.rush(b.stores(4, change), orders)
		require.Len(t, all, orders)
		served := 0
		for _, s := range all {
			if s.served {
				served++
			}
		}
		require.Equal(t, stock, served, "all that is there is given, and no more")
		requireFair(t, all)
		slices.SortFunc(all, func(a, b *submission) int { return int(a.seq - b.seq) })
		for i, s := range all {
			require.EqualValues(t, i+1, s.seq, "numbers have no hole")
			require.Equal(t, i < stock, s.served, "the first %d of the queue are served, %d is not as it should be", stock, s.seq)
		}
		b.requireSound()
	})
}

// A number that was drawn is taken back with its order, so that no hole is left.
func TestAnOrderThatIsNotWrittenLeavesNoHole(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.find(b.place("TEA-001"))
	var cutter cutter
	cutter.expect(lostBefore)
	_, err := b.newStore(b.cutPool(&cutter)).PlaceOrder(t.Context(), placement(b.ada, "k1", request("TEA-001")))
	requireCode(t, millrace.CodeUnknown, err)
	second := b.find(b.place("TEA-001"))
	require.Equal(t, []int64{1, 2}, []int64{first.ReceivedSeq, second.ReceivedSeq})
	b.requireSound()
}

// Orders of the queue that were canceled or held are passed over, however many they are, and those behind them served.
func TestTheQueueGoesOnBehindOrdersThatWait(t *testing.T) {
	t.Parallel()
	oneAndMany(t, func(t *testing.T, change func(*db.Config)) {
		b := setup(t, change)
		gone, held, last := b.place("TEA-001"), b.place("TEA-001"), b.place("TEA-001")
		_, err := b.store.CancelOrder(t.Context(), gone, "", "customer:ada")
		require.NoError(t, err)
		_, err = b.store.HoldOrder(t.Context(), held, "looks odd", "operator:test")
		require.NoError(t, err)
		require.NoError(t, b.store.ReserveStock(t.Context(), last))
		require.Equal(t, millrace.OrderProcessing, b.find(last).Status)
		require.Equal(t, millrace.OrderCanceled, b.find(gone).Status)
		require.Equal(t, millrace.OrderOnHold, b.find(held).Status)

		// Who missed a turn because it was held gets one after it is released.
		_, err = b.store.ReleaseOrder(t.Context(), held, "operator:test")
		require.NoError(t, err)
		require.NoError(t, b.store.ReserveStock(t.Context(), held))
		require.Equal(t, millrace.OrderProcessing, b.find(held).Status)
		b.requireSound()
	})
}

// Whoever asks, all that came before are served with it.
func TestOneJobServesTheWholeQueue(t *testing.T) {
	t.Parallel()
	b := setup(t)
	ids := b.placeMany(20, "TEA-001")
	last := slices.MaxFunc(ids, func(x, y uuid.UUID) int { return int(b.find(x).ReceivedSeq - b.find(y).ReceivedSeq) })
	require.NoError(t, b.store.ReserveStock(t.Context(), last))
	require.EqualValues(t, len(ids), b.count("SELECT count(*) FROM orders WHERE status = 'processing'"))
	require.EqualValues(t, 2*len(ids), b.count("SELECT count(*) FROM river.river_job"), "each has its next job")
	b.requireSound()
}

func TestStockIsTakenFromAllLocations(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stock("RARE-010", 1)
	_, err := b.store.SetStock(t.Context(), "RARE-010", "annex", 2, "operator:test")
	require.NoError(t, err)
	ids := b.placeMany(4, "RARE-010")
	b.concurrently(len(ids), func(i int) error { return b.store.ReserveStock(t.Context(), ids[i]) })
	require.EqualValues(t, 3, b.count("SELECT count(*) FROM orders WHERE status = 'processing'"))
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM orders WHERE status = 'failed'"))
	b.requireSound()
}

func TestReservingForAnUnknownOrderDoesNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.NoError(t, b.store.ReserveStock(t.Context(), uuid.New()))
}

// Who places an order has his turn before all steps that wait have had theirs: however many they are, he waits for them only so long.
func TestWhoPlacesAnOrderDoesNotWaitForAllSteps(t *testing.T) {
	t.Parallel()
	const steps = 60
	var done atomic.Int64
	b := setup(t)
	ids := b.placeMany(steps, "TEA-001")
	s := b.newStore(b.newPool(4), maxGroup(1), func(c *db.Config) {
		c.Flushes = 1
		c.InTx = func(context.Context, pgx.Tx, []uuid.UUID) error {
			<-time.After(40 * time.Millisecond) // less than what counts as long
			return nil
		}
	})
	var wg sync.WaitGroup
	errs := make([]error, steps)
	for i, id := range ids {
		wg.Go(func() {
			errs[i] = hold(t.Context(), s, id)
			done.Add(1)
		})
	}
	require.Eventually(t, func() bool { return done.Load() > 0 }, time.Minute, time.Millisecond) // by now all others wait
	_, err := s.PlaceOrder(t.Context(), placement(b.ada, uuid.NewString(), request("TEA-001")))
	before := done.Load()
	wg.Wait()
	require.NoError(t, err)
	require.NoError(t, errors.Join(errs...))
	require.Less(t, before, int64(steps-5), "steps had their turn before the order")
	b.requireSound()
}
