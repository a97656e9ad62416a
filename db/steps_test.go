package db_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
)

// deed is a command on an order, as a job or a person gives it.
type deed func(ctx context.Context, s *db.Store, id uuid.UUID) error

// step is a deed of a job, which reads the order first.
func step(f func(ctx context.Context, s *db.Store, o *millrace.Order) (*millrace.Order, error)) deed {
	return func(ctx context.Context, s *db.Store, id uuid.UUID) error {
		o, err := s.WorkOrder(ctx, id)
		if err == nil {
			_, err = f(ctx, s, o)
		}
		return err
	}
}

func reserve(ctx context.Context, s *db.Store, id uuid.UUID) error { return s.ReserveStock(ctx, id) }

func settle(n int32, r millrace.PaymentResult) deed {
	return step(func(ctx context.Context, s *db.Store, o *millrace.Order) (*millrace.Order, error) {
		return s.SettlePayment(ctx, o, n, r, "job:test")
	})
}

func ship(r millrace.LabelResult) deed {
	return step(func(ctx context.Context, s *db.Store, o *millrace.Order) (*millrace.Order, error) {
		return s.SettleShipment(ctx, o, r, "simulated", "job:test")
	})
}

func track(state millrace.ShipmentState) deed {
	return step(func(ctx context.Context, s *db.Store, o *millrace.Order) (*millrace.Order, error) {
		return s.TrackShipment(ctx, o, millrace.TrackResult{State: state}, "job:test")
	})
}

func cancel(ctx context.Context, s *db.Store, id uuid.UUID) error {
	_, err := s.CancelOrder(ctx, id, "changed my mind", "customer:ada")
	return err
}

func hold(ctx context.Context, s *db.Store, id uuid.UUID) error {
	_, err := s.HoldOrder(ctx, id, "looks odd", "operator:test")
	return err
}

func release(ctx context.Context, s *db.Store, id uuid.UUID) error {
	_, err := s.ReleaseOrder(ctx, id, "operator:test")
	return err
}

func resume(ctx context.Context, s *db.Store, id uuid.UUID) error {
	_, err := s.ResumeOrder(ctx, id, "operator:test")
	return err
}

var expire = step(func(ctx context.Context, s *db.Store, o *millrace.Order) (*millrace.Order, error) {
	return s.ExpireOrder(ctx, o, "job:test")
})

var unlabel = step(func(ctx context.Context, s *db.Store, o *millrace.Order) (*millrace.Order, error) {
	return s.ShipmentCanceled(ctx, o, "job:test")
})

func refund(amount int64, key string) deed {
	return func(ctx context.Context, s *db.Store, id uuid.UUID) error {
		_, err := s.RefundOrder(ctx, id, amount, key, "operator:test")
		return err
	}
}

var (
	paid       = settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Gateway: "simulated", Reference: "ch_1", Captured: true})
	authorized = settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Gateway: "simulated", Reference: "ch_1"})
	declined   = settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: "insufficient_funds"})
	mustAct    = settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeRequiresAction, Reference: "ch_1", ActionURL: "/a"})
	lostAnswer = settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeUnknown})
	approved   = func(n int32) deed { return settle(n, millrace.PaymentResult{Outcome: millrace.OutcomeApproved}) }
	labeled    = ship(millrace.LabelResult{Outcome: millrace.OutcomeApproved, Reference: "shp_1", Service: "ground", TrackingNumber: "T1", LabelURL: "/l"})
	noRate     = ship(millrace.LabelResult{Outcome: millrace.OutcomeDeclined, Code: "no_rate"})
	inTransit  = track(millrace.ShipmentInTransit)
	delivered  = track(millrace.ShipmentDelivered)
)

// lives is ways that orders go, each with every kind of row that they write.
var lives = []struct {
	name   string
	policy millrace.PaymentPolicy
	deeds  []deed
	events []string
	status millrace.OrderStatus
	jobs   int64
}{
	{"delivered", millrace.PaymentPolicy{}, []deed{reserve, lostAnswer, paid, labeled, inTransit, delivered},
		[]string{"order.placed", "stock.reserved", "payment.authorized", "payment.captured", "shipment.created", "shipment.in_transit", "shipment.delivered", "order.completed"},
		millrace.OrderCompleted, 4},
	{"captured on shipment", millrace.PaymentPolicy{CaptureOnShipment: true}, []deed{reserve, authorized, labeled, approved(2), delivered},
		[]string{"order.placed", "stock.reserved", "payment.authorized", "shipment.created", "payment.captured", "shipment.in_transit", "shipment.delivered", "order.completed"},
		millrace.OrderCompleted, 5},
	{"declined", millrace.PaymentPolicy{}, []deed{reserve, declined},
		[]string{"order.placed", "stock.reserved", "payment.declined", "order.failed"}, millrace.OrderFailed, 2},
	{"held and released", millrace.PaymentPolicy{}, []deed{reserve, paid, noRate, release, labeled, delivered},
		[]string{"order.placed", "stock.reserved", "payment.authorized", "payment.captured", "order.on_hold", "order.released", "shipment.created", "shipment.in_transit",
			"shipment.delivered", "order.completed"}, millrace.OrderCompleted, 5},
	{"canceled when paid", millrace.PaymentPolicy{}, []deed{reserve, paid, cancel, approved(3), unlabel},
		[]string{"order.placed", "stock.reserved", "payment.authorized", "payment.captured", "order.canceled", "payment.refunded"}, millrace.OrderCanceled, 5},
	{"canceled while its label was bought", millrace.PaymentPolicy{}, []deed{reserve, paid, cancel, labeled, unlabel, approved(3)},
		[]string{"order.placed", "stock.reserved", "payment.authorized", "payment.captured", "order.canceled", "payment.refunded"}, millrace.OrderCanceled, 6},
	{"expired", millrace.PaymentPolicy{ActionTimeout: time.Nanosecond}, []deed{reserve, mustAct, expire, approved(2)},
		[]string{"order.placed", "stock.reserved", "payment.requires_action", "order.expired", "payment.voided"}, millrace.OrderExpired, 3},
	{"refunded in parts", millrace.PaymentPolicy{}, []deed{reserve, paid, labeled, refund(250, "a"), refund(0, "b"), approved(3), approved(4), delivered},
		[]string{"order.placed", "stock.reserved", "payment.authorized", "payment.captured", "shipment.created", "payment.refunded", "payment.refunded",
			"shipment.in_transit", "shipment.delivered", "order.completed"}, millrace.OrderCompleted, 6},
}

// Guarantees 5 and 6: each step, done many times over and beside itself by several processes, is done once. With groups of one and of
// hundreds alike.
func TestAStepThatRunsManyTimesIsDoneOnce(t *testing.T) {
	t.Parallel()
	for _, c := range lives {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			oneAndMany(t, func(t *testing.T, change func(*db.Config)) {
				b := setup(t)
				stores := b.stores(3, change, func(config *db.Config) { config.Policy = c.policy })
				id := b.place("TEA-001", "CUP-002", "TEA-001")
				for _, d := range c.deeds {
					b.concurrently(9, func(i int) error { return d(t.Context(), stores[i%3], id) })
				}
				o := b.find(id)
				require.Equal(t, c.status, o.Status)
				require.Equal(t, c.events, b.events(id))
				require.Equal(t, c.jobs, b.count("SELECT count(*) FROM river.river_job"), "each next step was asked for once")
				require.Equal(t, o.Version, int32(len(c.events)))
				b.requireSound()
			})
		})
	}
}

// What the store loads again is what the domain had in memory, down to the last field.
func TestWhatIsLoadedIsWhatWasWritten(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *db.Config) { c.Policy.ActionTimeout = time.Hour })
	for _, c := range []struct {
		name  string
		deeds []deed
	}{
		{"shipped", []deed{reserve, paid, labeled, inTransit}},
		{"the buyer must act", []deed{reserve, mustAct}},
		{"held", []deed{reserve, paid, noRate}},
		{"canceled", []deed{reserve, paid, cancel, labeled}},
	} {
		id := b.place("TEA-001", "CUP-002")
		for _, d := range c.deeds {
			require.NoError(t, d(t.Context(), b.store, id), c.name)
		}
		// A command that changes nothing returns the order as the domain sees it, with all its parts.
		answered, err := b.store.ResumeOrder(t.Context(), id, "operator:test")
		require.NoError(t, err, c.name)
		found := b.find(id)
		require.Equal(t, found, answered, c.name)
		if c.name == "the buyer must act" {
			require.WithinDuration(t, found.UpdatedAt.Add(time.Hour), *found.Transactions[0].ExpiresAt, 0)
		}
		worked, err := b.store.WorkOrder(t.Context(), id)
		require.NoError(t, err)
		worked.Lines = found.Lines // the one part that no job needs
		require.Equal(t, found, worked, c.name)
	}
}

func TestCommandsOnAnUnknownOrder(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for i, d := range []deed{paid, labeled, delivered, cancel, hold, release, resume, expire, unlabel, refund(1, "a")} {
		require.Equal(t, millrace.CodeNotFound, millrace.ErrorCode(d(t.Context(), b.store, uuid.New())), i)
	}
	_, err := b.store.FindOrder(t.Context(), uuid.New())
	requireCode(t, millrace.CodeNotFound, err)
	_, err = b.store.WorkOrder(t.Context(), uuid.New())
	requireCode(t, millrace.CodeNotFound, err)
}

// Jobs that ask at the same time share their queries; one whose order was deleted by hand finds nothing, and takes nothing from others.
func TestWhatIsLeftOfADeletedOrderHarmsNoReader(t *testing.T) {
	t.Parallel()
	b := setup(t)
	kept, deleted := b.place("TEA-001"), b.place("TEA-001")
	for _, d := range []deed{reserve, paid, labeled} {
		require.NoError(t, d(t.Context(), b.store, kept))
		require.NoError(t, d(t.Context(), b.store, deleted))
	}
	_, err := b.pool.Exec(t.Context(), "DELETE FROM orders WHERE id = $1", deleted)
	require.NoError(t, err)
	free := b.lock("LOCK TABLE orders; SELECT") // so that those who ask meanwhile share what follows
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			o, err := b.store.WorkOrder(t.Context(), kept)
			if assert.NoError(t, err) {
				assert.Equal(t, kept, o.ID)
			}
		})
		wg.Go(func() {
			_, err := b.store.WorkOrder(t.Context(), deleted)
			assert.Equal(t, millrace.CodeNotFound, millrace.ErrorCode(err))
		})
	}
	free()
	wg.Wait()
}

// A command that is refused leaves no trace, and does not spoil those that share its transaction.
func TestARefusedCommandHarmsNoOther(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.store = b.newStore(b.pool, oneFlush)
	id, other := b.place("TEA-001"), b.place("TEA-001")
	for _, d := range []deed{reserve, paid, labeled} {
		require.NoError(t, d(t.Context(), b.store, id))
		require.NoError(t, d(t.Context(), b.store, other))
	}
	before := b.find(id)
	free := b.lock(fmt.Sprintf("SELECT FROM orders WHERE id = '%s'", other)) // so that those that follow share a transaction
	var wg sync.WaitGroup
	run := func(want millrace.Code, d deed, id uuid.UUID) {
		wg.Go(func() {
			if code := millrace.ErrorCode(d(t.Context(), b.store, id)); code != want {
				t.Errorf("got %q, want %q", code, want)
			}
		})
	}
	run("", resume, other)
	b.untilBlocked(1)
	for range 5 {
		run(millrace.CodeConflict, cancel, id)
		run(millrace.CodeConflict, refund(1_000_000, "a"), id)
		run(millrace.CodeNotFound, cancel, uuid.New())
		run("", inTransit, other)
	}
	require.Eventually(t, func() bool { return b.store.Waiting()["step"] == 20 }, soon, time.Millisecond)
	free()
	wg.Wait()
	require.Equal(t, before, b.find(id))
	require.Equal(t, millrace.ShipmentInTransit, b.find(other).Shipment.State)
	b.requireSound()
}

// Commands on one order that share a transaction see each other's changes, in the order in which they came; each caller gets an answer
// of its own.
func TestStepsOfOneOrderMayShareATransaction(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.store = b.newStore(b.pool, oneFlush)
	id, other := b.place("TEA-001"), b.place("TEA-001")
	require.NoError(t, b.store.ReserveStock(t.Context(), id))
	free := b.lock(fmt.Sprintf("SELECT FROM orders WHERE id = '%s'", other))
	var wg sync.WaitGroup
	wg.Go(func() { _ = resume(t.Context(), b.store, other) })
	b.untilBlocked(1)
	answers := make(chan *millrace.Order, 10)
	queue := func(f func() (*millrace.Order, error)) {
		waiting := b.store.Waiting()["step"]
		wg.Go(func() {
			o, err := f()
			if err != nil {
				t.Error(err)
			}
			answers <- o
		})
		require.Eventually(t, func() bool { return b.store.Waiting()["step"] > waiting }, soon, time.Millisecond)
	}
	payment := func(r millrace.PaymentResult) {
		queue(func() (*millrace.Order, error) {
			return b.store.SettlePayment(t.Context(), b.find(id), 1, r, "job:test")
		})
	}
	parcel := func(s millrace.ShipmentState) {
		queue(func() (*millrace.Order, error) {
			return b.store.TrackShipment(t.Context(), b.find(id), millrace.TrackResult{State: s}, "job:test")
		})
	}
	payment(millrace.PaymentResult{Outcome: millrace.OutcomeUnknown})
	payment(millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: "ch_1", Captured: true})
	queue(func() (*millrace.Order, error) {
		return b.store.SettleShipment(t.Context(), b.find(id), millrace.LabelResult{Outcome: millrace.OutcomeApproved, TrackingNumber: "T1"}, "simulated", "job:test")
	})
	parcel(millrace.ShipmentInTransit)
	parcel(millrace.ShipmentInTransit)
	parcel(millrace.ShipmentDelivered)
	free()
	wg.Wait()
	close(answers)
	seen := make(map[*millrace.Order]bool)
	for o := range answers {
		require.False(t, seen[o], "two callers got the same order to change")
		seen[o] = true
	}
	require.Len(t, seen, 6)
	o := b.find(id)
	require.Equal(t, millrace.OrderCompleted, o.Status)
	require.Equal(t, millrace.ShipmentDelivered, o.Shipment.State)
	require.Len(t, b.events(id), 8)
	require.EqualValues(t, 1, b.count("SELECT count(DISTINCT tx) FROM order_events WHERE order_id = $1 AND version > 2", id), "in one transaction")
	b.requireSound()
}

// Steps and allocations that wait for somebody's lock keep nobody from placing an order.
func TestIntakeGoesOnWhileAllElseWaits(t *testing.T) {
	t.Parallel()
	b := setup(t)
	held, queued := b.place("TEA-001"), b.place("TEA-001")
	freeOrder := b.lock(fmt.Sprintf("SELECT FROM orders WHERE id = '%s'", held))
	freeTurn := b.lock("SELECT FROM counters WHERE name = 'allocated'")
	stuck := make(chan error, 2)
	go func() { stuck <- hold(t.Context(), b.store, held) }()
	go func() { stuck <- b.store.ReserveStock(t.Context(), queued) }()
	b.untilBlocked(2)
	for range 3 {
		b.place("TEA-001")
	}
	require.Empty(t, stuck)
	freeOrder()
	freeTurn()
	require.NoError(t, <-stuck)
	require.NoError(t, <-stuck)
	b.requireSound()
}

// Stock that an operator takes away at the same moment is not given to anyone.
func TestStockThatIsTakenAwayMeanwhileIsNotGiven(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place("RARE-010")
	tx, err := b.newPool(1).Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `UPDATE inventory_levels SET on_hand = 0 WHERE sku = 'RARE-010'`)
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), `INSERT INTO inventory_adjustments (sku, location, delta, actor, at) VALUES ('RARE-010', 'main', -10, 'operator:test', now())`)
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- b.store.ReserveStock(t.Context(), id) }()
	b.untilBlocked(1)
	require.NoError(t, tx.Commit(t.Context()))
	require.NoError(t, <-done)
	require.Equal(t, millrace.OrderFailed, b.find(id).Status)
	b.requireSound()
}

// Guarantee 4, and no deadlock: few orders, few SKUs, every command, from everywhere.
func TestStockIsConservedWhateverHappens(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.stock("TEA-001", 30)
	b.stock("CUP-002", 20)
	stores := b.stores(4, func(c *db.Config) { c.Policy.ActionTimeout = time.Nanosecond })
	stores[3] = b.newStore(b.newPool(4), maxGroup(1), func(c *db.Config) { c.Policy.CaptureOnShipment = true })
	var mu sync.Mutex
	ids := b.placeMany(6, "TEA-001", "CUP-002", "RARE-010")
	order := func() uuid.UUID {
		mu.Lock()
		defer mu.Unlock()
		return pick(ids[max(0, len(ids)-12):])
	}
	place := func(ctx context.Context, s *db.Store, _ uuid.UUID) error {
		skus := shuffled([]string{"TEA-001", "CUP-002", "RARE-010", "TEA-001"})[:1+rand.N(4)]
		placed, err := s.PlaceOrder(ctx, placement(b.ada, uuid.NewString(), request(skus...)))
		mu.Lock()
		ids = append(ids, placed.Order.ID)
		mu.Unlock()
		return err
	}
	stock := func(ctx context.Context, s *db.Store, _ uuid.UUID) error {
		_, err := s.SetStock(ctx, pick([]string{"TEA-001", "CUP-002", "RARE-010"}), pick([]string{"annex", "main"}), rand.Int64N(40), "operator:test")
		return err
	}
	erase := func(ctx context.Context, s *db.Store, _ uuid.UUID) error { return s.EraseCustomer(ctx, "ada") }
	sweep := func(ctx context.Context, s *db.Store, id uuid.UUID) error {
		_, err := s.RescueStranded(ctx, []uuid.UUID{id}, "stranded", "job:sweep")
		return err
	}
	book := func(ctx context.Context, s *db.Store, _ uuid.UUID) error { return s.BookShipped(ctx) }
	any := func(r millrace.PaymentResult) deed {
		return func(ctx context.Context, s *db.Store, id uuid.UUID) error {
			return settle(1+rand.Int32N(4), r)(ctx, s, id)
		}
	}
	deeds := []deed{place, place, reserve, reserve, reserve, any(millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Captured: true}),
		any(millrace.PaymentResult{Outcome: millrace.OutcomeApproved}), any(millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Captured: true}), declined, mustAct,
		any(millrace.PaymentResult{Outcome: millrace.OutcomeUnknown}), labeled, labeled, noRate, inTransit, delivered, delivered, cancel, hold, release, release, resume, expire,
		refund(1, "a"), refund(0, "b"), unlabel, stock, erase, sweep, book}
	const workers, each = 12, 100
	b.concurrently(workers, func(i int) error {
		for range each {
			err := pick(deeds)(t.Context(), pick(stores), order())
			switch millrace.ErrorCode(err) {
			case "", millrace.CodeConflict, millrace.CodeNotFound:
			default:
				return err // unavailable would be a deadlock, internal_error a broken rule of the schema
			}
		}
		return nil
	})
	b.requireSound()
	seen := b.count("SELECT count(DISTINCT type) FROM order_events")
	require.Greater(t, seen, int64(8), "much happened")
	require.Zero(t, b.deadlocks())
}

// deadlocks is how many the server counted in this database. Sessions report when they end.
func (b *testBundle) deadlocks() (n int64) {
	b.t.Helper()
	conn, err := pgx.Connect(b.t.Context(), b.url)
	require.NoError(b.t, err)
	defer conn.Close(b.t.Context())
	_, err = conn.Exec(b.t.Context(), "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	require.NoError(b.t, err)
	require.NoError(b.t, conn.QueryRow(b.t.Context(), "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").Scan(&n))
	return n
}

// The same commands give the same results in groups of one and of hundreds.
func TestGroupsOfOneAndOfHundredsGiveTheSame(t *testing.T) {
	t.Parallel()
	type result struct {
		events []string
		status millrace.OrderStatus
	}
	run := func(change func(*db.Config)) ([]result, []millrace.InventoryLevel, int64) {
		b := setup(t, change, func(c *db.Config) { c.Policy.ActionTimeout = time.Nanosecond })
		ids := b.placeMany(10*len(lives), "TEA-001", "CUP-002")
		results := make([]result, len(ids))
		b.concurrently(len(ids), func(i int) error {
			for _, d := range lives[i%len(lives)].deeds {
				if err := d(t.Context(), b.store, ids[i]); err != nil && millrace.ErrorCode(err) != millrace.CodeConflict && millrace.ErrorCode(err) != millrace.CodeNotFound {
					return err
				}
			}
			return nil
		})
		for i, id := range ids {
			results[i] = result{b.events(id), b.find(id).Status}
		}
		levels, err := b.store.ListStock(t.Context(), "TEA-001")
		require.NoError(t, err)
		b.requireSound()
		return results, levels, b.count("SELECT count(*) FROM river.river_job")
	}
	results1, levels1, jobs1 := run(maxGroup(1))
	results2, levels2, jobs2 := run(maxGroup(256))
	require.Equal(t, results1, results2)
	require.Equal(t, levels1, levels2)
	require.Equal(t, jobs1, jobs2)
}
