package db

import (
	"sync"
	"time"

	"github.com/google/uuid"

	"millrace"
)

// whatJobsNeed are the parts of an order that WorkOrder loads.
const whatJobsNeed = withAddress | withTransactions | withReservations | withShipment

// justWritten keeps orders as a commit of this process left them, for the jobs that it handed to workers: these need not read what was
// in memory a moment ago. It is as good as a read that the job might have made at its start, and as old as one that took long; what a job
// then writes goes by the order as it is locked. The zero value is ready to use; it is safe for concurrent use.
type justWritten struct {
	mu     sync.Mutex
	orders map[uuid.UUID]written
}

type written struct {
	order *millrace.Order
	at    time.Time
}

// How long what was written stands for a read: other processes may change the order meanwhile. And how many orders are kept; those that
// nobody asks for would stay.
const (
	writtenFor = 250 * time.Millisecond
	maxWritten = 4096
)

func (j *justWritten) put(o *millrace.Order) {
	kept := o.Clone()
	kept.Lines = nil
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.orders) >= maxWritten || j.orders == nil {
		j.orders = make(map[uuid.UUID]written)
	}
	if w, ok := j.orders[o.ID]; !ok || w.order.Revision < o.Revision {
		j.orders[o.ID] = written{kept, time.Now()}
	}
}

// forget drops an order that was written in another way.
func (j *justWritten) forget(id uuid.UUID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.orders, id)
}

// take returns an order once, or nil.
func (j *justWritten) take(id uuid.UUID) *millrace.Order {
	j.mu.Lock()
	defer j.mu.Unlock()
	w, ok := j.orders[id]
	delete(j.orders, id)
	if !ok || time.Since(w.at) > writtenFor {
		return nil
	}
	return w.order
}
