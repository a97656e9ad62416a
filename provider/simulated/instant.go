package simulated

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"github.com/google/uuid"

	"millrace"
)

// instantKept is how many keys, payments and labels each of the instant providers remembers.
const instantKept = 1 << 14

// Instant is providers in memory that answer at once, for benches: any payment method is approved, any parcel delivered. They keep
// the rules on amounts, keys and what may follow what, for the last 16,384 of each; of older ones they approve whatever is asked.
// A reference follows from its key, so even a forgotten key gets the same one again.
func Instant() *Providers {
	return newInstant(instantKept)
}

func newInstant(kept int) *Providers {
	return &Providers{
		gateway:   &instantGateway{answers: newMemory[instantAnswer](kept), charges: newMemory[*instantCharge](kept)},
		carrier:   &instantCarrier{labels: newMemory[uuid.UUID](kept)},
		warehouse: &instantWarehouse{requests: newMemory[uuid.UUID](kept)},
		handler:   http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { noPage.write(w) }),
		close:     func() {},
	}
}

// memory is a map that forgets its oldest entry when it is full.
type memory[V any] struct {
	values map[string]V
	keys   []string // in order of arrival, from next on round
	next   int
	kept   int
}

func newMemory[V any](kept int) memory[V] {
	return memory[V]{values: make(map[string]V), kept: kept}
}

func (m *memory[V]) put(key string, v V) {
	if _, known := m.values[key]; !known {
		if len(m.keys) < m.kept {
			m.keys = append(m.keys, key)
		} else {
			delete(m.values, m.keys[m.next])
			m.keys[m.next] = key
			m.next = (m.next + 1) % m.kept
		}
	}
	m.values[key] = v
}

// full reports whether something may have been forgotten.
func (m *memory[V]) full() bool { return len(m.keys) == m.kept }

// instantCharge is a payment of the instant gateway.
type instantCharge struct {
	order                      uuid.UUID
	currency                   millrace.Currency
	amount, captured, refunded int64
	taken, voided              bool
}

type instantAnswer struct {
	request millrace.PaymentRequest
	result  millrace.PaymentResult
}

type instantGateway struct {
	mu      sync.Mutex
	answers memory[instantAnswer]  // by key
	charges memory[*instantCharge] // by reference
}

var _ millrace.Gateway = (*instantGateway)(nil)

func (g *instantGateway) Name() string { return gatewayName }

func (g *instantGateway) Authorize(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	r.Kind, r.Reference = millrace.TransactionAuthorize, ""
	return g.answer(ctx, r, func() millrace.PaymentResult {
		if r.AmountMinor < 0 {
			return declined(CodeInvalidAmount, "")
		}
		c := &instantCharge{order: r.OrderID, currency: r.Currency, amount: r.AmountMinor, taken: r.WithCapture}
		if c.taken {
			c.captured = c.amount
		}
		reference := paymentPrefix + r.Key
		g.charges.put(reference, c)
		return millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: reference, Captured: c.taken}
	})
}

func (g *instantGateway) Capture(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	return g.settle(ctx, millrace.TransactionCapture, r, func(c *instantCharge) string {
		switch {
		case c.taken:
			return millrace.CodeAlreadyCaptured
		case c.voided:
			return CodeVoided
		case r.AmountMinor > c.amount:
			return CodeAmountTooLarge
		}
		c.taken, c.captured = true, r.AmountMinor
		return ""
	})
}

func (g *instantGateway) Void(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	return g.settle(ctx, millrace.TransactionVoid, r, func(c *instantCharge) string {
		switch {
		case c.taken:
			return millrace.CodeAlreadyCaptured
		case r.AmountMinor != 0 && r.AmountMinor != c.amount:
			return CodeAmountMismatch
		}
		c.voided = true
		return ""
	})
}

func (g *instantGateway) Refund(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	return g.settle(ctx, millrace.TransactionRefund, r, func(c *instantCharge) string {
		switch {
		case r.AmountMinor == 0:
			return CodeInvalidAmount
		case !c.taken:
			return CodeNotCaptured
		case r.AmountMinor > c.captured-c.refunded:
			return CodeAmountTooLarge
		}
		c.refunded += r.AmountMinor
		return ""
	})
}

func (g *instantGateway) Get(ctx context.Context, r millrace.PaymentRequest) (millrace.PaymentResult, error) {
	if err := ctx.Err(); err != nil {
		return millrace.PaymentResult{}, fmt.Errorf("instant gateway: get: %w", err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if a, known := g.answers.values[r.Key]; known {
		return a.result, nil
	}
	return millrace.PaymentResult{Outcome: millrace.OutcomeNotFound}, nil
}

// settle changes a payment by move, which says why not, or nothing and has changed it.
func (g *instantGateway) settle(ctx context.Context, kind millrace.TransactionKind, r millrace.PaymentRequest, move func(*instantCharge) string) (millrace.PaymentResult, error) {
	r.Kind, r.Method, r.WithCapture = kind, "", false
	return g.answer(ctx, r, func() millrace.PaymentResult {
		c := g.charges.values[r.Reference]
		code := ""
		switch {
		case c == nil && g.charges.full() && strings.HasPrefix(r.Reference, paymentPrefix):
			// forgotten
		case c == nil || c.order != r.OrderID:
			code = CodeUnknownReference
		case c.currency != r.Currency:
			code = CodeCurrencyMismatch
		case r.AmountMinor < 0:
			code = CodeInvalidAmount
		default:
			code = move(c)
		}
		if code != "" {
			return declined(code, r.Reference)
		}
		return millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: r.Reference, Captured: kind == millrace.TransactionCapture}
	})
}

// answer gives the first answer to r's key again, or else decides and remembers.
func (g *instantGateway) answer(ctx context.Context, r millrace.PaymentRequest, decide func() millrace.PaymentResult) (millrace.PaymentResult, error) {
	if err := ctx.Err(); err != nil {
		return millrace.PaymentResult{}, fmt.Errorf("instant gateway: %s: %w", r.Kind, err)
	}
	if !validPayment(r) {
		return declined(CodeInvalidRequest, ""), nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if a, known := g.answers.values[r.Key]; known {
		if a.request != r {
			return declined(CodeIdempotencyMismatch, r.Reference), nil
		}
		return a.result, nil
	}
	result := decide()
	g.answers.put(r.Key, instantAnswer{request: r, result: result})
	return result, nil
}

type instantCarrier struct {
	mu     sync.Mutex
	labels memory[uuid.UUID] // the order, by key
}

var _ millrace.Carrier = (*instantCarrier)(nil)

func (c *instantCarrier) Name() string { return carrierName }

func (c *instantCarrier) Buy(ctx context.Context, r millrace.LabelRequest) (millrace.LabelResult, error) {
	if err := ctx.Err(); err != nil {
		return millrace.LabelResult{}, fmt.Errorf("instant carrier: buy: %w", err)
	}
	if code := refusalOfLabel(r); code != "" {
		return millrace.LabelResult{Outcome: millrace.OutcomeDeclined, Code: code}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if order, known := c.labels.values[r.Key]; known && order != r.OrderID {
		return millrace.LabelResult{Outcome: millrace.OutcomeDeclined, Code: CodeIdempotencyMismatch}, nil
	}
	c.labels.put(r.Key, r.OrderID)
	return labelOf(labelPrefix+r.Key, ""), nil
}

func (c *instantCarrier) Get(ctx context.Context, key string) (millrace.LabelResult, error) {
	if err := ctx.Err(); err != nil {
		return millrace.LabelResult{}, fmt.Errorf("instant carrier: get: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.labels.values[key]; !known {
		return millrace.LabelResult{Outcome: millrace.OutcomeNotFound}, nil
	}
	return labelOf(labelPrefix+key, ""), nil
}

func (c *instantCarrier) Track(ctx context.Context, reference, tracking string) (millrace.TrackResult, error) {
	if err := ctx.Err(); err != nil {
		return millrace.TrackResult{}, fmt.Errorf("instant carrier: track: %w", err)
	}
	if !strings.HasPrefix(reference, labelPrefix) || tracking != trackingOf(reference) {
		return millrace.TrackResult{}, ErrUnknownParcel
	}
	return millrace.TrackResult{State: millrace.ShipmentDelivered}, nil
}

func (c *instantCarrier) Cancel(ctx context.Context, reference string) (millrace.LabelResult, error) {
	if err := ctx.Err(); err != nil {
		return millrace.LabelResult{}, fmt.Errorf("instant carrier: cancel: %w", err)
	}
	code := CodeUnknownReference
	if strings.HasPrefix(reference, labelPrefix) {
		code = CodeInTransit // delivered already
	}
	return millrace.LabelResult{Outcome: millrace.OutcomeDeclined, Code: code, Reference: reference}, nil
}

type instantWarehouse struct {
	mu       sync.Mutex
	requests memory[uuid.UUID] // the order, by key; Nil of one that was canceled before it came
}

var _ millrace.Warehouse = (*instantWarehouse)(nil)

func (w *instantWarehouse) Name() string { return warehouseName }

func (w *instantWarehouse) Fulfill(ctx context.Context, r millrace.FulfillRequest) (millrace.FulfillResult, error) {
	if err := ctx.Err(); err != nil {
		return millrace.FulfillResult{}, fmt.Errorf("instant warehouse: fulfill: %w", err)
	}
	code := refusalOfRequest(r)
	w.mu.Lock()
	defer w.mu.Unlock()
	order, known := w.requests.values[r.Key]
	switch {
	case known && order == uuid.Nil:
		code = CodeCanceled
	case known && order != r.OrderID:
		code = CodeIdempotencyMismatch
	case known:
		return millrace.FulfillResult{Outcome: millrace.OutcomeApproved}, nil
	}
	if code != "" {
		return millrace.FulfillResult{Outcome: millrace.OutcomeDeclined, Code: code}, nil
	}
	w.requests.put(r.Key, r.OrderID)
	return millrace.FulfillResult{Outcome: millrace.OutcomeApproved}, nil
}

func (w *instantWarehouse) Cancel(ctx context.Context, key string) (millrace.FulfillResult, error) {
	if err := ctx.Err(); err != nil {
		return millrace.FulfillResult{}, fmt.Errorf("instant warehouse: cancel: %w", err)
	}
	if !checkKey(key) {
		return millrace.FulfillResult{Outcome: millrace.OutcomeDeclined, Code: CodeInvalidRequest}, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, known := w.requests.values[key]; !known {
		w.requests.put(key, uuid.Nil)
	}
	return millrace.FulfillResult{Outcome: millrace.OutcomeApproved}, nil
}
