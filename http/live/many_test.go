package live

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"millrace"
)

// ledger checks what a stream of many orders carries: each order's versions from a first on, without a hole. Repeats are counted.
type ledger struct {
	versions map[uuid.UUID]int32
	repeats  int
}

func newLedger() *ledger { return &ledger{versions: make(map[uuid.UUID]int32)} }

func (l *ledger) add(b block) error {
	last := l.versions[b.body.OrderID]
	switch {
	case b.body.Version <= last:
		l.repeats++
	case b.body.Version == last+1:
		l.versions[b.body.OrderID]++
	default:
		return fmt.Errorf("order %s: version %d after %d", b.body.OrderID, b.body.Version, last)
	}
	return nil
}

func (l *ledger) has(want map[uuid.UUID]int32) bool {
	for order, version := range want {
		if l.versions[order] < version {
			return false
		}
	}
	return true
}

// read reads until the ledger has all that is wanted.
func (c *client) read(l *ledger, want map[uuid.UUID]int32) {
	c.t.Helper()
	for !l.has(want) {
		b, err := c.event()
		if err == nil {
			err = l.add(b)
		}
		if err != nil {
			c.t.Fatalf("%v; have %v, want %v", err, l.versions, want)
		}
	}
}

// settle returns once no transaction that is older than the events so far is running, in whatever database of the server.
func (s *store) settle() {
	s.t.Helper()
	eventually(s.t, "old transactions end", func() bool {
		var settled bool
		err := s.pool.QueryRow(s.t.Context(), `SELECT max(tx) < pg_snapshot_xmin(pg_current_snapshot())::text::bigint FROM order_events`).Scan(&settled)
		return err == nil && settled
	})
}

func TestCustomerStreamCarriesThatCustomersOrdersAlone(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{})
	mine, other := uuidNew(), uuidNew()
	old := s.order(mine)
	s.mustWrite(old, 3)
	s.settle()

	c, all := n.open(n.manyURL(mine)), n.open(n.manyURL(uuid.Nil))
	a, b, foreign := s.order(mine), s.order(mine), s.order(other)
	for range 4 {
		s.mustWrite(foreign, 1)
		s.mustWrite(a, 1)
		s.mustWrite(b, 2)
	}
	s.mustWrite(old, 1)

	l := newLedger()
	l.versions[old.OrderID] = 3
	c.read(l, map[uuid.UUID]int32{a.OrderID: 4, b.OrderID: 8, old.OrderID: 4})
	if l.versions[foreign.OrderID] != 0 {
		t.Error("a customer was sent another's events")
	}
	if l.repeats != 0 {
		t.Errorf("%d repeats on a stream that never broke", l.repeats)
	}
	l = newLedger()
	l.versions[old.OrderID] = 3
	all.read(l, map[uuid.UUID]int32{a.OrderID: 4, b.OrderID: 8, old.OrderID: 4, foreign.OrderID: 4})
}

func TestNewStreamOfManyOrdersBeginsWithNow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{})
	o := s.order(uuidNew())
	s.mustWrite(o, 3)
	s.settle()
	c := n.open(n.manyURL(o.CustomerID))
	s.mustWrite(o, 1)
	b, err := c.event()
	if err != nil || b.body.Version != 4 {
		t.Errorf("first event %+v, %v; want version 4", b.body, err)
	}
}

func TestStreamOfManyOrdersResumesWithoutLoss(t *testing.T) {
	t.Parallel()
	for _, everyone := range []bool{false, true} {
		t.Run(fmt.Sprintf("everyone=%v", everyone), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			newDoorbell(t, s)
			// With pages of 256, what is missed takes several, and more comes up while they are read.
			n := newNode(t, s, nodeOptions{configure: func(c *Config) { c.ManyBuffer = 300 }})
			customer := uuidNew()
			url := n.manyURL(customer)
			if everyone {
				url = n.manyURL(uuid.Nil)
			}
			c := n.open(url)
			want := map[uuid.UUID]int32{}
			orders := make([]millrace.Ring, 60)
			for i := range orders {
				orders[i] = s.order(customer)
				want[orders[i].OrderID] = 1
				s.mustWrite(orders[i], 1)
			}
			l := newLedger()
			c.read(l, want)
			c.close()

			for range 2 {
				for _, o := range orders {
					s.mustWrite(o, 5)
					want[o.OrderID] += 5
				}
			}
			written := make(chan error, 1)
			go func() {
				for range 3 {
					for _, o := range orders {
						if err := s.write(t.Context(), o, 1); err != nil {
							written <- err
							return
						}
					}
				}
				written <- nil
			}()
			c = n.open(url, "Last-Event-ID", c.lastID)
			c.read(l, want)
			if err := <-written; err != nil {
				t.Fatal(err)
			}
			for _, o := range orders {
				want[o.OrderID] += 3
			}
			c.read(l, want)

			// A client that has seen no event at all has an id to resume from as well.
			quiet := n.open(url)
			quiet.close()
			s.mustWrite(orders[0], 1)
			l2 := newLedger()
			l2.versions[orders[0].OrderID] = want[orders[0].OrderID]
			again := n.open(url, "Last-Event-ID", quiet.lastID)
			for l2.versions[orders[0].OrderID] == want[orders[0].OrderID] {
				b, err := again.event()
				if err != nil {
					t.Fatal(err)
				}
				if b.body.OrderID == orders[0].OrderID {
					if err := l2.add(b); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// A transaction that began first but commits last has a low id: events with higher ones are sent before it, and a cursor must not
// skip it.
func TestCursorWaitsForTransactionsThatAreStillRunning(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{})
	customer := uuidNew()
	slow, quick := s.order(customer), s.order(customer)
	c := n.open(n.manyURL(customer))

	tx, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(t.Context())
	if err := insert(t.Context(), tx, slow, 1, millrace.OrderPending); err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	for v := range int32(3) {
		s.mustWrite(quick, 1)
		c.read(l, map[uuid.UUID]int32{quick.OrderID: v + 1})
		n.hub.kickSweep()
	}
	finds := n.hub.Stats().Reads
	eventually(t, "sweeps go on", func() bool { n.hub.kickSweep(); return n.hub.Stats().Reads > finds+3 })
	s.mustWrite(quick, 1)
	c.read(l, map[uuid.UUID]int32{quick.OrderID: 4})
	c.close()

	if err := tx.Commit(t.Context()); err != nil { // and nobody rings for it
		t.Fatal(err)
	}
	again := n.open(n.manyURL(customer), "Last-Event-ID", c.lastID)
	again.read(l, map[uuid.UUID]int32{slow.OrderID: 1})
}

// The later version of an order may have the lower transaction id. History is read by transaction, yet versions come in order.
func TestResumedStreamKeepsVersionsInOrderAgainstTransactionIDs(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	n := newNode(t, s, nodeOptions{deaf: true})
	customer := uuidNew()
	inverted := s.order(customer)
	c := n.open(n.manyURL(customer))
	c.close()

	first, err := s.pool.Begin(t.Context()) // draws the lower id
	if err != nil {
		t.Fatal(err)
	}
	defer first.Rollback(t.Context())
	if err := insert(t.Context(), first, s.order(customer), 1, millrace.OrderPending); err != nil {
		t.Fatal(err)
	}
	s.mustWrite(inverted, 1) // version 1 under a higher id
	for range resumePage {   // so many events that the two are on different pages
		if err := insert(t.Context(), first, s.order(customer), 1, millrace.OrderPending); err != nil {
			t.Fatal(err)
		}
	}
	if err := insert(t.Context(), first, inverted, 1, millrace.OrderPending); err != nil { // version 2 under the lower
		t.Fatal(err)
	}
	if err := first.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	var descending bool
	if err := s.pool.QueryRow(t.Context(), `SELECT (SELECT tx FROM order_events WHERE order_id = $1 AND version = 1)
		> (SELECT tx FROM order_events WHERE order_id = $1 AND version = 2)`, inverted.OrderID).Scan(&descending); err != nil || !descending {
		t.Fatalf("the set-up does not invert transactions: %v", err)
	}
	l := newLedger()
	n.open(n.manyURL(customer), "Last-Event-ID", c.lastID).read(l, map[uuid.UUID]int32{inverted.OrderID: 2})
}

// What is committed behind the back of a stream that reads its history is held for it, or read in another pass where it is too much.
func TestResumedStreamGetsWhatIsCommittedWhileItReads(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]int{"little": 3, "more than is held": resumePage} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			newDoorbell(t, s)
			customer := uuidNew()
			before, after := s.order(customer), make([]millrace.Ring, late)
			for i := range after {
				after[i] = s.order(customer)
			}
			reading, goOn := make(chan struct{}), make(chan struct{})
			var once sync.Once
			// Sweeps are out of the way: no later look finds what this one misses.
			n := newNode(t, s, nodeOptions{configure: func(c *Config) { c.Sweep, c.ManyBuffer = time.Hour, resumePage }})
			live := n.open(n.manyURL(customer))
			live.close()
			s.mustWrite(before, 1)
			eventually(t, "the stream is gone", func() bool { return n.hub.Stats().ManyStreams == 0 })
			s.pageRead = func() { once.Do(func() { close(reading); <-goOn }) }
			witness := n.open(n.manyURL(customer))
			c := n.open(n.manyURL(customer), "Last-Event-ID", live.lastID)
			<-reading
			want := map[uuid.UUID]int32{}
			for _, o := range after {
				s.mustWrite(o, 1)
				want[o.OrderID] = 1
			}
			witness.read(newLedger(), want) // so they were handed out
			close(goOn)
			want[before.OrderID] = 1
			l := newLedger()
			c.read(l, want)
			if l.repeats != 0 {
				t.Errorf("%d repeats", l.repeats)
			}
		})
	}
}

func TestHeartbeatMovesTheCursorOfAQuietStream(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{configure: heartbeats})
	c := n.open(n.manyURL(uuidNew()))
	first := c.lastID
	s.mustWrite(s.order(uuidNew()), 1) // somebody else's
	for c.lastID == first {
		b, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		if b.data != "" {
			t.Fatalf("unexpected event %+v", b)
		}
		n.hub.kickSweep()
	}
	n.open(n.manyURL(uuidNew()), "Last-Event-ID", c.lastID)
}

func TestEventWhoseRingWasLostIsFoundBySweep(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]nodeOptions{
		"read directly": {deaf: true},
		"poll only":     {poll: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t) // rings nowhere
			n := newNode(t, s, options)
			o := s.order(uuidNew())
			one := n.open(n.orderURL(o))
			s.mustWrite(o, 2)
			one.wantVersions(1, 2)

			customer, all := n.open(n.manyURL(o.CustomerID)), n.open(n.manyURL(uuid.Nil))
			ledgers := map[*client]*ledger{customer: newLedger(), all: newLedger()}
			for _, l := range ledgers {
				l.versions[o.OrderID] = 2
			}
			// A sweep that began before these two came reads each order by itself and may be first; it is the last of its kind.
			for version := int32(4); ; version += 2 {
				s.mustWrite(o, 2)
				one.wantVersions(version-1, version)
				for c, l := range ledgers {
					c.read(l, map[uuid.UUID]int32{o.OrderID: version})
				}
				if n.hub.Stats().SweepFinds > 0 {
					break
				}
				if version > 20 {
					t.Fatal("no sweep found anything")
				}
			}
		})
	}
}

// While a transaction keeps the mark where it is, a sweep goes on from where the last one was; what came up behind it is found once the
// mark moves.
func TestSweepUnderALongTransactionFindsWhatCameUpBehindIt(t *testing.T) {
	t.Parallel()
	s := newStore(t) // rings nowhere
	n := newNode(t, s, nodeOptions{deaf: true, configure: func(c *Config) { c.ManyBuffer = 2 * sweepWindow }})
	customer := uuidNew()
	c := n.open(n.manyURL(customer))
	begin := func() (pgx.Tx, millrace.Ring) {
		t.Helper()
		o := s.order(customer)
		tx, err := s.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := insert(t.Context(), tx, o, 1, millrace.OrderPending); err != nil {
			t.Fatal(err)
		}
		return tx, o
	}
	long, longOrder := begin()
	defer long.Rollback(context.WithoutCancel(t.Context()))
	late, lateOrder := begin()
	defer late.Rollback(context.WithoutCancel(t.Context()))
	quick := s.order(customer)
	s.mustWrite(quick, sweepWindow+1)
	l := newLedger()
	c.read(l, map[uuid.UUID]int32{quick.OrderID: sweepWindow + 1})
	eventually(t, "sweeps leave out what they have seen", func() bool {
		n.hub.mu.Lock()
		defer n.hub.mu.Unlock()
		return n.hub.window > sweepWindow
	})
	if err := late.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.mustWrite(quick, 1)
	c.read(l, map[uuid.UUID]int32{quick.OrderID: sweepWindow + 2})
	if err := long.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.read(l, map[uuid.UUID]int32{longOrder.OrderID: 1, lateOrder.OrderID: 1})
}
