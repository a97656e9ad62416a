package millrace_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"millrace"
)

// world is a few orders on a small shelf, the jobs they asked for, and a gateway and a carrier that keep their own books. Jobs run
// at any time, twice, beside each other, or are cut off half way, and commands come in between.
type world struct {
	t       *rapid.T
	policy  millrace.PaymentPolicy
	now     time.Time
	orders  []*life
	levels  map[string]*millrace.InventoryLevel
	stocked map[string]int64
	gateway map[string]*charge // by the key of the authorize
	answers map[string]millrace.PaymentResult
	labels  map[string]*label // by key
}

// life is an order, its events so far, and the jobs that were asked for and have not been done.
type life struct {
	order  *millrace.Order
	placed *millrace.Order // as it began
	events []millrace.Event
	jobs   []millrace.Job
	calls  []call // that have left, and whose answers have not come back
}

// call is a provider's answer on its way back to us, and the job that will record it.
type call struct {
	job    millrace.Job
	record func() error
}

type charge struct {
	order                      uuid.UUID
	reference                  string
	amount, captured, refunded int64
	waits, voided, declined    bool
	withCapture                bool
}

type label struct{ canceled bool }

func newWorld(t *rapid.T) *world {
	w := &world{t: t, now: noon, levels: make(map[string]*millrace.InventoryLevel), stocked: make(map[string]int64),
		gateway: make(map[string]*charge), answers: make(map[string]millrace.PaymentResult), labels: make(map[string]*label)}
	w.policy = millrace.PaymentPolicy{ActionTimeout: 30 * time.Minute, CaptureOnShipment: rapid.Bool().Draw(t, "capture on shipment")}
	for _, sku := range []string{"TEA-001", "CUP-002"} {
		n := rapid.Int64Range(0, 6).Draw(t, "stock of "+sku)
		w.levels[sku], w.stocked[sku] = &millrace.InventoryLevel{SKU: sku, Location: "main", OnHand: n}, n
	}
	for range 3 {
		r := millrace.OrderRequest{PaymentMethod: "pm_ok", Lines: []millrace.LineRequest{{SKU: "TEA-001", Quantity: 2}, {SKU: "CUP-002", Quantity: 1}}}
		o, err := millrace.NewOrder(uuid.New(), &ada, &r, catalogue, w.now, actor)
		require.NoError(t, err)
		l := &life{order: o}
		w.orders = append(w.orders, l)
		w.take(l)
		l.placed = o.Clone()
	}
	return w
}

// do runs a command as the store does: on a copy, which stands only if the command was allowed, and whose notes are then written.
func (w *world) do(l *life, f func(*millrace.Order) error) error {
	next := l.order.Clone()
	if err := f(next); err != nil {
		return err
	}
	l.order = next
	w.take(l)
	return nil
}

func (w *world) take(l *life) {
	change := l.order.TakeChanges()
	l.events = append(l.events, change.Events...)
	l.jobs = append(l.jobs, change.Jobs...)
	for _, m := range change.Stock {
		w.levels[m.SKU].OnHand -= m.Shipped
		w.levels[m.SKU].Reserved += m.Reserved - m.Shipped
	}
}

// draw picks an order, or has the test pass over the action where none fits.
func (w *world) draw(t *rapid.T, fits func(*life) bool) *life {
	var list []int
	for i, l := range w.orders {
		if fits(l) {
			list = append(list, i)
		}
	}
	if len(list) == 0 {
		t.Skip("no order fits")
	}
	return w.orders[rapid.SampledFrom(list).Draw(t, "order")]
}

func anyOrder(*life) bool { return true }

// work begins one of an order's jobs. It may stay in the queue, as a job does whose process is killed.
func (w *world) work(t *rapid.T) {
	l := w.draw(t, func(l *life) bool { return len(l.jobs) > 0 })
	i := rapid.IntRange(0, len(l.jobs)-1).Draw(t, "job")
	answer := rapid.SampledFrom([]string{"yes", "no", "act", "lost before", "lost after", "retry", "later"}).Draw(t, "answer")
	job := l.jobs[i]
	if !rapid.Bool().Draw(t, "runs twice") {
		l.jobs = slices.Delete(l.jobs, i, i+1)
	}
	w.run(l, job, answer)
}

// arrive has an answer arrive.
func (w *world) arrive(t *rapid.T) {
	l := w.draw(t, func(l *life) bool { return len(l.calls) > 0 })
	w.finish(l, rapid.IntRange(0, len(l.calls)-1).Draw(t, "call"))
}

func (w *world) finish(l *life, i int) {
	c := l.calls[i]
	l.calls = slices.Delete(l.calls, i, i+1)
	require.NoError(w.t, c.record())
}

// run begins a job as package jobs does: what it finds now decides what it asks; the answer comes later.
func (w *world) run(l *life, job millrace.Job, answer string) {
	o := l.order
	switch j := job.(type) {
	case millrace.ReserveStockJob:
		var levels []millrace.InventoryLevel
		for _, level := range w.levels {
			levels = append(levels, *level)
		}
		require.NoError(w.t, w.do(l, func(o *millrace.Order) error {
			o.ReserveStock(millrace.NewShelf(levels), w.policy, w.now, actor)
			return nil
		}))
	case millrace.PaymentJob:
		w.pay(l, j, answer)
	case millrace.ShipOrderJob:
		if o.Shipment == nil || o.Shipment.State != millrace.ShipmentRequested || !o.Status.Final() && o.Status != millrace.OrderProcessing {
			return
		}
		w.label(l, j, answer)
	case millrace.TrackShipmentJob:
		if o.Status != millrace.OrderProcessing || o.Shipment.State == millrace.ShipmentDelivered {
			return
		}
		state := map[string]millrace.ShipmentState{"yes": millrace.ShipmentDelivered, "act": millrace.ShipmentInTransit}[answer]
		l.calls = append(l.calls, call{j, func() error {
			if state != millrace.ShipmentDelivered {
				l.jobs = append(l.jobs, j)
			}
			return w.do(l, func(o *millrace.Order) error {
				return o.TrackShipment(millrace.TrackResult{State: state}, w.now, actor)
			})
		}})
	case millrace.CancelShipmentJob:
		if !o.Status.Final() || o.Shipment.State != millrace.ShipmentPurchased {
			return
		}
		if w.labels[o.Shipment.ID.String()].canceled = true; answer == "lost after" {
			l.jobs = append(l.jobs, j)
			return
		}
		require.NoError(w.t, w.do(l, func(o *millrace.Order) error { return o.ShipmentCanceled(w.now, actor) }))
	}
}

func (w *world) label(l *life, j millrace.ShipOrderJob, answer string) {
	key := l.order.Shipment.ID.String()
	record := func(r millrace.LabelResult) {
		l.calls = append(l.calls, call{j, func() error {
			if err := w.do(l, func(o *millrace.Order) error { return o.SettleShipment(r, "model", w.now, actor) }); err != nil {
				return err
			}
			if l.order.Status.Final() || r.Outcome != millrace.OutcomeApproved && r.Outcome != millrace.OutcomeDeclined {
				l.jobs = append(l.jobs, j)
			}
			return nil
		}})
	}
	if l.order.Status.Final() {
		if w.labels[key] != nil {
			record(millrace.LabelResult{Outcome: millrace.OutcomeApproved, Reference: key})
			return
		}
		require.NoError(w.t, w.do(l, func(o *millrace.Order) error { return o.ShipmentCanceled(w.now, actor) }))
		return
	}
	if w.labels[key] == nil && (answer == "yes" || answer == "lost after") {
		w.labels[key] = &label{}
	}
	switch {
	case answer == "lost after" || answer == "lost before":
		record(millrace.LabelResult{Outcome: millrace.OutcomeUnknown})
	case w.labels[key] != nil:
		record(millrace.LabelResult{Outcome: millrace.OutcomeApproved, Reference: key})
	case answer == "no":
		record(millrace.LabelResult{Outcome: millrace.OutcomeDeclined, Code: "no_rate"})
	default:
		record(millrace.LabelResult{Outcome: millrace.OutcomeRetry})
	}
}

// pay begins the job of a payment transaction.
func (w *world) pay(l *life, j millrace.PaymentJob, answer string) {
	o := l.order
	t, err := o.FindTransaction(j.Transaction)
	require.NoError(w.t, err)
	taking := t.Kind == millrace.TransactionAuthorize || t.Kind == millrace.TransactionCapture
	if t.Settled() || taking && o.Status == millrace.OrderOnHold {
		return
	}
	unwanted := o.Status.Final() && t.Kind == millrace.TransactionAuthorize
	var r millrace.PaymentResult
	if known, ok := w.get(t); ok && (t.State != millrace.TransactionRequested || unwanted) {
		r = known
	} else if unwanted {
		// That the gateway never heard of it is believed once no call can be under way any more.
		r = millrace.PaymentResult{Outcome: millrace.OutcomeNotFound}
		if len(l.calls) == 0 {
			r = millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: millrace.CodeAbandoned}
		}
	} else {
		r = w.ask(o, t, answer)
	}
	if answer == "lost after" {
		r = millrace.PaymentResult{Outcome: millrace.OutcomeUnknown}
	}
	l.calls = append(l.calls, call{j, func() error {
		err := w.do(l, func(o *millrace.Order) error { return o.SettlePayment(t.N, r, w.policy, w.now, actor) })
		if r.Outcome != millrace.OutcomeApproved && r.Outcome != millrace.OutcomeDeclined {
			l.jobs = append(l.jobs, j)
		}
		return err
	}})
}

// get is what the gateway says of a transaction that it was asked for before.
func (w *world) get(t millrace.PaymentTransaction) (millrace.PaymentResult, bool) {
	c := w.gateway[t.Key]
	if t.Kind != millrace.TransactionAuthorize || c == nil {
		r, ok := w.answers[t.Key]
		return r, ok
	}
	switch {
	case c.declined:
		return millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Reference: c.reference}, true
	case c.waits:
		return millrace.PaymentResult{Outcome: millrace.OutcomeRequiresAction, Reference: c.reference}, true
	}
	return millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: c.reference, Captured: c.captured > 0}, true
}

// ask has the gateway move money, once for each key.
func (w *world) ask(o *millrace.Order, t millrace.PaymentTransaction, answer string) millrace.PaymentResult {
	if r, ok := w.get(t); ok {
		return r
	}
	switch answer {
	case "lost before":
		return millrace.PaymentResult{Outcome: millrace.OutcomeUnknown}
	case "retry", "later":
		return millrace.PaymentResult{Outcome: millrace.OutcomeRetry}
	}
	if t.Kind == millrace.TransactionAuthorize {
		c := &charge{order: o.ID, reference: "ref:" + t.Key, amount: t.AmountMinor, waits: answer == "act", declined: answer == "no", withCapture: t.WithCapture}
		if !c.waits && !c.declined && t.WithCapture {
			c.captured = c.amount
		}
		w.gateway[t.Key] = c
		r, _ := w.get(t)
		return r
	}
	r := millrace.PaymentResult{Outcome: millrace.OutcomeApproved, Reference: t.Reference}
	var c *charge
	for _, x := range w.gateway {
		if x.reference == t.Reference {
			c = x
		}
	}
	require.NotNil(w.t, c, "%s names a payment that the gateway knows: %q", t.Kind, t.Reference)
	switch t.Kind {
	case millrace.TransactionAuthorize: // see above
	case millrace.TransactionCapture:
		if answer == "no" {
			r = millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: "expired"}
			break
		}
		require.Zero(w.t, c.captured, "captured twice")
		require.False(w.t, c.voided, "captured after it was voided")
		c.captured = t.AmountMinor
	case millrace.TransactionVoid:
		if c.captured > 0 {
			r = millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: millrace.CodeAlreadyCaptured}
			break
		}
		c.voided, c.waits = true, false
	case millrace.TransactionRefund:
		c.refunded += t.AmountMinor
		require.LessOrEqual(w.t, c.refunded, c.captured, "the gateway was asked to refund more than it took")
	}
	w.answers[t.Key] = r
	return r
}

// buyer has a buyer confirm or decline at the bank.
func (w *world) buyer(t *rapid.T) {
	var waiting []string
	for key, c := range w.gateway {
		if c.waits {
			waiting = append(waiting, key)
		}
	}
	if len(waiting) == 0 {
		t.Skip("nobody must act")
	}
	slices.Sort(waiting)
	w.decide(w.gateway[rapid.SampledFrom(waiting).Draw(t, "payment")], rapid.Bool().Draw(t, "confirms"))
}

func (w *world) decide(c *charge, confirm bool) {
	c.waits, c.declined = false, !confirm
	if confirm && c.withCapture {
		c.captured = c.amount
	}
}

// command gives any order any command; the domain may refuse, and then nothing happened.
func (w *world) command(t *rapid.T) {
	l := w.draw(t, anyOrder)
	refundKey := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "refund key")
	amount := rapid.Int64Range(-1, 3001).Draw(t, "amount")
	commands := map[string]func(*millrace.Order) error{
		"cancel":  func(o *millrace.Order) error { return o.Cancel("", w.now, actor) },
		"hold":    func(o *millrace.Order) error { return o.Hold("held", w.now, actor) },
		"release": func(o *millrace.Order) error { return o.Release(w.now, actor) },
		"resume":  func(o *millrace.Order) error { return o.Resume(w.now, actor) },
		"expire":  func(o *millrace.Order) error { return o.Expire(w.now, actor) },
		"refund":  func(o *millrace.Order) error { return o.Refund(amount, refundKey, w.now, actor) },
	}
	name := rapid.SampledFrom([]string{"cancel", "hold", "release", "resume", "expire", "refund"}).Draw(t, "command")
	if err := w.do(l, commands[name]); err != nil {
		require.Contains(t, []millrace.Code{millrace.CodeConflict, millrace.CodeInvalid, millrace.CodeKeyReused}, millrace.ErrorCode(err))
	}
}

func (w *world) wait(t *rapid.T) {
	w.now = w.now.Add(rapid.SampledFrom([]time.Duration{time.Second, time.Hour}).Draw(t, "time"))
}

// check is what must hold at any moment.
func (w *world) check(t *rapid.T) {
	held := make(map[string]int64)
	consumed := make(map[string]int64)
	for _, l := range w.orders {
		o := l.order
		from := millrace.OrderPending
		for i, e := range l.events {
			require.EqualValues(t, i+1, e.Version, "versions are 1..n")
			require.True(t, from.MayBecome(e.Status), "%s to %s", from, e.Status)
			from = e.Status
		}
		require.Equal(t, l.placed, o.AsPlaced(), "how it began can be told from how it is")
		last := l.events[len(l.events)-1]
		require.Equal(t, []any{last.Status, last.Version}, []any{o.Status, o.Version}, "the order is as its last event says")
		captures, captured, back := 0, int64(0), int64(0)
		for i, tx := range o.Transactions {
			require.EqualValues(t, i+1, tx.N)
			switch {
			case tx.Kind == millrace.TransactionCapture && tx.State == millrace.TransactionSucceeded:
				captures, captured = captures+1, captured+tx.AmountMinor
			case tx.Kind == millrace.TransactionRefund && tx.State != millrace.TransactionFailed:
				back += tx.AmountMinor
			}
		}
		require.LessOrEqual(t, captures, 1, "at most one capture succeeded")
		require.LessOrEqual(t, back, captured, "no more is sent back than was taken")
		charges := 0
		for _, c := range w.gateway {
			if c.order == o.ID && c.captured > 0 {
				charges++
			}
		}
		require.LessOrEqual(t, charges, 1, "the gateway took money once")
		require.True(t, !o.Waits() || len(l.jobs)+len(l.calls) > 0, "order in %s, money %s, waits for a job that nobody asked for", o.Status, o.PaymentStatus)
		for _, r := range o.Reservations {
			switch r.State {
			case millrace.ReservationHeld:
				held[r.SKU] += r.Quantity
				require.False(t, o.Status.Final(), "an order that has ended holds no stock")
			case millrace.ReservationConsumed:
				consumed[r.SKU] += r.Quantity
			case millrace.ReservationReleased:
			}
		}
	}
	for sku, l := range w.levels {
		require.True(t, 0 <= l.Reserved && l.Reserved <= l.OnHand, "%+v", *l)
		require.Equal(t, held[sku], l.Reserved, "what is reserved is what orders hold")
		require.Equal(t, w.stocked[sku], l.OnHand+consumed[sku], "on hand and shipped is what was stocked")
	}
}

// settle lets the world come to rest: every answer arrives, providers say yes, operators release what is held and buyers act.
func (w *world) settle() {
	for range 200 {
		quiet := true
		for _, c := range w.gateway {
			if c.waits {
				w.decide(c, true)
			}
		}
		for _, l := range w.orders {
			for len(l.calls) > 0 {
				w.finish(l, 0)
			}
			if l.order.Status == millrace.OrderOnHold {
				require.NoError(w.t, w.do(l, func(o *millrace.Order) error { return o.Release(w.now, actor) }))
			}
			jobs := l.jobs
			l.jobs = nil
			for _, j := range jobs {
				w.run(l, j, "yes")
			}
			quiet = quiet && len(jobs) == 0 && len(l.calls) == 0
		}
		w.check(w.t)
		if quiet {
			return
		}
	}
	w.t.Fatalf("the jobs never end")
}

// ended is what must hold once no job is alive: every order has an end, and the books agree with it.
func (w *world) ended() {
	for _, l := range w.orders {
		o := l.order
		require.True(w.t, o.Status.Final(), "quiet means done: order is %s", o.Status)
		for _, c := range w.gateway {
			if c.order != o.ID {
				continue
			}
			require.Equal(w.t, o.CapturedMinor(), c.captured, "we know what the gateway took")
			require.Equal(w.t, o.RefundedMinor(), c.refunded, "and what it sent back")
			if o.Status != millrace.OrderCompleted {
				require.Equal(w.t, c.captured, c.refunded, "an order that is %s is not paid for", o.Status)
				require.True(w.t, c.captured > 0 || c.voided || c.declined, "an order that is %s holds no money", o.Status)
			}
		}
		if o.Status == millrace.OrderCompleted {
			require.Equal(w.t, o.TotalMinor, o.CapturedMinor())
		}
		if o.Shipment != nil && o.Status != millrace.OrderCompleted {
			sold := w.labels[o.Shipment.ID.String()]
			require.True(w.t, sold == nil || sold.canceled, "the label of an order that is %s was given back", o.Status)
			require.Equal(w.t, millrace.ShipmentCanceled, o.Shipment.State)
		}
	}
}

func TestWhateverHappensTheBooksAreRight(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		t.Repeat(map[string]func(*rapid.T){
			"":        w.check,
			"work":    w.work,
			"work 2":  w.work, // twice as often
			"arrive":  w.arrive,
			"command": w.command,
			"buyer":   w.buyer,
			"wait":    w.wait,
		})
		w.settle()
		w.ended()
	})
}
