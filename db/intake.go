package db

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"millrace"
	"millrace/db/dbsqlc"
	"millrace/db/group"
)

// PlaceOrder asks for an order to be taken in.
type PlaceOrder struct {
	Principal   millrace.Principal
	Key         string // the client's Idempotency-Key, 1 to 255 bytes
	RequestHash [32]byte
	Request     millrace.OrderRequest
}

// Placed is the answer to a PlaceOrder.
type Placed struct {
	Order    *millrace.Order // as it was placed, however far it is since; personal data that was erased since is left out
	Replayed bool            // this repeats an earlier answer
}

type intakeRequest struct {
	PlaceOrder
	customer *millrace.Customer
	newcomer bool // the customer is taken for new, and made along with the order
}

// takenIn is what came of a request in its group: a new order, or that its key has made one before.
type takenIn struct {
	order   *millrace.Order
	repeats uuid.UUID
}

// PlaceOrder takes an order in: the order, its lines, its first event, the idempotency record and the job that reserves its stock, in
// one transaction. When it returns nil, they are durable. The same principal and key make one order: a replay gets the same answer.
//
// Codes: invalid (the request can never succeed), key_reused (the key came with another request), in_flight (the first request under
// this key is being worked on), busy, unavailable, unknown (repeat the request under the same key to find out).
func (s *Store) PlaceOrder(ctx context.Context, p PlaceOrder) (Placed, error) {
	if err := p.Request.Validate(); err != nil {
		return Placed{}, err
	}
	customer, newcomer, err := s.orderingCustomer(ctx, p)
	if err != nil {
		return Placed{}, err
	}
	id := principalKey{p.Principal.Subject, p.Key}
	if !s.inFlight.add(id) {
		return Placed{}, millrace.Errorf(millrace.CodeInFlight, "The first request under this Idempotency-Key is still being worked on: send it again shortly.")
	}
	taken, err := s.intake.Do(ctx, &intakeRequest{PlaceOrder: p, customer: customer, newcomer: newcomer})
	s.inFlight.remove(id)
	if err != nil {
		return Placed{}, translate(err)
	}
	if taken.order != nil {
		return Placed{Order: taken.order}, nil
	}
	return s.placedBefore(ctx, taken.repeats)
}

// placedBefore is the answer to the request that made an order. It is not stored but made again, see docs/decisions/0021.
func (s *Store) placedBefore(ctx context.Context, id uuid.UUID) (Placed, error) {
	orders, err := s.read(ctx, []uuid.UUID{id}, withAddress|withLines)
	if err != nil {
		return Placed{}, translate(err)
	}
	o := orders[id]
	if o == nil {
		return Placed{}, errNoOrder()
	}
	return Placed{Order: o.AsPlaced(), Replayed: true}, nil
}

// orderingCustomer is the customer that orders, loaded as far as the request needs it, and whether it is taken for one whom nobody has seen
// before, who is made along with the order: a request that can never succeed makes no customer.
func (s *Store) orderingCustomer(ctx context.Context, p PlaceOrder) (c *millrace.Customer, newcomer bool, err error) {
	c = &millrace.Customer{Subject: p.Principal.Subject, Email: p.Principal.Email, Name: p.Principal.Name}
	saysAll := p.Request.ShipTo != nil && (p.Request.Email != "" || p.Principal.Email != "")
	var known bool
	if c.ID, known = s.customers.get(c.Subject); known && saysAll {
		return c, false, nil
	}
	if saysAll && !s.strangers.due() {
		c.ID, err = uuid.NewV7()
		return c, true, err
	}
	stored, err := s.FindCustomer(ctx, c.Subject)
	switch {
	case millrace.ErrorCode(err) == millrace.CodeNotFound:
		c.ID, err = uuid.NewV7()
		return c, true, err
	case err != nil:
		return nil, false, err
	}
	s.customers.put(c.Subject, stored.ID)
	if saysAll {
		c.ID = stored.ID
		return c, false, nil
	}
	return stored, false, nil
}

// priceGuesses is how often a group is written by prices that turn out to have changed, before the catalogue is held still for it.
const priceGuesses = 5

// flushIntake takes in a group of orders in one round trip. It counts on the prices that it remembers, on keys that are new and on
// strangers being newcomers; where the transaction finds that one of them does not hold, it looks and tries again. A key or a customer that
// was found is not in the way once more, so these tries end by themselves; those by prices end with the catalogue held still.
func (s *Store) flushIntake(ctx context.Context, requests []*intakeRequest) ([]group.Outcome[takenIn], error) {
	guesses := 0
	for {
		var in intakeSet
		err := s.tryIntake(ctx, requests, &in, guesses == priceGuesses)
		switch {
		case err == nil:
			s.remember(&in.newcomers)
			s.ring(in.orders...)
			return in.outcomes, nil
		case isUniqueViolation(err, "idempotency_keys_pkey"):
			s.usedKeys.raise()
		case isUniqueViolation(err, "customers_subject_key"):
			s.strangers.raise()
			if err := s.meet(ctx, &in.newcomers); err != nil {
				return nil, err
			}
		case guesses < priceGuesses && (isMissing(err, "orders", "received_seq") || errors.Is(err, errOutdated)):
			guesses++
			s.prices.forget(in.header.CatalogueVersion)
		default:
			return nil, fmt.Errorf("take in %d orders: %w", len(in.orders), err)
		}
	}
}

// remember keeps who the newcomers of a group that was written are.
func (s *Store) remember(c *dbsqlc.InsertCustomersParams) {
	for i, subject := range c.Subjects {
		s.customers.put(subject, c.Ids[i])
	}
}

// meet looks up who of a group's newcomers are known by now.
func (s *Store) meet(ctx context.Context, c *dbsqlc.InsertCustomersParams) error {
	rows, err := s.queries().CustomerIDs(ctx, c.Subjects)
	if err != nil {
		return fmt.Errorf("look up customers: %w", err)
	}
	for _, r := range rows {
		s.customers.put(r.Subject, r.ID)
	}
	return nil
}

func (s *Store) tryIntake(ctx context.Context, requests []*intakeRequest, in *intakeSet, holdCatalogue bool) error {
	if err := s.rehearse(ctx); err != nil {
		return err
	}
	statements := &writes{workers: s.config.Workers}
	defer statements.settle(false) // where a panic came between
	if !holdCatalogue && s.config.InTx == nil {
		err := s.makeOrders(ctx, s.queries(), requests, in, statements)
		switch {
		case err != nil:
		case len(in.orders) > 0:
			err = statements.commit(ctx, s.pool)
		case in.priced == remembered: // nothing is written that would show whether what was refused by still holds
			err = s.confirmPrices(ctx, in.header.CatalogueVersion)
		}
		s.pass(statements, err)
		return err
	}
	err := s.inTx(ctx, func(tx pgx.Tx) error {
		q := dbsqlc.New(tx)
		version, err := q.HoldCatalogue(ctx)
		if err != nil {
			return err
		}
		s.prices.expect(version)
		if err := s.makeOrders(ctx, q, requests, in, statements); err != nil {
			return err
		}
		if err := statements.send(ctx, tx); err != nil {
			return err
		}
		return s.beforeCommit(ctx, tx, in.header.Ids)
	})
	s.pass(statements, err)
	return err
}

// errOutdated is the error of a group that was refused by a catalogue that has changed since.
var errOutdated = errors.New("the catalogue has changed since it was remembered")

func (s *Store) confirmPrices(ctx context.Context, version int64) error {
	current, err := s.queries().CatalogueVersion(ctx)
	if err == nil && current != version {
		err = errOutdated
	}
	return err
}

// makeOrders makes orders of the requests that are not repeats, and collects what is to be written.
func (s *Store) makeOrders(ctx context.Context, q *dbsqlc.Queries, requests []*intakeRequest, in *intakeSet, statements *writes) error {
	var known map[principalKey]dbsqlc.IdempotencyKeysRow
	var err error
	if s.usedKeys.due() {
		if known, err = knownKeys(ctx, q, requests); err != nil {
			return err
		}
		if len(known) > 0 {
			s.usedKeys.raise()
		}
	}
	prices, err := s.prices.find(ctx, q, skusOf(requests))
	if err != nil {
		return err
	}
	in.header.CatalogueVersion, in.priced = prices.version, prices.source
	in.outcomes = make([]group.Outcome[takenIn], len(requests))
	in.newcomers.At = s.now()
	for i, r := range requests {
		if r.newcomer {
			s.introduce(r, in)
		}
		if k, ok := known[principalKey{r.Principal.Subject, r.Key}]; ok {
			in.outcomes[i] = replay(r, k)
		} else {
			in.outcomes[i] = s.prepare(r, prices.products, in)
		}
	}
	if len(in.orders) == 0 {
		return nil
	}
	if err := s.insertJobs(ctx, statements, in.jobs); err != nil {
		return err
	}
	return in.collect(ctx, statements.queries())
}

// introduce gives a newcomer the id of the customer that was made of them meanwhile, or that the group makes for a request before theirs.
func (s *Store) introduce(r *intakeRequest, in *intakeSet) {
	if id, known := s.customers.get(r.customer.Subject); known {
		r.customer.ID, r.newcomer = id, false
	} else if id, made := in.made[r.customer.Subject]; made {
		r.customer.ID = id
	}
}

func knownKeys(ctx context.Context, q *dbsqlc.Queries, requests []*intakeRequest) (map[principalKey]dbsqlc.IdempotencyKeysRow, error) {
	var p dbsqlc.IdempotencyKeysParams
	for _, r := range requests {
		p.Principals = append(p.Principals, r.Principal.Subject)
		p.Keys = append(p.Keys, r.Key)
	}
	rows, err := q.IdempotencyKeys(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("look up idempotency keys: %w", err)
	}
	known := make(map[principalKey]dbsqlc.IdempotencyKeysRow, len(rows))
	for _, k := range rows {
		known[principalKey{k.Principal, k.Key}] = k
	}
	return known, nil
}

// skusOf is the SKUs that requests name, each once.
func skusOf(requests []*intakeRequest) []string {
	skus := make([]string, 0, 2*len(requests))
	for _, r := range requests {
		for _, l := range r.Request.Lines {
			skus = append(skus, l.SKU)
		}
	}
	slices.Sort(skus)
	return slices.Compact(skus)
}

func replay(r *intakeRequest, k dbsqlc.IdempotencyKeysRow) group.Outcome[takenIn] {
	if subtle.ConstantTimeCompare(k.RequestHash, r.RequestHash[:]) != 1 {
		return group.Outcome[takenIn]{Err: millrace.Errorf(millrace.CodeKeyReused, "This Idempotency-Key was used for another request: take a new key for a new order.")}
	}
	return group.Outcome[takenIn]{Answer: takenIn{repeats: k.OrderID}}
}

// prepare makes the order of a request, and adds it to the set to write.
func (s *Store) prepare(r *intakeRequest, catalogue map[string]millrace.Product, w *intakeSet) group.Outcome[takenIn] {
	id, err := uuid.NewV7()
	if err != nil {
		return group.Outcome[takenIn]{Err: err}
	}
	o, err := millrace.NewOrder(id, r.customer, &r.Request, catalogue, s.now(), "customer:"+r.Principal.Subject)
	if err != nil {
		return group.Outcome[takenIn]{Err: err}
	}
	if err := w.add(o, r); err != nil {
		return group.Outcome[takenIn]{Err: fmt.Errorf("encode the order: %w", err)}
	}
	return group.Outcome[takenIn]{Answer: takenIn{order: o}}
}

// intakeSet gathers new orders as columns, and what came of each request.
type intakeSet struct {
	outcomes  []group.Outcome[takenIn]
	orders    []*millrace.Order
	jobs      []millrace.Job
	newcomers dbsqlc.InsertCustomersParams
	made      map[string]uuid.UUID // the newcomers by subject
	keys      dbsqlc.InsertIdempotencyKeysParams
	lines     dbsqlc.InsertLinesParams
	header    dbsqlc.InsertOrdersParams
	events    changeSet
	priced    source
}

func (w *intakeSet) add(o *millrace.Order, r *intakeRequest) error {
	shipTo, err := addressJSON(o.ShipTo)
	if err != nil {
		return err
	}
	change := o.TakeChanges()
	w.orders = append(w.orders, o)
	w.jobs = append(w.jobs, change.Jobs...)
	for _, e := range change.Events {
		w.events.addEvent(e)
	}

	if r.newcomer {
		w.addNewcomer(r.customer)
	}
	k := &w.keys
	k.Principals = append(k.Principals, r.Principal.Subject)
	k.Keys = append(k.Keys, r.Key)
	k.RequestHashes = append(k.RequestHashes, r.RequestHash[:])
	k.OrderIds = append(k.OrderIds, o.ID)
	k.CreatedAts = append(k.CreatedAts, o.PlacedAt)

	for _, l := range o.Lines {
		p := &w.lines
		p.OrderIds = append(p.OrderIds, o.ID)
		p.Ns = append(p.Ns, l.N)
		p.Skus = append(p.Skus, l.SKU)
		p.Names = append(p.Names, l.Name)
		p.Quantities = append(p.Quantities, l.Quantity)
		p.UnitPrices = append(p.UnitPrices, l.UnitPriceMinor)
		p.Totals = append(p.Totals, l.TotalMinor)
	}
	w.addHeader(o, shipTo)
	return nil
}

func (w *intakeSet) addNewcomer(c *millrace.Customer) {
	if _, made := w.made[c.Subject]; made {
		return
	}
	if w.made == nil {
		w.made = make(map[string]uuid.UUID)
	}
	w.made[c.Subject] = c.ID
	p := &w.newcomers
	p.Ids = append(p.Ids, c.ID)
	p.Subjects = append(p.Subjects, c.Subject)
	p.Emails = append(p.Emails, c.Email)
	p.Names = append(p.Names, c.Name)
}

func (w *intakeSet) addHeader(o *millrace.Order, shipTo json.RawMessage) {
	h := &w.header
	h.Ids = append(h.Ids, o.ID)
	h.CustomerIds = append(h.CustomerIds, o.CustomerID)
	h.Ns = append(h.Ns, int64(len(h.Ids)))
	h.Statuses = append(h.Statuses, string(o.Status))
	h.PaymentStatuses = append(h.PaymentStatuses, string(o.PaymentStatus))
	h.FulfillmentStatuses = append(h.FulfillmentStatuses, string(o.FulfillmentStatus))
	h.Versions = append(h.Versions, o.Version)
	h.Currencies = append(h.Currencies, string(o.Currency))
	h.Totals = append(h.Totals, o.TotalMinor)
	h.PaymentMethods = append(h.PaymentMethods, o.PaymentMethod)
	h.Emails = append(h.Emails, o.Email)
	h.ShipTos = append(h.ShipTos, shipTo)
	h.PlacedAts = append(h.PlacedAts, o.PlacedAt)
}

// collect turns the set into statements; the orders come last, since they take the counter's lock.
func (w *intakeSet) collect(ctx context.Context, q *dbsqlc.Queries) error {
	var err error
	if len(w.newcomers.Ids) > 0 {
		err = q.InsertCustomers(ctx, w.newcomers)
	}
	return errors.Join(err, q.InsertIdempotencyKeys(ctx, w.keys), q.InsertLines(ctx, w.lines), q.InsertEvents(ctx, w.events.events),
		q.InsertOrders(ctx, w.header))
}

// principalKey is an idempotency key and whose it is.
type principalKey struct{ principal, key string }

// keySet holds the keys of requests that are being worked on in this process.
type keySet struct {
	mu   sync.Mutex
	keys map[principalKey]struct{}
}

func (s *keySet) add(k principalKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, busy := s.keys[k]; busy {
		return false
	}
	if s.keys == nil {
		s.keys = make(map[principalKey]struct{})
	}
	s.keys[k] = struct{}{}
	return true
}

func (s *keySet) remove(k principalKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, k)
}
