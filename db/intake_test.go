package db_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
)

// Guarantee 2: one customer and key make one order.

func TestAReplayGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := b.stores(1)[0]
	p := placement(b.ada, "k1", request("TEA-001"))
	first, err := b.store.PlaceOrder(t.Context(), p)
	require.NoError(t, err)
	require.False(t, first.Replayed)
	asFirst := func(s *db.Store) {
		again, err := s.PlaceOrder(t.Context(), p)
		require.NoError(t, err)
		require.Equal(t, db.Placed{Order: first.Order, Replayed: true}, again)
	}
	asFirst(b.store)
	b.drive(first.Order.ID)
	asFirst(other)
	asFirst(b.store)
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM orders"))
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM river.river_job WHERE kind = 'reserve_stock'"))
	b.requireSound()
}

func TestAnotherRequestUnderAUsedKeyIsRefused(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.store.PlaceOrder(t.Context(), placement(b.ada, "k1", request("TEA-001")))
	require.NoError(t, err)
	for _, s := range []*db.Store{b.store, b.stores(1)[0]} {
		_, err = s.PlaceOrder(t.Context(), placement(b.ada, "k1", request("TEA-001", "CUP-002")))
		requireCode(t, millrace.CodeKeyReused, err)
	}
	grace := millrace.Principal{Subject: "grace", Email: "grace@example.com"}
	placed, err := b.store.PlaceOrder(t.Context(), placement(grace, "k1", request("TEA-001")))
	require.NoError(t, err, "a key is its customer's own")
	require.False(t, placed.Replayed)
	require.EqualValues(t, 2, b.count("SELECT count(*) FROM orders"))
}

func TestAKeyWhoseFirstRequestIsUnderWaySaysSo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := b.stores(1)[0]
	p := placement(b.ada, "k1", request("TEA-001"))
	release := b.lock(intakeCounter)
	type result struct {
		placed db.Placed
		err    error
	}
	place := func(s *db.Store) <-chan result {
		done := make(chan result, 1)
		go func() {
			placed, err := s.PlaceOrder(t.Context(), p)
			done <- result{placed, err}
		}()
		return done
	}
	first := place(b.store)
	b.untilBlocked(1)
	_, err := b.store.PlaceOrder(t.Context(), p)
	requireCode(t, millrace.CodeInFlight, err)
	elsewhere := place(other) // another process waits for the first, and answers as it did
	b.untilBlocked(2)
	release()
	one, two := <-first, <-elsewhere
	require.NoError(t, one.err)
	require.NoError(t, two.err)
	require.False(t, one.placed.Replayed)
	require.Equal(t, db.Placed{Order: one.placed.Order, Replayed: true}, two.placed)
	b.requireSound()
}

func TestOneKeyMakesOneOrderHoweverManyAsk(t *testing.T) {
	t.Parallel()
	oneAndMany(t, func(t *testing.T, change func(*db.Config)) {
		b := setup(t)
		stores := b.stores(3, change)
		p := placement(b.ada, "k1", request("TEA-001"))
		var made atomic.Int32
		var ids sync.Map
		b.concurrently(100, func(i int) error {
			for {
				placed, err := stores[i%3].PlaceOrder(t.Context(), p)
				if millrace.ErrorCode(err) == millrace.CodeInFlight {
					<-time.After(5 * time.Millisecond) // a client is told to come back
					continue
				}
				if err != nil {
					return err
				}
				if !placed.Replayed {
					made.Add(1)
				}
				ids.Store(placed.Order.ID, true)
				return nil
			}
		})
		require.EqualValues(t, 1, made.Load())
		n := 0
		ids.Range(func(any, any) bool { n++; return true })
		require.Equal(t, 1, n, "all are told of the same order")
		require.EqualValues(t, 1, b.count("SELECT count(*) FROM orders"))
		b.requireSound()
	})
}

// Two processes that are sent the same keys in opposite orders must not wait for each other for ever.
func TestManyKeysAtSeveralStoresMakeOneOrderEach(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stores := b.stores(3)
	const keys = 60
	b.concurrently(3*keys, func(i int) error {
		k := i / 3
		if i%3 == 1 {
			k = keys - 1 - k
		}
		_, err := stores[i%3].PlaceOrder(t.Context(), placement(b.ada, fmt.Sprint("k", k), request("TEA-001")))
		return err
	})
	require.EqualValues(t, keys, b.count("SELECT count(*) FROM orders"))
	b.requireSound()
}

func TestWhoHadAnAnswerLostFindsTheOrderUnderItsKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	p := placement(b.ada, "k1", request("TEA-001"))
	release := b.lock(intakeCounter)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := b.store.PlaceOrder(ctx, p)
		left <- err
	}()
	b.untilBlocked(1)
	cancel() // the client hangs up while its order is being written
	requireCode(t, millrace.CodeUnknown, <-left)
	release()
	placed, err := b.store.PlaceOrder(t.Context(), p)
	require.NoError(t, err)
	require.True(t, placed.Replayed, "the flush went on without the caller")
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM orders"))
}

// A bad order among a hundred others fails alone, however it is bad.
func TestABadOrderFailsAlone(t *testing.T) {
	t.Parallel()
	var sizes sync.Map
	b := setup(t, func(c *db.Config) {
		c.Observe = func(kind string, size int, _, _ time.Duration) {
			if kind == "intake" {
				sizes.Store(size, true)
			}
		}
	}, oneFlush)
	_, err := b.store.PutProduct(t.Context(), millrace.Product{SKU: "MAX-005", Name: "Max", PriceMinor: millrace.MaxAmount, Currency: "EUR", Active: true})
	require.NoError(t, err)
	good := func(i int) db.PlaceOrder {
		return placement(b.ada, fmt.Sprint("good ", i), request("TEA-001", "CUP-002"))
	}
	bad := map[string]struct {
		place db.PlaceOrder
		code  millrace.Code
	}{
		"unknown SKU":             {placement(b.ada, "bad 1", request("NIL-000")), millrace.CodeInvalid},
		"overflow":                {placement(b.ada, "bad 2", request("MAX-005", "MAX-005")), millrace.CodeInvalid},
		"refused by the database": {placement(b.ada, "bad \x00 3", request("TEA-001")), millrace.CodeInternal},
	}

	// While the counter is locked the first order is being written and all others wait together.
	release := b.lock(intakeCounter)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := b.store.PlaceOrder(t.Context(), good(0))
		if err != nil {
			t.Error(err)
		}
	})
	b.untilBlocked(1)
	for i := 1; i <= 100; i++ {
		wg.Go(func() {
			if _, err := b.store.PlaceOrder(t.Context(), good(i)); err != nil {
				t.Errorf("neighbour %d: %v", i, err)
			}
		})
	}
	for name, c := range bad {
		wg.Go(func() {
			_, err := b.store.PlaceOrder(t.Context(), c.place)
			if code := millrace.ErrorCode(err); code != c.code {
				t.Errorf("%s: got %q, want %q (%v)", name, code, c.code, err)
			}
		})
	}
	require.Eventually(t, func() bool { return b.store.Waiting()["intake"] == 100+len(bad) }, soon, time.Millisecond)
	release()
	wg.Wait()
	require.Eventually(t, func() bool { // a group is observed after its callers were answered
		_, grouped := sizes.Load(100 + len(bad))
		return grouped
	}, soon, time.Millisecond, "they were one group")
	require.EqualValues(t, 101, b.count("SELECT count(*) FROM orders"))
	b.requireSound()
}

func TestIntakeThatIsFullSaysSoAtOnce(t *testing.T) {
	t.Parallel()
	b := setup(t)
	small := b.newStore(b.pool, func(c *db.Config) { c.MaxGroup, c.MaxQueue, c.Flushes = 1, 1, 1 })
	release := b.lock(intakeCounter)
	done := make(chan error, 2)
	place := func(key string) {
		_, err := small.PlaceOrder(t.Context(), placement(b.ada, key, request("TEA-001")))
		done <- err
	}
	go place("k1")
	b.untilBlocked(1)
	go place("k2")
	require.Eventually(t, func() bool { return small.Waiting()["intake"] == 1 }, soon, time.Millisecond)
	_, err := small.PlaceOrder(t.Context(), placement(b.ada, "k3", request("TEA-001")))
	requireCode(t, millrace.CodeBusy, err)
	release()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	_, err = small.PlaceOrder(t.Context(), placement(b.ada, "k3", request("TEA-001")))
	require.NoError(t, err, "who was told to come back is served then, under the same key")
	require.EqualValues(t, 3, b.count("SELECT count(*) FROM orders"))
}

func TestAClosedStoreRefusesCommands(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.newStore(b.pool)
	id := b.place("TEA-001")
	s.Close()
	_, err := s.PlaceOrder(t.Context(), placement(b.ada, "k1", request("TEA-001")))
	requireCode(t, millrace.CodeUnavailable, err)
	_, err = s.CancelOrder(t.Context(), id, "", "customer:ada")
	requireCode(t, millrace.CodeUnavailable, err)
	requireCode(t, millrace.CodeUnavailable, s.ReserveStock(t.Context(), id))
}

func TestIntakeTakesPricesAddressAndEmailFromWhatIsStored(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := request("TEA-001")
	r.ShipTo = nil
	_, err := b.store.PlaceOrder(t.Context(), placement(b.ada, "k1", r))
	requireCode(t, millrace.CodeInvalid, err)
	require.Zero(t, b.count("SELECT count(*) FROM orders")+b.count("SELECT count(*) FROM idempotency_keys"), "a refused order writes nothing, so its key is free")

	address := millrace.Address{Name: "Ada", Line1: "2 Mill Lane", City: "Bath", Country: "GB"}
	email := "orders@example.com"
	_, err = b.store.UpdateCustomer(t.Context(), b.ada, db.CustomerUpdate{Address: &address, Email: &email})
	require.NoError(t, err)
	_, err = b.store.PutProduct(t.Context(), millrace.Product{SKU: "TEA-001", Name: "Fine tea", PriceMinor: 1999, Currency: "EUR", Active: true})
	require.NoError(t, err)
	placed, err := b.store.PlaceOrder(t.Context(), placement(millrace.Principal{Subject: "ada"}, "k1", r))
	require.NoError(t, err)
	o := b.find(placed.Order.ID)
	require.Equal(t, &address, o.ShipTo)
	require.Equal(t, email, o.Email)
	require.Equal(t, int64(1999), o.TotalMinor, "a price that was changed before the order is the order's")
	require.Equal(t, "Fine tea", o.Lines[0].Name)

	_, err = b.store.PutProduct(t.Context(), millrace.Product{SKU: "TEA-001", Name: "Fine tea", PriceMinor: 1, Currency: "EUR"})
	require.NoError(t, err)
	require.Equal(t, int64(1999), b.find(placed.Order.ID).TotalMinor, "and stays it")
	_, err = b.store.PlaceOrder(t.Context(), placement(b.ada, "k2", r))
	requireCode(t, millrace.CodeInvalid, err)
}

func TestOldKeysAreForgotten(t *testing.T) {
	t.Parallel()
	now := time.Now()
	b := setup(t, func(c *db.Config) { c.Now = func() time.Time { return now.Add(-8 * 24 * time.Hour) } })
	old := b.place("TEA-001")
	fresh := b.newStore(b.pool)
	placed, err := fresh.PlaceOrder(t.Context(), placement(b.ada, uuid.NewString(), request("TEA-001")))
	require.NoError(t, err)
	n, err := fresh.DropOldKeys(t.Context(), now.Add(-7*24*time.Hour))
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	require.Zero(t, b.count("SELECT count(*) FROM idempotency_keys WHERE order_id = $1", old))
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM idempotency_keys WHERE order_id = $1", placed.Order.ID))
}

func TestARequestThatCannotSucceedMakesNoCustomer(t *testing.T) {
	t.Parallel()
	b := setup(t)
	stranger := millrace.Principal{Subject: "a stranger", Email: "new@example.com"}
	_, err := b.store.PlaceOrder(t.Context(), placement(stranger, "k1", request("NO-SUCH-SKU")))
	require.Equal(t, millrace.CodeInvalid, millrace.ErrorCode(err))
	require.Zero(t, b.count("SELECT count(*) FROM customers WHERE subject = 'a stranger'"))
	_, err = b.store.PlaceOrder(t.Context(), placement(stranger, "k1", request("TEA-001")))
	require.NoError(t, err)
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM customers WHERE subject = 'a stranger'"))
}

// Newcomers are made along with their first order: once, whoever else makes them at the same time, and though the order of another
// fails, or their own first one.
func TestNewcomersAreMadeOnceWithTheirFirstOrder(t *testing.T) {
	t.Parallel()
	oneAndMany(t, func(t *testing.T, change func(*db.Config)) {
		const newcomers, ordersEach = 20, 6
		b := setup(t)
		stores := b.stores(3, change)
		skus := []string{"TEA-001", "TEA-001", "TEA-001", "TEA-001", "TEA-001", "NO-SUCH-SKU"}
		release := b.lock(intakeCounter) // so that they are many in a group
		time.AfterFunc(100*time.Millisecond, release)
		b.concurrently(newcomers*ordersEach, func(i int) error {
			who, which := i/ordersEach, i%ordersEach
			subject := fmt.Sprint("newcomer ", who)
			key := fmt.Sprint("order ", which)
			if which == 1 && who%5 == 0 {
				key = "bad \x00" // refused by the database
			}
			_, err := stores[i%len(stores)].PlaceOrder(t.Context(), placement(millrace.Principal{Subject: subject, Email: "new@example.com", Name: subject}, key, request(skus[which])))
			want := millrace.Code("")
			switch {
			case skus[which] == "NO-SUCH-SKU":
				want = millrace.CodeInvalid
			case key != fmt.Sprint("order ", which):
				want = millrace.CodeInternal
			}
			if code := millrace.ErrorCode(err); code != want {
				return fmt.Errorf("of %s, order %d: %q instead of %q (%w)", subject, which, code, want, err)
			}
			return nil
		})
		require.EqualValues(t, newcomers, b.count("SELECT count(*) FROM customers WHERE subject LIKE 'newcomer %' AND name = subject AND email = 'new@example.com'"))
		require.EqualValues(t, newcomers, b.count(`SELECT count(*) FROM (SELECT customer_id FROM orders o JOIN customers c ON c.id = o.customer_id
			JOIN idempotency_keys k ON k.order_id = o.id AND k.principal = c.subject GROUP BY 1 HAVING count(*) >= 4) x`))
		require.EqualValues(t, newcomers*5-4, b.count("SELECT count(*) FROM orders"))
		b.requireSound()
	})
}

// A newcomer whom another process made while their order was being written is found, and the order is theirs.
func TestANewcomerWhomAnotherProcessMakesMeanwhileIsFound(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := b.stores(1)[0]
	grace := millrace.Principal{Subject: "grace", Email: "grace@example.com"}
	release := b.lock(intakeCounter)
	done := make(chan error, 1)
	go func() {
		_, err := b.store.PlaceOrder(t.Context(), placement(grace, "k1", request("TEA-001")))
		done <- err
	}()
	b.untilBlocked(1) // grace is inserted by now, and not committed
	go func() {
		_, err := other.PlaceOrder(t.Context(), placement(grace, "k2", request("CUP-002")))
		done <- err
	}()
	b.untilBlocked(2)
	release()
	require.NoError(t, <-done)
	require.NoError(t, <-done)
	require.EqualValues(t, 2, b.count("SELECT count(*) FROM orders o JOIN customers c ON c.id = o.customer_id WHERE c.subject = 'grace'"))
	b.requireSound()
}

// Whatever changes while an order is being taken in, and however often, it is taken in. Each try asks for the time twice, before and
// after it has looked at everything.
func TestAnOrderIsTakenInWhateverChangesMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t)
	other := b.stores(1)[0]
	lin := millrace.Principal{Subject: "lin", Email: "lin@example.com"}
	p := placement(lin, "k1", request("TEA-001"))
	asked := 0
	s := b.newStore(b.newPool(4), func(c *db.Config) {
		c.Now = func() time.Time {
			asked++
			switch try := asked / 2; {
			case asked%2 == 1:
			case try <= 5: // each by a price that is outdated when it is written
				_, err := b.store.PutProduct(t.Context(), tea(2000+int64(try)))
				require.NoError(t, err)
			case try == 6: // with the catalogue held still
				_, err := other.EnsureCustomer(t.Context(), lin)
				require.NoError(t, err)
			case try == 7:
				_, err := other.PlaceOrder(t.Context(), placement(lin, "k1", request("TEA-001")))
				require.NoError(t, err)
			}
			return time.Now()
		}
	})
	placed, err := s.PlaceOrder(t.Context(), p)
	require.NoError(t, err)
	require.True(t, placed.Replayed, "the key was used meanwhile")
	require.Equal(t, 7*2+1, asked, "seven tries, and one that found the key")
	require.EqualValues(t, 2005, b.find(placed.Order.ID).TotalMinor)
	require.EqualValues(t, 1, b.count("SELECT count(*) FROM orders"))
	b.requireSound()
}
