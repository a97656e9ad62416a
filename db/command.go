package db

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"

	"millrace"
	"millrace/db/group"
)

// command is a change to one order: what it needs to have loaded, and the domain's own method to call.
type command struct {
	orderID uuid.UUID
	known   *millrace.Order // with all parts that jobs need, as it was some time ago; nil: it is to be loaded
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

// applyTo runs a command on an order that a job has read, and returns the order as it then stands. Unless the order has changed since, it is
// not read once more.
func (s *Store) applyTo(ctx context.Context, known *millrace.Order, f func(*millrace.Order) error) (*millrace.Order, error) {
	o, err := s.steps.Do(ctx, &command{orderID: known.ID, known: known, parts: whatJobsNeed, apply: f})
	if err != nil {
		return nil, translate(err)
	}
	return o, nil
}

// flushCommands applies commands in one transaction: lock and load, decide in memory, write in sets. Commands on the same order see
// each other's changes, in the order of their arrival; a command that the domain refuses leaves its order as it was.
//
// Where all of the orders are known it first tries to decide by that and only to write: an order that has changed meanwhile is at another
// revision, of which the transaction fails.
func (s *Store) flushCommands(ctx context.Context, commands []*command) ([]group.Outcome[*millrace.Order], error) {
	if orders := knownOrders(commands); orders != nil && s.config.InTx == nil && !s.changed.due() {
		outcomes, err := s.runCommands(ctx, commands, orders)
		if isMissing(err, "orders", "revision") {
			s.changed.raise()
		} else if !errors.Is(err, errDoubtful) {
			return outcomes, err
		}
	}
	return s.runCommands(ctx, commands, nil)
}

// errDoubtful is the error of commands of which one would be refused by what may be outdated.
var errDoubtful = errors.New("an order as it was known refuses a command")

// knownOrders is the orders of commands, each as it was known last, or nil where one is not.
func knownOrders(commands []*command) map[uuid.UUID]*millrace.Order {
	orders := make(map[uuid.UUID]*millrace.Order, len(commands))
	for _, c := range commands {
		if c.known == nil {
			return nil
		}
		if o := orders[c.orderID]; o == nil || o.Revision < c.known.Revision {
			orders[c.orderID] = c.known
		}
	}
	return orders
}

// runCommands applies commands to their orders, which are locked and loaded unless they are given.
func (s *Store) runCommands(ctx context.Context, commands []*command, orders map[uuid.UUID]*millrace.Order) ([]group.Outcome[*millrace.Order], error) {
	var needed parts
	ids := make([]uuid.UUID, len(commands))
	for i, c := range commands {
		needed |= c.parts
		ids[i] = c.orderID
	}
	given := orders != nil
	var first []question
	if !given {
		slices.SortFunc(ids, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
		first = []question{load(ctx, slices.Compact(ids), needed, forUpdate, &orders)}
	}
	outcomes := make([]group.Outcome[*millrace.Order], len(commands))
	w := changeSet{whole: needed&whatJobsNeed == whatJobsNeed}
	err := s.inTrips(ctx, first, func(sender) (*changeSet, error) {
		for i, c := range commands {
			o := orders[c.orderID]
			if o == nil {
				outcomes[i].Err = errNoOrder()
				continue
			}
			next := o.Clone() // a command that is refused half way leaves no trace
			if err := c.apply(next); err != nil {
				if given {
					return nil, errDoubtful
				}
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
	for _, o := range w.noticed {
		s.ring(o)
	}
	return outcomes, nil
}

func errNoOrder() error {
	return millrace.Errorf(millrace.CodeNotFound, "There is no such order.")
}
