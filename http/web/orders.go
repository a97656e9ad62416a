package web

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"millrace"
	"millrace/db"
)

const (
	ordersPerPage = 25
	heldOrders    = 50  // on hold, as the operators' page lists them
	eventsShown   = 500 // of one order; more come by the stream
)

// orderList is a page of orders with what filtered it.
type orderList struct {
	Orders   []*millrace.Order
	Filter   millrace.OrderStatus
	SKU      string
	Statuses []millrace.OrderStatus
	Older    string // query of the next page, empty on the last
	Later    bool   // this is not the first page
	Filtered bool
}

var listedSKU = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// listOrders reads the page of orders that the query asks for. A filter that makes no sense is an error, not an empty list.
func (w *Web) listOrders(r *http.Request, customer uuid.UUID) (*orderList, error) {
	q := r.URL.Query()
	l := &orderList{Statuses: millrace.OrderStatuses(), Filter: millrace.OrderStatus(q.Get("status")), SKU: strings.TrimSpace(q.Get("sku"))}
	f := db.OrderFilter{CustomerID: customer, Status: l.Filter, SKU: strings.ToUpper(l.SKU), Limit: ordersPerPage}
	if l.Filter != "" && !slices.Contains(l.Statuses, l.Filter) {
		return nil, millrace.InvalidField("status", "There is no status %q: choose one of the list.", string(l.Filter))
	}
	if l.SKU != "" && !listedSKU.MatchString(l.SKU) {
		return nil, millrace.InvalidField("sku", "A SKU is 1 to 64 letters, digits, dots, dashes or underscores.")
	}
	if before := q.Get("before"); before != "" {
		id, err := uuid.Parse(before)
		if err != nil {
			return nil, millrace.InvalidField("before", "This link is incomplete: start again from the first page.")
		}
		f.Before, l.Later = id, true
	}
	l.Filtered = l.Filter != "" || l.SKU != ""
	page, err := w.config.Store.PageOrders(r.Context(), f)
	if err != nil {
		return nil, err
	}
	l.Orders = page.Orders
	if page.Next != uuid.Nil {
		next := url.Values{"before": {page.Next.String()}}
		for name, value := range map[string]string{"status": string(l.Filter), "sku": l.SKU} {
			if value != "" {
				next.Set(name, value)
			}
		}
		l.Older = "?" + next.Encode()
	}
	return l, nil
}

// orders shows the orders of whoever is logged in.
func (w *Web) orders(r *http.Request, p *millrace.Principal) (*view, error) {
	v := &view{Template: "orders", Title: "Your orders", Section: "orders", Script: "orders.js"}
	c, err := w.config.Store.FindCustomer(r.Context(), p.Subject)
	if millrace.ErrorCode(err) == millrace.CodeNotFound {
		v.Data = &orderList{Statuses: millrace.OrderStatuses()}
		return v, nil
	}
	if err != nil {
		return nil, err
	}
	v.Data, err = w.listOrders(r, c.ID)
	return v, err
}

// orderData is what order.html shows.
type orderData struct {
	*millrace.Order
	Timeline  []entry
	Steps     []stepState
	ActionURL string // where the buyer must act, "" if nowhere
	Mine      bool
	CanCancel bool
	CanRefund bool
	CanHold   bool
	CanRetry  bool
}

// entry is an event on the timeline.
type entry struct {
	millrace.Event
	eventLabel
	Detail string
}

// stepState is a step and how far the order is with it: done, current (with the tone of the order's status) or ahead.
type stepState struct {
	step
	State string
	Tone  string
}

// order shows one order and its timeline, to its customer and to operators.
func (w *Web) order(r *http.Request, p *millrace.Principal) (*view, error) {
	ctx := r.Context()
	missing := millrace.Errorf(millrace.CodeNotFound, "There is no such order, or it is not yours.")
	id, err := uuid.Parse(r.PathValue("id"))
	if err != nil || id.String() != r.PathValue("id") {
		return nil, missing
	}
	o, err := w.config.Store.FindOrder(ctx, id)
	if err != nil {
		if millrace.ErrorCode(err) == millrace.CodeNotFound {
			return nil, missing
		}
		return nil, err
	}
	c, err := w.config.Store.FindCustomer(ctx, p.Subject)
	if err != nil && millrace.ErrorCode(err) != millrace.CodeNotFound {
		return nil, err
	}
	mine := c != nil && c.ID == o.CustomerID
	if !mine && !p.Is(millrace.RoleOperator) {
		return nil, missing
	}
	events, err := w.config.Store.ListEvents(ctx, id, 0, eventsShown)
	if err != nil {
		return nil, err
	}
	d := newOrderData(o, events, wordsFor(p.Is(millrace.RoleOperator)))
	d.Mine = mine
	v := &view{Template: "order", Title: "Order " + short(id), Section: "orders", Script: "order.js", Data: d}
	if !mine {
		v.Section = "admin"
	}
	return v, nil
}

func newOrderData(o *millrace.Order, events []millrace.Event, w words) *orderData {
	d := &orderData{Order: o}
	done := map[string]bool{}
	for _, e := range events {
		l := w.Events[e.Type]
		d.Timeline = append(d.Timeline, entry{Event: e, eventLabel: l, Detail: describe(l.Detail, e.Data)})
		if l.Done != "" {
			done[l.Done] = true
		}
		if e.Type == millrace.EventPaymentRequiresAction {
			d.ActionURL = actionURL(e.Data)
		}
	}
	d.Steps = stepStates(done, o.Status)
	d.CanCancel = !o.Status.Final() && o.FulfillmentStatus != millrace.FulfillmentFulfilled && o.FulfillmentStatus != millrace.FulfillmentDelivered
	d.CanHold = !o.Status.Final() && o.Status != millrace.OrderOnHold
	d.CanRetry = !o.Status.Final() || slices.ContainsFunc(o.Transactions, func(t millrace.PaymentTransaction) bool { return !t.Settled() })
	d.CanRefund = refundable(o.PaymentStatus)
	return d
}

// stepStates says how far an order is: the first step not done is the current one, until the order is completed.
func stepStates(done map[string]bool, status millrace.OrderStatus) []stepState {
	out := make([]stepState, len(steps))
	current := status != millrace.OrderCompleted
	for i, s := range steps {
		out[i] = stepState{step: s, State: "ahead", Tone: "neutral"}
		switch {
		case done[s.ID]:
			out[i].State, out[i].Tone = "done", "good"
		case current:
			out[i].State, out[i].Tone = "current", orderLabels[status].Tone
			current = false
		}
	}
	return out
}

// refundable reports whether there may be money to send back; how much, the API says.
func refundable(s millrace.PaymentStatus) bool {
	return s == millrace.PaymentPaid || s == millrace.PaymentPartiallyPaid || s == millrace.PaymentPartiallyRefunded
}

// adminData is what admin.html shows.
type adminData struct {
	*orderList
	Held     []*millrace.Order
	MoreHeld bool
}

// admin shows operators the orders that wait for them, and the latest of all.
func (w *Web) admin(r *http.Request, _ *millrace.Principal) (*view, error) {
	held, err := w.config.Store.PageOrders(r.Context(), db.OrderFilter{Status: millrace.OrderOnHold, Limit: heldOrders})
	if err != nil {
		return nil, err
	}
	list, err := w.listOrders(r, uuid.Nil)
	if err != nil {
		return nil, err
	}
	return &view{Template: "admin", Title: "Operations", Section: "admin", Script: "orders.js", Data: &adminData{list, held.Orders, held.Next != uuid.Nil}}, nil
}
