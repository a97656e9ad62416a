package db

import (
	"context"
	"fmt"

	"github.com/google/uuid"

	"millrace"
	"millrace/db/group"
)

// command is a change to one order: what it needs to have loaded, and the domain's own method to call.
type command struct {
	orderID uuid.UUID
	parts   parts
	apply   func(*millrace.Order) error
}

// apply runs a command on an order, together with others that arrive at the same time, and returns the order as it then stands.
func (s *Store) apply(ctx context.Context, orderID uuid.UUID, p parts, f func(*millrace.Order) error) (*millrace.Order, error) {
	o, err := s.steps.Do(ctx, &command{orderID: orderID, parts: p, apply: f})
	if err != nil {
		return nil, translate(err)
	}
	return o, nil
}

// flushCommands applies commands in one transaction: lock and load, decide in memory, write in sets. Commands on the same order see
// each other's changes, in the order of their arrival; a command that the domain refuses leaves its order as it was.
func (s *Store) flushCommands(ctx context.Context, commands []*command) ([]group.Outcome[*millrace.Order], error) {
	ids := make([]uuid.UUID, 0, len(commands))
	seen := make(map[uuid.UUID]bool, len(commands))
	var needed parts
	for _, c := range commands {
		needed |= c.parts
		if !seen[c.orderID] {
			seen[c.orderID] = true
			ids = append(ids, c.orderID)
		}
	}
	outcomes := make([]group.Outcome[*millrace.Order], len(commands))
	var w changeSet
	var orders map[uuid.UUID]*millrace.Order
	err := s.inTrips(ctx, []question{load(ctx, ids, needed, forUpdate, &orders)}, func(sender) (*changeSet, error) {
		w.whole = needed&whatJobsNeed == whatJobsNeed
		for i, c := range commands {
			o := orders[c.orderID]
			if o == nil {
				outcomes[i].Err = errNoOrder()
				continue
			}
			next := o.Clone() // a command that is refused half way leaves no trace
			if err := c.apply(next); err != nil {
				outcomes[i].Err = err
				continue
			}
			orders[c.orderID] = next
			if change := next.TakeChanges(); !change.Empty() {
				w.add(next, change)
			}
			outcomes[i].Answer = next
		}
		return &w, nil
	})
	if err != nil {
		return nil, fmt.Errorf("apply %d commands: %w", len(commands), err)
	}
	for _, o := range w.orders {
		s.ring(o)
	}
	return outcomes, nil
}

func errNoOrder() error {
	return millrace.Errorf(millrace.CodeNotFound, "There is no such order.")
}
