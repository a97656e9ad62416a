package millrace

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Outcome is what a provider says became of a call.
type Outcome string

// The outcomes.
const (
	OutcomeApproved       Outcome = "approved"
	OutcomePending        Outcome = "pending"         // accepted; the answer comes later
	OutcomeRequiresAction Outcome = "requires_action" // the buyer must act first
	OutcomeDeclined       Outcome = "declined"        // no, for good
	OutcomeRetry          Outcome = "retry"           // nothing happened; the same call may succeed later
	OutcomeUnknown        Outcome = "unknown"         // it may or may not have happened: ask before anything else
	OutcomeNotFound       Outcome = "not_found"       // only an answer to Get: the provider never saw this key
)

// Outcomes lists every outcome.
func Outcomes() []Outcome {
	return []Outcome{OutcomeApproved, OutcomePending, OutcomeRequiresAction, OutcomeDeclined, OutcomeRetry, OutcomeUnknown, OutcomeNotFound}
}

// TransactionKind is what is asked of a gateway.
type TransactionKind string

// The kinds of payment transactions.
const (
	TransactionAuthorize TransactionKind = "authorize"
	TransactionCapture   TransactionKind = "capture"
	TransactionVoid      TransactionKind = "void"
	TransactionRefund    TransactionKind = "refund"
)

// TransactionState is where a payment transaction stands.
type TransactionState string

// The states of a payment transaction. Succeeded and failed are final.
const (
	TransactionRequested      TransactionState = "requested" // stored before the gateway is called
	TransactionPending        TransactionState = "pending"
	TransactionRequiresAction TransactionState = "requires_action"
	TransactionUnknown        TransactionState = "unknown"
	TransactionSucceeded      TransactionState = "succeeded"
	TransactionFailed         TransactionState = "failed"
)

// PaymentTransaction is one request to move an order's money. The list of an order's transactions only grows.
type PaymentTransaction struct {
	N           int32 // 1..n within the order
	Kind        TransactionKind
	State       TransactionState
	AmountMinor int64
	WithCapture bool   // of an authorize: the gateway is asked to capture in the same call
	Key         string // the idempotency key sent to the gateway, the same on every try
	Gateway     string // the adapter that answered
	Reference   string // the gateway's id of the payment
	Code        string // why it failed
	RequestedAt time.Time
	ExpiresAt   *time.Time // of an authorize that waits for the buyer: when we stop waiting
}

// Settled reports whether nothing more can come of it.
func (t *PaymentTransaction) Settled() bool {
	return t.State == TransactionSucceeded || t.State == TransactionFailed
}

// Gateway moves money. Implementations are in provider/. Calls with a key seen before repeat the first answer and move nothing.
// A nil error comes with one of the outcomes; an error is a call whose fate is not known and is treated as OutcomeUnknown.
type Gateway interface {
	// Name is the adapter's name, stored with the transaction.
	Name() string
	// Authorize reserves the buyer's money, and takes it at once if WithCapture.
	Authorize(ctx context.Context, r PaymentRequest) (PaymentResult, error)
	// Capture takes money that Reference has authorized.
	Capture(ctx context.Context, r PaymentRequest) (PaymentResult, error)
	// Void gives up what Reference has authorized, or what still waits for the buyer. Declined with CodeAlreadyCaptured if the
	// money was taken meanwhile.
	Void(ctx context.Context, r PaymentRequest) (PaymentResult, error)
	// Refund sends captured money back.
	Refund(ctx context.Context, r PaymentRequest) (PaymentResult, error)
	// Get asks what became of the call made under r.Key: its outcome as it stands now, or OutcomeNotFound. OutcomeRetry says that
	// nothing happened then; a question that cannot be answered now is an error.
	Get(ctx context.Context, r PaymentRequest) (PaymentResult, error)
}

const (
	// CodeAlreadyCaptured is the code of a void that came too late.
	CodeAlreadyCaptured = "already_captured"
	// CodeAbandoned is the code of an authorize that we gave up on before the gateway took any money.
	CodeAbandoned = "abandoned"
)

// PaymentRequest is one call to a gateway.
type PaymentRequest struct {
	Key         string // idempotency key
	Kind        TransactionKind
	OrderID     uuid.UUID
	Method      string // the payment method's token
	Reference   string // the gateway's id of the payment; empty for an authorize
	AmountMinor int64
	Currency    Currency
	WithCapture bool
}

// PaymentResult is a gateway's answer.
type PaymentResult struct {
	Outcome   Outcome
	Gateway   string // the adapter that answered, as its Name says; filled in by whoever made the call
	Reference string // the gateway's id of the payment
	Captured  bool   // the money was taken as well
	Code      string // why it was declined
	ActionURL string // where the buyer must act
}

// PaymentPolicy is how a shop wants to be paid.
type PaymentPolicy struct {
	// CaptureOnShipment takes the money when the goods leave; otherwise it is taken with the authorization.
	CaptureOnShipment bool
	// ActionTimeout is how long a buyer has to act before the order expires.
	ActionTimeout time.Duration
}

// transaction is the order's nth payment transaction, nil if there is none.
func (o *Order) transaction(n int32) *PaymentTransaction {
	if n < 1 || int(n) > len(o.Transactions) {
		return nil
	}
	return &o.Transactions[n-1]
}

// FindTransaction is the order's nth payment transaction, or CodeNotFound.
func (o *Order) FindTransaction(n int32) (PaymentTransaction, error) {
	if t := o.transaction(n); t != nil {
		return *t, nil
	}
	return PaymentTransaction{}, Errorf(CodeNotFound, "The order has no payment transaction %d.", n)
}

// requestPayment appends a transaction and the job that settles it.
func (o *Order) requestPayment(t PaymentTransaction, at time.Time) {
	t.N = int32(len(o.Transactions)) + 1
	t.State = TransactionRequested
	t.RequestedAt = at
	if t.Key == "" {
		t.Key = fmt.Sprintf("%s:%s:%d", o.ID, t.Kind, t.N)
	}
	o.Transactions = append(o.Transactions, t)
	o.touchTransaction(t.N)
	o.enqueue(PaymentJob{OrderID: o.ID, Transaction: t.N})
}

// openTransaction is the first transaction that is not settled, nil if there is none.
func (o *Order) openTransaction() *PaymentTransaction {
	for i := range o.Transactions {
		if !o.Transactions[i].Settled() {
			return &o.Transactions[i]
		}
	}
	return nil
}

// moved sums the succeeded transactions of a kind, in minor units.
func (o *Order) moved(k TransactionKind) int64 {
	var sum int64
	for _, t := range o.Transactions {
		if t.Kind == k && t.State == TransactionSucceeded {
			sum += t.AmountMinor
		}
	}
	return sum
}

// CapturedMinor is what was taken from the buyer, in minor units.
func (o *Order) CapturedMinor() int64 { return o.moved(TransactionCapture) }

// RefundedMinor is what was sent back to the buyer, in minor units.
func (o *Order) RefundedMinor() int64 { return o.moved(TransactionRefund) }

// refundsUnderWay sums the refunds that are asked for and not settled, in minor units.
func (o *Order) refundsUnderWay() int64 {
	var sum int64
	for _, t := range o.Transactions {
		if t.Kind == TransactionRefund && !t.Settled() {
			sum += t.AmountMinor
		}
	}
	return sum
}

// SettlePayment records what the gateway said about the order's nth transaction and draws the consequences. An answer that comes
// after the transaction was settled, or that says nothing new, changes nothing. Money that arrives for an order which is final by
// now is sent back.
func (o *Order) SettlePayment(n int32, r PaymentResult, p PaymentPolicy, at time.Time, actor string) error {
	t := o.transaction(n)
	if t == nil {
		return Errorf(CodeNotFound, "The order has no payment transaction %d.", n)
	}
	if t.Settled() {
		return nil
	}
	o.begin(at, actor)
	if r.Reference != "" && t.Reference != r.Reference {
		t.Reference = r.Reference
		o.touchTransaction(n)
	}
	if r.Gateway != "" && t.Gateway != r.Gateway {
		t.Gateway = r.Gateway
		o.touchTransaction(n)
	}
	switch r.Outcome {
	case OutcomeApproved:
		o.settle(t, TransactionSucceeded, "")
		return o.approved(*t, r)
	case OutcomeDeclined:
		o.settle(t, TransactionFailed, r.Code)
		return o.declined(*t, r)
	case OutcomeRequiresAction:
		return o.awaitBuyer(t, r, p)
	case OutcomePending:
		o.settle(t, TransactionPending, "")
	case OutcomeUnknown:
		if t.State == TransactionRequested { // of a payment that the gateway knows, only the question was lost
			o.settle(t, TransactionUnknown, "")
		}
	case OutcomeRetry, OutcomeNotFound:
	}
	return nil
}

// settle moves a transaction to a state, if it is not there yet.
func (o *Order) settle(t *PaymentTransaction, s TransactionState, code string) {
	if t.State != s {
		t.State, t.Code = s, code
		o.touchTransaction(t.N)
	}
}

func (o *Order) approved(t PaymentTransaction, r PaymentResult) error {
	money := eventData{AmountMinor: t.AmountMinor, Currency: o.Currency, Transaction: t.N}
	switch t.Kind {
	case TransactionAuthorize:
		o.PaymentStatus = PaymentAuthorized
		o.proceed(OrderProcessing)
		o.record(EventPaymentAuthorized, money)
		if r.Captured {
			o.recordCapture(t)
		}
		if o.Status.Final() {
			return o.reverse()
		}
		if o.Shipment == nil {
			o.Shipment = &Shipment{ID: o.newID(), State: ShipmentRequested}
			o.changes.shipment = true
		}
		o.enqueueNext()
	case TransactionCapture:
		o.PaymentStatus = PaymentPaid
		o.record(EventPaymentCaptured, money)
		if o.Status.Final() {
			return o.reverse()
		}
		o.completeIfDone()
	case TransactionVoid:
		if o.PaymentStatus != PaymentExpired {
			o.PaymentStatus = PaymentVoided
		}
		o.record(EventPaymentVoided, money)
	case TransactionRefund:
		o.PaymentStatus = PaymentPartiallyRefunded
		if o.RefundedMinor() >= o.CapturedMinor() {
			o.PaymentStatus = PaymentRefunded
		}
		o.record(EventPaymentRefunded, money)
	}
	return nil
}

// recordCapture notes that authorizing t took the money as well.
func (o *Order) recordCapture(t PaymentTransaction) {
	c := PaymentTransaction{N: int32(len(o.Transactions)) + 1, Kind: TransactionCapture, State: TransactionSucceeded,
		AmountMinor: t.AmountMinor, Key: t.Key, Gateway: t.Gateway, Reference: t.Reference, RequestedAt: o.changes.at}
	o.Transactions = append(o.Transactions, c)
	o.touchTransaction(c.N)
	o.PaymentStatus = PaymentPaid
	o.record(EventPaymentCaptured, eventData{AmountMinor: c.AmountMinor, Currency: o.Currency, Transaction: c.N})
}

func (o *Order) declined(t PaymentTransaction, r PaymentResult) error {
	why := eventData{Code: r.Code, Transaction: t.N}
	switch t.Kind {
	case TransactionAuthorize:
		if o.Status.Final() {
			if o.PaymentStatus == PaymentPending {
				o.PaymentStatus = PaymentVoided // nothing was taken, and nothing will be
				o.record(EventPaymentVoided, why)
			}
			return nil
		}
		o.PaymentStatus = PaymentFailed
		o.record(EventPaymentDeclined, why)
		o.releaseStock()
		o.FulfillmentStatus = FulfillmentCanceled
		o.Status, o.HoldReason = OrderFailed, ""
		o.record(EventOrderFailed, eventData{Reason: "payment_declined"})
	case TransactionCapture:
		if !o.Status.Final() {
			o.hold("capture_declined: "+r.Code, eventData{Reason: "capture_declined", Code: r.Code})
		}
	case TransactionVoid:
		if r.Code == CodeAlreadyCaptured {
			o.recordCapture(t)
			return o.reverse()
		}
	case TransactionRefund:
	}
	return nil
}

// awaitBuyer has the order wait until the buyer confirms at the bank, or until it is too late.
func (o *Order) awaitBuyer(t *PaymentTransaction, r PaymentResult, p PaymentPolicy) error {
	if t.State == TransactionRequiresAction {
		return nil
	}
	o.settle(t, TransactionRequiresAction, "")
	if t.ExpiresAt == nil { // to be asked a second time gives no more time
		expires := o.changes.at.Add(p.ActionTimeout)
		t.ExpiresAt = &expires
	}
	if o.Status.Final() {
		return o.abandon(t)
	}
	if o.Status == OrderProcessing {
		o.Status = OrderRequiresAction
	}
	o.record(EventPaymentRequiresAction, eventData{Reference: t.Reference, ActionURL: r.ActionURL,
		ExpiresAt: t.ExpiresAt.UTC().Format(time.RFC3339), Transaction: t.N})
	return nil
}

// abandon gives up on an authorize that the buyer has not confirmed, and tells the gateway so.
func (o *Order) abandon(t *PaymentTransaction) error {
	reference, amount := t.Reference, t.AmountMinor
	o.settle(t, TransactionFailed, CodeAbandoned)
	o.requestPayment(PaymentTransaction{Kind: TransactionVoid, AmountMinor: amount, Reference: reference}, o.changes.at)
	return nil
}

// reverse asks for the money of an order to be given back: a void while it is only authorized, a refund once it was taken.
func (o *Order) reverse() error {
	reference := o.paymentReference()
	if back := o.CapturedMinor() - o.RefundedMinor() - o.refundsUnderWay(); back > 0 {
		o.requestPayment(PaymentTransaction{Kind: TransactionRefund, AmountMinor: back, Reference: reference}, o.changes.at)
		return nil
	}
	if o.PaymentStatus == PaymentAuthorized {
		o.requestPayment(PaymentTransaction{Kind: TransactionVoid, AmountMinor: o.moved(TransactionAuthorize), Reference: reference}, o.changes.at)
	}
	return nil
}

// paymentReference is the gateway's id of the order's payment, empty before there is one.
func (o *Order) paymentReference() string {
	for _, t := range o.Transactions {
		if t.Reference != "" {
			return t.Reference
		}
	}
	return ""
}

// Refund sends amount minor units back to the buyer, at most what was captured and not yet refunded or asked back; 0 is all of that.
// A second call under the same key changes nothing.
func (o *Order) Refund(amount int64, key string, at time.Time, actor string) error {
	o.begin(at, actor)
	outbound := fmt.Sprintf("%s:refund:%s", o.ID, uuid.NewSHA1(o.ID, []byte(key))) // as long as gateways take, whatever the client's is
	for _, t := range o.Transactions {
		if t.Key != outbound {
			continue
		}
		if amount != 0 && t.AmountMinor != amount {
			return Errorf(CodeKeyReused, "This Idempotency-Key was used for a refund of another amount: take a new one.")
		}
		return nil
	}
	left := o.CapturedMinor() - o.RefundedMinor() - o.refundsUnderWay()
	if amount < 0 {
		return InvalidField("amount_minor", "A refund must be more than 0 minor units.")
	}
	if amount == 0 {
		amount = left
	}
	if amount > left || left == 0 {
		return Errorf(CodeConflict, "At most %s can be refunded now.", o.Currency.Format(left))
	}
	o.requestPayment(PaymentTransaction{Kind: TransactionRefund, AmountMinor: amount, Key: outbound, Reference: o.paymentReference()}, at)
	return nil
}
