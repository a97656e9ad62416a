package millrace

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Order is an order and all that belongs to it. Amounts are in minor units of Currency. What a command does not need may be left
// unloaded; package db says which command loads what.
type Order struct {
	ID                uuid.UUID
	CustomerID        uuid.UUID
	ReceivedSeq       int64 // the order in which orders were acknowledged, without holes
	Status            OrderStatus
	PaymentStatus     PaymentStatus
	FulfillmentStatus FulfillmentStatus
	Version           int32 // that of its last event
	Currency          Currency
	TotalMinor        int64
	PaymentMethod     string
	Email             string   // "" once erased
	ShipTo            *Address // nil once erased
	HoldReason        string   // why it is on hold, "" if it is not
	PlacedAt          time.Time
	UpdatedAt         time.Time
	Revision          int32 // counts the writes of the order, with an event or without; package db keeps it

	Lines        []OrderLine
	Transactions []PaymentTransaction
	Reservations []Reservation
	Shipment     *Shipment

	changes Changes
}

// OrderLine is what was ordered, at the price it had then. Lines never change.
type OrderLine struct {
	N              int32 // 1..n within the order
	SKU            string
	Name           string
	Quantity       int32
	UnitPriceMinor int64
	TotalMinor     int64
}

// Demand is the quantity of each SKU, lines with the same SKU summed.
func (o *Order) Demand() map[string]int64 {
	d := make(map[string]int64, len(o.Lines))
	for _, l := range o.Lines {
		d[l.SKU] += int64(l.Quantity)
	}
	return d
}

// Changes is what commands on an order have noted and what must be written, all of it or nothing, in one transaction.
type Changes struct {
	Events       []Event
	Jobs         []Job
	Stock        []StockMove
	Reservations []Reservation        // new or changed
	Transactions []PaymentTransaction // new or changed
	Shipment     *Shipment            // new or changed, nil if neither

	touched  map[int32]bool // transactions
	shipment bool
	reserved bool
	at       time.Time
	actor    string
}

// Empty reports whether there is nothing to write.
func (c *Changes) Empty() bool {
	return len(c.Events) == 0 && len(c.Jobs) == 0 && len(c.Stock) == 0 && len(c.Transactions) == 0 && len(c.Reservations) == 0 && c.Shipment == nil
}

// TakeChanges returns what the commands since the last call have noted and forgets it.
func (o *Order) TakeChanges() Changes {
	c := o.changes
	for _, t := range o.Transactions {
		if c.touched[t.N] {
			c.Transactions = append(c.Transactions, t)
		}
	}
	if c.shipment {
		c.Shipment = o.Shipment
	}
	if c.reserved {
		c.Reservations = o.Reservations
	}
	o.changes = Changes{}
	return c
}

// begin notes when and by whom the following changes are made.
func (o *Order) begin(at time.Time, actor string) {
	o.changes.at, o.changes.actor = at, actor
}

// record appends an event that shows the order as it stands now.
func (o *Order) record(t EventType, data eventData) {
	body, err := json.Marshal(data)
	if err != nil {
		body = json.RawMessage("{}") // only text and numbers are ever passed, which can be encoded
	}
	o.Version++
	o.UpdatedAt = o.changes.at
	o.changes.Events = append(o.changes.Events, Event{OrderID: o.ID, Version: o.Version, Type: t, Status: o.Status,
		PaymentStatus: o.PaymentStatus, FulfillmentStatus: o.FulfillmentStatus, Data: body, Actor: o.changes.actor,
		At: o.changes.at, CustomerID: o.CustomerID})
}

// enqueue asks for a job, once however many reasons there are.
func (o *Order) enqueue(j Job) {
	if !slices.Contains(o.changes.Jobs, j) {
		o.changes.Jobs = append(o.changes.Jobs, j)
	}
}

func (o *Order) touchTransaction(n int32) {
	if o.changes.touched == nil {
		o.changes.touched = make(map[int32]bool)
	}
	o.changes.touched[n] = true
}

func (o *Order) newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }

// proceed moves the order on, unless a person holds it or it is over.
func (o *Order) proceed(to OrderStatus) {
	if o.Status != OrderOnHold && !o.Status.Final() {
		o.Status = to
	}
}

// Place makes o a new order: pending, with its first event and the job that reserves its stock.
func (o *Order) Place(at time.Time, actor string) {
	o.begin(at, actor)
	o.Status, o.PaymentStatus, o.FulfillmentStatus = OrderPending, PaymentUnpaid, FulfillmentUnfulfilled
	o.PlacedAt = at
	o.record(EventOrderPlaced, eventData{TotalMinor: o.TotalMinor, Currency: o.Currency, Lines: len(o.Lines)})
	o.enqueueNext()
}

// ReserveStock takes the order's whole demand from the shelf and asks for its payment, or fails the order if there is not enough.
// It does nothing to an order that is not waiting for stock.
func (o *Order) ReserveStock(s *Shelf, p PaymentPolicy, at time.Time, actor string) {
	if o.Status != OrderPending {
		return
	}
	o.begin(at, actor)
	taken, short, ok := s.Take(o.Demand())
	if !ok {
		o.FulfillmentStatus = FulfillmentCanceled
		o.record(EventStockRejected, eventData{SKU: short})
		o.Status = OrderFailed
		o.record(EventOrderFailed, eventData{Reason: string(CodeOutOfStock), SKU: short})
		return
	}
	o.Reservations, o.changes.reserved = taken, true
	for _, r := range taken {
		o.changes.Stock = append(o.changes.Stock, StockMove{SKU: r.SKU, Location: r.Location, Reserved: r.Quantity})
	}
	o.Status, o.PaymentStatus = OrderProcessing, PaymentPending
	o.record(EventStockReserved, eventData{Reservations: len(taken)})
	o.requestPayment(PaymentTransaction{Kind: TransactionAuthorize, AmountMinor: o.TotalMinor, WithCapture: !p.CaptureOnShipment}, at)
}

// releaseStock puts what the order holds back for others.
func (o *Order) releaseStock() {
	o.settleReservations(ReservationReleased, func(r Reservation) StockMove {
		return StockMove{SKU: r.SKU, Location: r.Location, Reserved: -r.Quantity}
	})
}

// consumeStock takes what the order holds off the shelf.
func (o *Order) consumeStock() {
	o.settleReservations(ReservationConsumed, func(r Reservation) StockMove {
		return StockMove{SKU: r.SKU, Location: r.Location, Shipped: r.Quantity}
	})
}

func (o *Order) settleReservations(to ReservationState, move func(Reservation) StockMove) {
	for i := range o.Reservations {
		r := &o.Reservations[i]
		if r.State != ReservationHeld {
			continue
		}
		r.State = to
		o.changes.reserved = true
		o.changes.Stock = append(o.changes.Stock, move(*r))
	}
}

// SettleShipment records what the carrier (or before it the warehouse) said about the order's label. Approved consumes the stock
// and, where money is only authorized, asks for the capture; declined holds the order for an operator. A label bought for an order
// that is final by now is given back. Answers to a shipment that is past that point change nothing.
func (o *Order) SettleShipment(r LabelResult, carrier string, at time.Time, actor string) error {
	sh := o.Shipment
	if sh == nil {
		return Errorf(CodeConflict, "The order has no shipment yet.")
	}
	// A label may turn out to be bought after the order's end, when we had given it up.
	late := sh.State == ShipmentCanceled && sh.Reference == "" && r.Outcome == OutcomeApproved
	if sh.State != ShipmentRequested && !late {
		return nil
	}
	o.begin(at, actor)
	switch r.Outcome {
	case OutcomeApproved:
	case OutcomeDeclined:
		if !o.Status.Final() {
			o.FulfillmentStatus = FulfillmentOnHold
			o.hold(r.Code, eventData{Reason: r.Code})
		}
		return nil
	case OutcomePending, OutcomeRequiresAction, OutcomeRetry, OutcomeUnknown, OutcomeNotFound:
		return nil
	}
	sh.State, sh.Carrier, sh.Reference, sh.Service = ShipmentPurchased, carrier, r.Reference, r.Service
	sh.TrackingNumber, sh.LabelURL = r.TrackingNumber, r.LabelURL
	o.changes.shipment = true
	if o.Status.Final() {
		o.enqueue(CancelShipmentJob{OrderID: o.ID})
		return nil
	}
	o.consumeStock()
	o.FulfillmentStatus = FulfillmentFulfilled
	o.record(EventShipmentCreated, eventData{Carrier: carrier, Service: r.Service, TrackingNumber: r.TrackingNumber})
	if o.PaymentStatus == PaymentAuthorized {
		o.requestCapture()
	}
	o.enqueueTracking()
	return nil
}

func (o *Order) requestCapture() {
	o.requestPayment(PaymentTransaction{Kind: TransactionCapture, AmountMinor: o.moved(TransactionAuthorize), Reference: o.paymentReference()}, o.changes.at)
}

func (o *Order) enqueueTracking() {
	if o.Status == OrderProcessing && o.shipped() && o.Shipment.State != ShipmentDelivered {
		o.enqueue(TrackShipmentJob{OrderID: o.ID})
	}
}

// shipped reports whether a label was bought that was not given back.
func (o *Order) shipped() bool {
	return o.Shipment != nil && o.Shipment.State != ShipmentRequested && o.Shipment.State != ShipmentCanceled
}

// shipmentUnwanted reports whether the order has ended and may have a label, or be picked, all the same.
func (o *Order) shipmentUnwanted() bool {
	return o.Status.Final() && o.Shipment != nil && (o.Shipment.State == ShipmentRequested || o.Shipment.State == ShipmentPurchased)
}

// TrackShipment records where the parcel is. Steps that the carrier did not report are filled in; steps back are ignored. An order
// that is delivered and paid is completed.
func (o *Order) TrackShipment(r TrackResult, at time.Time, actor string) error {
	if !o.shipped() {
		return Errorf(CodeConflict, "The order has not been shipped.")
	}
	o.begin(at, actor)
	tracking := eventData{Carrier: o.Shipment.Carrier, TrackingNumber: o.Shipment.TrackingNumber}
	arrived := r.State == ShipmentDelivered
	if o.Shipment.State == ShipmentPurchased && (arrived || r.State == ShipmentInTransit) {
		o.Shipment.State = ShipmentInTransit
		o.changes.shipment = true
		o.record(EventShipmentInTransit, tracking)
	}
	if o.Shipment.State == ShipmentInTransit && arrived {
		o.Shipment.State = ShipmentDelivered
		o.changes.shipment = true
		o.FulfillmentStatus = FulfillmentDelivered
		o.record(EventShipmentDelivered, tracking)
	}
	o.completeIfDone()
	return nil
}

// ShipmentCanceled records that no parcel will leave for an order that has ended: the carrier took the label back, or never sold one.
func (o *Order) ShipmentCanceled(at time.Time, actor string) error {
	if o.shipmentUnwanted() {
		o.begin(at, actor)
		o.Shipment.State = ShipmentCanceled
		o.changes.shipment = true
	}
	return nil
}

func (o *Order) completeIfDone() {
	if o.Status == OrderProcessing && o.FulfillmentStatus == FulfillmentDelivered && o.CapturedMinor() >= o.TotalMinor {
		o.Status = OrderCompleted
		o.record(EventOrderCompleted, eventData{})
	}
}

// Cancel ends the order before it ships: its stock goes back, its money is voided or refunded. Canceling twice is once; after the
// shipment, or after another end, it is CodeConflict.
func (o *Order) Cancel(reason string, at time.Time, actor string) error {
	if o.Status == OrderCanceled {
		return nil
	}
	if o.Status.Final() {
		return Errorf(CodeConflict, "The order is %s and cannot be canceled any more.", o.Status)
	}
	if o.shipped() {
		return Errorf(CodeConflict, "The order has been shipped and cannot be canceled any more.")
	}
	o.end(OrderCanceled, at, actor)
	o.record(EventOrderCanceled, eventData{Reason: reason})
	if t := o.openTransaction(); t != nil && t.State == TransactionRequiresAction {
		if err := o.abandon(t); err != nil {
			return err
		}
	}
	if err := o.reverse(); err != nil {
		return err
	}
	// The gateway may be taking the money this moment, and the carrier selling the label: the jobs find out, and give it back.
	o.enqueueNext()
	return nil
}

// Expire ends an order whose buyer did not act in time. It does nothing before that time or to an order in another state.
func (o *Order) Expire(at time.Time, actor string) error {
	t := o.openTransaction()
	if o.Status != OrderRequiresAction || t == nil || t.ExpiresAt == nil || at.Before(*t.ExpiresAt) {
		return nil
	}
	o.end(OrderExpired, at, actor)
	o.PaymentStatus = PaymentExpired
	o.record(EventOrderExpired, eventData{})
	return o.abandon(t)
}

func (o *Order) end(s OrderStatus, at time.Time, actor string) {
	o.begin(at, actor)
	o.releaseStock()
	o.Status, o.HoldReason = s, ""
	o.FulfillmentStatus = FulfillmentCanceled
}

// Hold stops the order until an operator releases or cancels it. A held order stays held under its first reason.
func (o *Order) Hold(reason string, at time.Time, actor string) error {
	if o.Status.Final() {
		return Errorf(CodeConflict, "The order is %s and cannot be held any more.", o.Status)
	}
	o.begin(at, actor)
	o.hold(reason, eventData{}) // the reason is the operators' own, and customers read events
	return nil
}

func (o *Order) hold(reason string, shown eventData) {
	if o.Status == OrderOnHold {
		return
	}
	o.Status, o.HoldReason = OrderOnHold, reason
	o.record(EventOrderOnHold, shown)
}

// Release lets a held order go on from where it stood: the step that it waits for is tried anew. An order that is not held is left
// alone; a final one is CodeConflict.
func (o *Order) Release(at time.Time, actor string) error {
	if o.Status.Final() {
		return Errorf(CodeConflict, "The order is %s and cannot go on.", o.Status)
	}
	if o.Status != OrderOnHold {
		return nil
	}
	o.begin(at, actor)
	o.HoldReason = ""
	o.Status = OrderProcessing
	if len(o.Reservations) == 0 {
		o.Status = OrderPending
	}
	if t := o.openTransaction(); t != nil && t.State == TransactionRequiresAction {
		o.Status = OrderRequiresAction
	}
	if o.FulfillmentStatus == FulfillmentOnHold {
		o.FulfillmentStatus = FulfillmentUnfulfilled
	}
	o.record(EventOrderReleased, eventData{})
	o.enqueueNext()
	o.completeIfDone()
	return nil
}

// Resume makes sure that a job carries the order on, where only a job can. It changes nothing else: a second job for the same step
// finds it done.
func (o *Order) Resume(at time.Time, actor string) error {
	if o.Status.Final() && !o.Waits() {
		return Errorf(CodeConflict, "The order is %s: there is nothing to retry.", o.Status)
	}
	if o.Status == OrderOnHold {
		return o.Release(at, actor)
	}
	o.begin(at, actor)
	o.enqueueNext()
	return nil
}

// enqueueNext asks for the jobs that the order, as it stands, waits for.
func (o *Order) enqueueNext() {
	for _, t := range o.Transactions {
		if !t.Settled() {
			o.enqueue(PaymentJob{OrderID: o.ID, Transaction: t.N})
		}
	}
	switch {
	case o.shipmentUnwanted() && o.Shipment.State == ShipmentRequested:
		o.enqueue(ShipOrderJob{OrderID: o.ID})
	case o.shipmentUnwanted():
		o.enqueue(CancelShipmentJob{OrderID: o.ID})
	case o.Status == OrderPending:
		o.enqueue(ReserveStockJob{OrderID: o.ID})
	case o.Status != OrderProcessing:
	case o.Shipment != nil && o.Shipment.State == ShipmentRequested:
		o.enqueue(ShipOrderJob{OrderID: o.ID})
	case o.shipped():
		if o.PaymentStatus == PaymentAuthorized && o.openTransaction() == nil {
			o.requestCapture()
		}
		o.enqueueTracking()
	}
}

// Waits reports whether only a job can take the order on from here: such an order must have one (guarantee 8).
func (o *Order) Waits() bool {
	if o.openTransaction() != nil && o.Status != OrderOnHold || o.shipmentUnwanted() {
		return true
	}
	return o.Status == OrderPending || o.Status == OrderProcessing || o.Status == OrderRequiresAction
}

// Clone is a copy of the order that later commands on o do not change. What o has noted is not part of it.
func (o *Order) Clone() *Order {
	c := *o
	c.changes = Changes{}
	c.Lines = slices.Clone(o.Lines)
	c.Transactions = slices.Clone(o.Transactions)
	c.Reservations = slices.Clone(o.Reservations)
	if o.Shipment != nil {
		sh := *o.Shipment
		c.Shipment = &sh
	}
	return &c
}
