package live

import (
	"context"
	"sync"

	"github.com/google/uuid"

	"millrace"
)

// inbox collects the orders to be read next. It has a lock of its own, held for moments, so that ringing never waits for a fan-out.
type inbox struct {
	kick chan struct{} // holds one when something is in

	mu     sync.Mutex
	orders map[uuid.UUID]uuid.UUID // whose they are
	all    bool                    // and so is every watched order
	drops  uint64                  // times that too many orders were in, and were dropped
	noted  uint64                  // drops when the last batch was taken
	taken  uint64                  // batches taken
	done   uint64                  // the last batch taken that was read to its end, and with it all before
	next   chan struct{}           // closed when done grows
}

func newInbox() *inbox {
	return &inbox{kick: make(chan struct{}, 1), orders: make(map[uuid.UUID]uuid.UUID), next: make(chan struct{})}
}

func (in *inbox) wake() {
	select {
	case in.kick <- struct{}{}:
	default:
	}
}

func (in *inbox) add(rings ...millrace.Ring) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, r := range rings {
		in.orders[r.OrderID] = r.CustomerID
	}
	in.bound()
	in.wake()
}

// addAll asks for every watched order.
func (in *inbox) addAll() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.all = true
	in.wake()
}

func (in *inbox) bound() {
	if len(in.orders) > inboxSize {
		in.orders, in.all = make(map[uuid.UUID]uuid.UUID), true
		in.drops++
	}
}

// dropped counts how often orders were dropped: those that have a stream are read all the same, those that only streams of many orders
// care for are left to the next sweep.
func (in *inbox) dropped() uint64 {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.drops
}

// batch is what one round of reading is about.
type batch struct {
	n       uint64
	orders  map[uuid.UUID]uuid.UUID
	all     bool
	dropped bool // orders were dropped that only streams of many may care for
}

func (in *inbox) take() batch {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.taken++
	b := batch{n: in.taken, orders: in.orders, all: in.all, dropped: in.drops != in.noted}
	in.orders, in.all, in.noted = make(map[uuid.UUID]uuid.UUID), false, in.drops
	return b
}

// finish says that all of b was read.
func (in *inbox) finish(b batch) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.done = b.n
	close(in.next)
	in.next = make(chan struct{})
}

// putBack returns a batch that could not be read. It is not finished until a later one is, which then holds it.
func (in *inbox) putBack(b batch) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for order, customer := range b.orders {
		if _, ok := in.orders[order]; !ok {
			in.orders[order] = customer
		}
	}
	in.all = in.all || b.all
	in.bound()
	in.wake()
}

// barrier waits until everything that is in now was read.
func (in *inbox) barrier(ctx context.Context) error {
	in.mu.Lock()
	want := in.taken + 1
	in.wake()
	for in.done < want {
		next := in.next
		in.mu.Unlock()
		select {
		case <-next:
		case <-ctx.Done():
			return ctx.Err()
		}
		in.mu.Lock()
	}
	in.mu.Unlock()
	return nil
}
