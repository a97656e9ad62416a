package millrace_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
)

// lives is what may become of an order: the commands that it gets and how they leave it. Jobs are those that the last command asks
// for, by kind; events are all, but for the first; a "|" parts them.
var lives = []struct {
	name        string
	steps       []step
	status      millrace.OrderStatus
	payment     millrace.PaymentStatus
	fulfillment millrace.FulfillmentStatus
	events      string
	jobs        string
}{
	{"an order that was placed waits for stock", nil, "pending", "unpaid", "unfulfilled", "", ""},
	{"reserved stock asks for the money", []step{reserved}, "processing", "pending", "unfulfilled", "stock.reserved", "settle_payment 1"},
	{"too little stock fails the order", []step{soldOut}, "failed", "unpaid", "canceled", "stock.rejected|order.failed", ""},
	{"stock is reserved once", []step{reserved, reserved}, "processing", "pending", "unfulfilled", "stock.reserved", ""},
	{"an order that failed for want of stock is not served later", []step{soldOut, reserved}, "failed", "unpaid", "canceled", "stock.rejected|order.failed", ""},
	{"money taken at once starts the shipment", []step{reserved, paid}, "processing", "paid", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured", "ship_order"},
	{"an answer to a settled payment changes nothing", []step{reserved, paid, declined}, "processing", "paid", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured", ""},
	{"authorized money starts the shipment", []step{reserve(onShipment), authorized}, "processing", "authorized", "unfulfilled",
		"stock.reserved|payment.authorized", "ship_order"},
	{"a decline fails the order and frees its stock", []step{reserved, declined}, "failed", "failed", "canceled",
		"stock.reserved|payment.declined|order.failed", ""},
	{"a lost answer changes nothing to be seen", []step{reserved, lost}, "processing", "pending", "unfulfilled", "stock.reserved", ""},
	{"nor does one that comes later", []step{reserved, pending}, "processing", "pending", "unfulfilled", "stock.reserved", ""},
	{"nor does a failed call", []step{reserved, settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeRetry})}, "processing", "pending", "unfulfilled", "stock.reserved", ""},
	{"nor does a question about a call that never arrived", []step{reserved, settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeNotFound})},
		"processing", "pending", "unfulfilled", "stock.reserved", ""},
	{"a lost answer that was a yes", []step{reserved, lost, paid}, "processing", "paid", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured", "ship_order"},
	{"a label sends the goods", []step{reserved, paid, shipped}, "processing", "paid", "fulfilled",
		"stock.reserved|payment.authorized|payment.captured|shipment.created", "track_shipment"},
	{"a label is bought once", []step{reserved, paid, shipped, shipped, noRate}, "processing", "paid", "fulfilled",
		"stock.reserved|payment.authorized|payment.captured|shipment.created", ""},
	{"no label yet changes nothing", []step{reserved, paid, ship(millrace.OutcomeUnknown), ship(millrace.OutcomeRetry), ship(millrace.OutcomePending),
		ship(millrace.OutcomeNotFound)}, "processing", "paid", "unfulfilled", "stock.reserved|payment.authorized|payment.captured", ""},
	{"a shipment takes authorized money", []step{reserve(onShipment), authorized, shipped}, "processing", "authorized", "fulfilled",
		"stock.reserved|payment.authorized|shipment.created", "settle_payment 2|track_shipment"},
	{"delivered and paid is completed", []step{reserved, paid, shipped, inTransit, delivered}, "completed", "paid", "delivered",
		"stock.reserved|payment.authorized|payment.captured|shipment.created|shipment.in_transit|shipment.delivered|order.completed", ""},
	{"a step that the carrier did not report is filled in", []step{reserved, paid, shipped, delivered}, "completed", "paid", "delivered",
		"stock.reserved|payment.authorized|payment.captured|shipment.created|shipment.in_transit|shipment.delivered|order.completed", ""},
	{"a parcel does not go back", []step{reserved, paid, shipped, inTransit, track(millrace.ShipmentPurchased), inTransit}, "processing", "paid", "fulfilled",
		"stock.reserved|payment.authorized|payment.captured|shipment.created|shipment.in_transit", ""},
	{"delivered and not paid is not completed", []step{reserve(onShipment), authorized, shipped, delivered}, "processing", "authorized", "delivered",
		"stock.reserved|payment.authorized|shipment.created|shipment.in_transit|shipment.delivered", ""},
	{"paid after it was delivered is completed", []step{reserve(onShipment), authorized, shipped, delivered, captured}, "completed", "paid", "delivered",
		"stock.reserved|payment.authorized|shipment.created|shipment.in_transit|shipment.delivered|payment.captured|order.completed", ""},
	{"no rate holds the order", []step{reserved, paid, noRate}, "on_hold", "paid", "on_hold",
		"stock.reserved|payment.authorized|payment.captured|order.on_hold", ""},
	{"released, its label is tried again", []step{reserved, paid, noRate, release}, "processing", "paid", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured|order.on_hold|order.released", "ship_order"},
	{"a declined capture holds the order", []step{reserve(onShipment), authorized, shipped, settle(2, millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: "expired"})},
		"on_hold", "authorized", "fulfilled", "stock.reserved|payment.authorized|shipment.created|order.on_hold", ""},
	{"released, it is captured anew", []step{reserve(onShipment), authorized, shipped, settle(2, millrace.PaymentResult{Outcome: millrace.OutcomeDeclined}), release},
		"processing", "authorized", "fulfilled", "stock.reserved|payment.authorized|shipment.created|order.on_hold|order.released", "settle_payment 3|track_shipment"},
	{"an authorization that was asked to capture and did not is captured when it ships", []step{reserved, authorized, shipped}, "processing", "authorized", "fulfilled",
		"stock.reserved|payment.authorized|shipment.created", "settle_payment 2|track_shipment"},

	{"the buyer must act", []step{reserved, mustAct}, "requires_action", "pending", "unfulfilled", "stock.reserved|payment.requires_action", ""},
	{"and is told once", []step{reserved, mustAct, mustAct}, "requires_action", "pending", "unfulfilled", "stock.reserved|payment.requires_action", ""},
	{"and is told once, though the gateway could not be reached meanwhile", []step{reserved, mustAct, lost, mustAct}, "requires_action", "pending", "unfulfilled",
		"stock.reserved|payment.requires_action", ""},
	{"the buyer confirmed", []step{reserved, mustAct, paid}, "processing", "paid", "unfulfilled",
		"stock.reserved|payment.requires_action|payment.authorized|payment.captured", "ship_order"},
	{"the buyer confirmed and the bank takes its time", []step{reserved, mustAct, pending}, "requires_action", "pending", "unfulfilled",
		"stock.reserved|payment.requires_action", ""},
	{"the buyer declined", []step{reserved, mustAct, declined}, "failed", "failed", "canceled",
		"stock.reserved|payment.requires_action|payment.declined|order.failed", ""},
	{"it is not too late yet", []step{reserved, mustAct, expire(30*time.Minute - 1)}, "requires_action", "pending", "unfulfilled",
		"stock.reserved|payment.requires_action", ""},
	{"too late", []step{reserved, mustAct, expire(30 * time.Minute)}, "expired", "expired", "canceled",
		"stock.reserved|payment.requires_action|order.expired", "settle_payment 2"},
	{"only who must act can be too late", []step{reserved, expire(time.Hour)}, "processing", "pending", "unfulfilled", "stock.reserved", ""},
	{"an expired order's payment is given up", []step{reserved, mustAct, expire(time.Hour), settle(2, millrace.PaymentResult{Outcome: millrace.OutcomeApproved})},
		"expired", "expired", "canceled", "stock.reserved|payment.requires_action|order.expired|payment.voided", ""},
	{"a buyer who confirmed too late gets the money back", []step{reserved, mustAct, expire(time.Hour),
		settle(2, millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: millrace.CodeAlreadyCaptured})},
		"expired", "paid", "canceled", "stock.reserved|payment.requires_action|order.expired|payment.captured", "settle_payment 4"},
	{"all of it", []step{reserved, mustAct, expire(time.Hour), settle(2, millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: millrace.CodeAlreadyCaptured}),
		settle(4, millrace.PaymentResult{Outcome: millrace.OutcomeApproved})},
		"expired", "refunded", "canceled", "stock.reserved|payment.requires_action|order.expired|payment.captured|payment.refunded", ""},

	{"canceled before it had stock", []step{cancel}, "canceled", "unpaid", "canceled", "order.canceled", ""},
	{"canceled twice is once", []step{cancel, cancel}, "canceled", "unpaid", "canceled", "order.canceled", ""},
	{"canceled, it gets no stock", []step{cancel, reserved}, "canceled", "unpaid", "canceled", "order.canceled", ""},
	{"canceled while the gateway is asked: the job finds out", []step{reserved, cancel}, "canceled", "pending", "canceled", "stock.reserved|order.canceled", "settle_payment 1"},
	{"no money was taken", []step{reserved, cancel, settle(1, millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: millrace.CodeAbandoned})},
		"canceled", "voided", "canceled", "stock.reserved|order.canceled|payment.voided", ""},
	{"money was taken", []step{reserved, cancel, paid}, "canceled", "paid", "canceled",
		"stock.reserved|order.canceled|payment.authorized|payment.captured", "settle_payment 3"},
	{"money was authorized", []step{reserve(onShipment), cancel, authorized}, "canceled", "authorized", "canceled",
		"stock.reserved|order.canceled|payment.authorized", "settle_payment 2"},
	{"and is given up", []step{reserve(onShipment), cancel, authorized, settle(2, millrace.PaymentResult{Outcome: millrace.OutcomeApproved})}, "canceled", "voided", "canceled",
		"stock.reserved|order.canceled|payment.authorized|payment.voided", ""},
	{"the buyer is asked after all", []step{reserved, cancel, mustAct}, "canceled", "pending", "canceled", "stock.reserved|order.canceled", "settle_payment 2"},
	{"canceled while the buyer is asked", []step{reserved, mustAct, cancel}, "canceled", "pending", "canceled",
		"stock.reserved|payment.requires_action|order.canceled", "settle_payment 2"},
	{"canceled when paid: a refund, and a look whether a label was bought", []step{reserved, paid, cancel}, "canceled", "paid", "canceled",
		"stock.reserved|payment.authorized|payment.captured|order.canceled", "settle_payment 3|ship_order"},
	{"canceled when authorized: a void", []step{reserve(onShipment), authorized, cancel}, "canceled", "authorized", "canceled",
		"stock.reserved|payment.authorized|order.canceled", "settle_payment 2|ship_order"},
	{"a label bought for a canceled order is given back", []step{reserved, paid, cancel, shipped}, "canceled", "paid", "canceled",
		"stock.reserved|payment.authorized|payment.captured|order.canceled", "cancel_shipment"},
	{"so is one that turns up when it was given up", []step{reserved, paid, cancel, unlabeled, shipped}, "canceled", "paid", "canceled",
		"stock.reserved|payment.authorized|payment.captured|order.canceled", "cancel_shipment"},
	{"once", []step{reserved, paid, cancel, shipped, unlabeled, shipped, unlabeled}, "canceled", "paid", "canceled",
		"stock.reserved|payment.authorized|payment.captured|order.canceled", ""},
	{"no label for a canceled order", []step{reserved, paid, cancel, noRate}, "canceled", "paid", "canceled",
		"stock.reserved|payment.authorized|payment.captured|order.canceled", ""},
	{"canceled when it is shipped is too late", []step{reserved, paid, shipped, refused(cancel, millrace.CodeConflict)}, "processing", "paid", "fulfilled",
		"stock.reserved|payment.authorized|payment.captured|shipment.created", ""},
	{"canceled when it failed is too late", []step{soldOut, refused(cancel, millrace.CodeConflict)}, "failed", "unpaid", "canceled", "stock.rejected|order.failed", ""},
	{"canceled with a refund under way: only the rest is sent back", []step{reserved, paid, refund(1000, "a"), cancel}, "canceled", "paid", "canceled",
		"stock.reserved|payment.authorized|payment.captured|order.canceled", "settle_payment 4|settle_payment 3|ship_order"},

	{"held before it has stock", []step{hold}, "on_hold", "unpaid", "unfulfilled", "order.on_hold", ""},
	{"held, it gets no stock", []step{hold, reserved}, "on_hold", "unpaid", "unfulfilled", "order.on_hold", ""},
	{"released, it waits for stock again", []step{hold, release}, "pending", "unpaid", "unfulfilled", "order.on_hold|order.released", "reserve_stock"},
	{"held twice is once", []step{hold, hold}, "on_hold", "unpaid", "unfulfilled", "order.on_hold", ""},
	{"held and canceled", []step{hold, cancel}, "canceled", "unpaid", "canceled", "order.on_hold|order.canceled", ""},
	{"held while the gateway is asked", []step{reserved, hold, paid}, "on_hold", "paid", "unfulfilled",
		"stock.reserved|order.on_hold|payment.authorized|payment.captured", ""},
	{"released, it ships", []step{reserved, hold, paid, release}, "processing", "paid", "unfulfilled",
		"stock.reserved|order.on_hold|payment.authorized|payment.captured|order.released", "ship_order"},
	{"released, the gateway is asked again", []step{reserved, hold, release}, "processing", "pending", "unfulfilled",
		"stock.reserved|order.on_hold|order.released", "settle_payment 1"},
	{"declined while it is held", []step{reserved, hold, declined}, "failed", "failed", "canceled",
		"stock.reserved|order.on_hold|payment.declined|order.failed", ""},
	{"the buyer is asked while it is held", []step{reserved, hold, mustAct}, "on_hold", "pending", "unfulfilled", "stock.reserved|order.on_hold|payment.requires_action", ""},
	{"held while the buyer is asked, and released", []step{reserved, mustAct, hold, release}, "requires_action", "pending", "unfulfilled",
		"stock.reserved|payment.requires_action|order.on_hold|order.released", "settle_payment 1"},
	{"canceled while it is held and the buyer is asked", []step{reserved, mustAct, hold, cancel}, "canceled", "pending", "canceled",
		"stock.reserved|payment.requires_action|order.on_hold|order.canceled", "settle_payment 2"},
	{"held while its label is bought", []step{reserved, paid, hold, shipped}, "on_hold", "paid", "fulfilled",
		"stock.reserved|payment.authorized|payment.captured|order.on_hold|shipment.created", ""},
	{"released, its parcel is followed", []step{reserved, paid, hold, shipped, release}, "processing", "paid", "fulfilled",
		"stock.reserved|payment.authorized|payment.captured|order.on_hold|shipment.created|order.released", "track_shipment"},
	{"delivered while it is held, and released", []step{reserved, paid, shipped, hold, delivered, release}, "completed", "paid", "delivered",
		"stock.reserved|payment.authorized|payment.captured|shipment.created|order.on_hold|shipment.in_transit|shipment.delivered|order.released|order.completed", ""},
	{"a final order is not held", []step{cancel, refused(hold, millrace.CodeConflict)}, "canceled", "unpaid", "canceled", "order.canceled", ""},
	{"nor released", []step{cancel, refused(release, millrace.CodeConflict)}, "canceled", "unpaid", "canceled", "order.canceled", ""},
	{"what is not held is not released", []step{release}, "pending", "unpaid", "unfulfilled", "", ""},

	{"resume asks for the job of its step: stock", []step{resume}, "pending", "unpaid", "unfulfilled", "", "reserve_stock"},
	{"resume: payment", []step{reserved, resume}, "processing", "pending", "unfulfilled", "stock.reserved", "settle_payment 1"},
	{"resume: label", []step{reserved, paid, resume}, "processing", "paid", "unfulfilled", "stock.reserved|payment.authorized|payment.captured", "ship_order"},
	{"resume: parcel", []step{reserved, paid, shipped, resume}, "processing", "paid", "fulfilled",
		"stock.reserved|payment.authorized|payment.captured|shipment.created", "track_shipment"},
	{"resume: held", []step{hold, resume}, "pending", "unpaid", "unfulfilled", "order.on_hold|order.released", "reserve_stock"},
	{"resume: the money of a canceled order", []step{reserved, paid, cancel, unlabeled, resume}, "canceled", "paid", "canceled",
		"stock.reserved|payment.authorized|payment.captured|order.canceled", "settle_payment 3"},
	{"resume: all refunds that are under way", []step{reserved, paid, shipped, refund(100, "a"), refund(100, "b"), resume}, "processing", "paid", "fulfilled",
		"stock.reserved|payment.authorized|payment.captured|shipment.created", "settle_payment 3|settle_payment 4|track_shipment"},
	{"resume: the label of a canceled order", []step{reserved, paid, cancel, shipped, settle(3, millrace.PaymentResult{Outcome: millrace.OutcomeApproved}), resume},
		"canceled", "refunded", "canceled", "stock.reserved|payment.authorized|payment.captured|order.canceled|payment.refunded", "cancel_shipment"},
	{"resume: nothing is left to do", []step{soldOut, refused(resume, millrace.CodeConflict)}, "failed", "unpaid", "canceled", "stock.rejected|order.failed", ""},

	{"a part is sent back", []step{reserved, paid, refund(1000, "a"), settle(3, millrace.PaymentResult{Outcome: millrace.OutcomeApproved})}, "processing", "partially_refunded", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured|payment.refunded", ""},
	{"the rest is sent back", []step{reserved, paid, refund(1000, "a"), settle(3, millrace.PaymentResult{Outcome: millrace.OutcomeApproved}), refund(0, "b"),
		settle(4, millrace.PaymentResult{Outcome: millrace.OutcomeApproved})}, "processing", "refunded", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured|payment.refunded|payment.refunded", ""},
	{"a refund is asked for once for each key", []step{reserved, paid, refund(1000, "a"), refund(1000, "a"), refund(0, "a")}, "processing", "paid", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured", ""},
	{"another amount under the same key", []step{reserved, paid, refund(1000, "a"), refused(refund(1001, "a"), millrace.CodeKeyReused)}, "processing", "paid", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured", ""},
	{"more than was taken", []step{reserved, paid, refused(refund(3001, "a"), millrace.CodeConflict)}, "processing", "paid", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured", ""},
	{"more than is left of it", []step{reserved, paid, refund(2000, "a"), refused(refund(1001, "b"), millrace.CodeConflict)}, "processing", "paid", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured", ""},
	{"all of nothing", []step{reserved, refused(refund(0, "a"), millrace.CodeConflict)}, "processing", "pending", "unfulfilled", "stock.reserved", ""},
	{"less than nothing", []step{reserved, paid, refused(refund(-1, "a"), millrace.CodeInvalid)}, "processing", "paid", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured", ""},
	{"a declined refund leaves the money where it is", []step{reserved, paid, refund(1000, "a"), settle(3, millrace.PaymentResult{Outcome: millrace.OutcomeDeclined}), refund(3000, "b")},
		"processing", "paid", "unfulfilled", "stock.reserved|payment.authorized|payment.captured", "settle_payment 4"},

	{"a payment that was never asked for", []step{reserved, refused(settle(2, millrace.PaymentResult{Outcome: millrace.OutcomeApproved}), millrace.CodeNotFound)},
		"processing", "pending", "unfulfilled", "stock.reserved", ""},
	{"a label for an order without a shipment", []step{reserved, refused(shipped, millrace.CodeConflict)}, "processing", "pending", "unfulfilled", "stock.reserved", ""},
	{"a parcel of an order without a shipment", []step{reserved, refused(delivered, millrace.CodeConflict)}, "processing", "pending", "unfulfilled", "stock.reserved", ""},
	{"a parcel of an order without a label", []step{reserved, paid, refused(delivered, millrace.CodeConflict)}, "processing", "paid", "unfulfilled",
		"stock.reserved|payment.authorized|payment.captured", ""},
}

func TestWhatMayBecomeOfAnOrder(t *testing.T) {
	t.Parallel()
	for _, c := range lives {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := newOrder(t)
			types, jobs := []string{}, []string{}
			for _, s := range c.steps {
				before := o.Version
				s.run(t, o)
				change := o.TakeChanges()
				jobs = jobs[:0]
				for _, j := range change.Jobs {
					jobs = append(jobs, jobName(j))
				}
				for i, e := range change.Events {
					require.Equal(t, before+int32(i)+1, e.Version, "versions have no hole")
					require.NotContains(t, string(e.Data), "\n")
					require.True(t, json.Valid(e.Data))
					require.Equal(t, ada.ID, e.CustomerID)
					types = append(types, string(e.Type))
				}
				if n := len(change.Events); n > 0 {
					last := change.Events[n-1]
					require.Equal(t, []any{o.Status, o.PaymentStatus, o.FulfillmentStatus, o.Version}, []any{last.Status, last.PaymentStatus, last.FulfillmentStatus, last.Version},
						"the last event shows the order as it stands")
				}
				require.Equal(t, o.Status == millrace.OrderOnHold, o.HoldReason != "", "a reason to hold, and no other")
			}
			require.Equal(t, []any{c.status, c.payment, c.fulfillment}, []any{o.Status, o.PaymentStatus, o.FulfillmentStatus})
			require.Equal(t, c.events, strings.Join(types, "|"))
			require.Equal(t, c.jobs, strings.Join(jobs, "|"))
		})
	}
}

func jobName(j millrace.Job) string {
	if p, ok := j.(millrace.PaymentJob); ok {
		return p.Kind() + " " + string('0'+p.Transaction)
	}
	return j.Kind()
}

// Where an order's stock goes, as the moves that are written with it.
func TestStockFollowsTheOrder(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name             string
		steps            []step
		onHand, reserved int64 // of TEA-001, of which two are ordered
		state            millrace.ReservationState
	}{
		{"reserved", []step{reserved}, 0, 2, millrace.ReservationHeld},
		{"shipped", []step{reserved, paid, shipped}, -2, 0, millrace.ReservationConsumed},
		{"shipped twice", []step{reserved, paid, shipped, shipped}, -2, 0, millrace.ReservationConsumed},
		{"canceled", []step{reserved, paid, cancel, cancel}, 0, 0, millrace.ReservationReleased},
		{"declined", []step{reserved, declined}, 0, 0, millrace.ReservationReleased},
		{"expired", []step{reserved, mustAct, expire(time.Hour)}, 0, 0, millrace.ReservationReleased},
		{"a label after the cancel", []step{reserved, paid, cancel, shipped}, 0, 0, millrace.ReservationReleased},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			o := newOrder(t)
			var onHand, held int64
			for _, s := range c.steps {
				s.run(t, o)
				for _, m := range o.TakeChanges().Stock {
					if m.SKU == "TEA-001" {
						onHand, held = onHand-m.Shipped, held+m.Reserved-m.Shipped
					}
				}
			}
			require.Equal(t, []int64{c.onHand, c.reserved}, []int64{onHand, held})
			for _, r := range o.Reservations {
				require.Equal(t, c.state, r.State)
			}
		})
	}
}

func TestPlacingAnOrderPricesItAndAsksForStock(t *testing.T) {
	t.Parallel()
	r := millrace.OrderRequest{PaymentMethod: "pm_ok", Lines: []millrace.LineRequest{{SKU: "TEA-001", Quantity: 2}, {SKU: "CUP-002", Quantity: 3}, {SKU: "TEA-001", Quantity: 1}}}
	o, err := millrace.NewOrder(orderID, &ada, &r, catalogue, noon, "customer:ada")
	require.NoError(t, err)
	require.Equal(t, int64(3*1250+3*500), o.TotalMinor)
	require.Equal(t, millrace.Currency("EUR"), o.Currency)
	require.Equal(t, map[string]int64{"TEA-001": 3, "CUP-002": 3}, o.Demand())
	require.Equal(t, millrace.OrderLine{N: 2, SKU: "CUP-002", Name: "Cup", Quantity: 3, UnitPriceMinor: 500, TotalMinor: 1500}, o.Lines[1])
	require.Equal(t, ada.Email, o.Email)
	require.Equal(t, ada.Address, o.ShipTo)
	change := o.TakeChanges()
	require.Equal(t, []millrace.Job{millrace.ReserveStockJob{OrderID: orderID}}, change.Jobs)
	require.Len(t, change.Events, 1)
	require.JSONEq(t, `{"total_minor":5250,"currency":"EUR","lines":3}`, string(change.Events[0].Data))
	again := o.TakeChanges()
	require.True(t, again.Empty(), "changes are taken once")
}

func TestTheTransactionsOfAPaidOrder(t *testing.T) {
	t.Parallel()
	o := newOrder(t)
	for _, s := range []step{reserved, paid, refund(0, strings.Repeat("k", 255))} {
		s.run(t, o)
	}
	require.Len(t, o.Transactions, 3)
	for _, tx := range o.Transactions {
		require.NotEmpty(t, tx.Key)
		require.LessOrEqual(t, len(tx.Key), 100, "gateways take short keys only")
	}
	require.Equal(t, "simulated", o.Transactions[0].Gateway)
	require.True(t, o.Transactions[0].WithCapture)
	require.Equal(t, millrace.PaymentTransaction{N: 2, Kind: millrace.TransactionCapture, State: millrace.TransactionSucceeded, AmountMinor: 3000,
		Key: o.Transactions[0].Key, Gateway: "simulated", Reference: "pay_1", RequestedAt: noon}, o.Transactions[1])
	require.Equal(t, "pay_1", o.Transactions[2].Reference)
	require.Equal(t, int64(3000), o.Transactions[2].AmountMinor)
	found, err := o.FindTransaction(3)
	require.NoError(t, err)
	require.Equal(t, o.Transactions[2], found)
	for _, n := range []int32{-1, 0, 4} {
		_, err := o.FindTransaction(n)
		require.Equal(t, millrace.CodeNotFound, millrace.ErrorCode(err))
	}
}

// To ask the gateway again, or to fail to, gives the buyer no more time.
func TestTheBuyersTimeIsNotExtended(t *testing.T) {
	t.Parallel()
	o := newOrder(t)
	for _, s := range []step{reserved, mustAct} {
		s.run(t, o)
	}
	later := noon.Add(20 * time.Minute)
	for _, outcome := range []millrace.Outcome{millrace.OutcomeUnknown, millrace.OutcomeRequiresAction, millrace.OutcomePending, millrace.OutcomeRequiresAction} {
		require.NoError(t, o.SettlePayment(1, millrace.PaymentResult{Outcome: outcome}, policy, later, actor))
	}
	require.Equal(t, noon.Add(policy.ActionTimeout), *o.Transactions[0].ExpiresAt)
}

func TestACloneIsIndependent(t *testing.T) {
	t.Parallel()
	o := newOrder(t)
	for _, s := range []step{reserved, paid} {
		s.run(t, o)
	}
	c := o.Clone()
	empty := c.TakeChanges()
	require.True(t, empty.Empty(), "what was noted stays with the original")
	for _, s := range []step{refund(0, "a"), shipped} {
		s.run(t, o)
	}
	require.Equal(t, millrace.ShipmentRequested, c.Shipment.State)
	require.Equal(t, millrace.ReservationHeld, c.Reservations[0].State)
	require.Len(t, c.Transactions, 2)
	require.Nil(t, newOrder(t).Clone().Shipment)
}

func TestJobsNameTheirKindAndQueue(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	kinds := make(map[string]bool)
	for _, j := range []millrace.Job{millrace.ReserveStockJob{OrderID: id}, millrace.PaymentJob{OrderID: id, Transaction: 1}, millrace.ShipOrderJob{OrderID: id},
		millrace.TrackShipmentJob{OrderID: id}, millrace.CancelShipmentJob{OrderID: id}, millrace.SweepJob{}} {
		require.False(t, kinds[j.Kind()], "kinds are unique")
		kinds[j.Kind()] = true
		require.Contains(t, millrace.Queues(), j.Queue())
		body, err := json.Marshal(j)
		require.NoError(t, err)
		if _, sweep := j.(millrace.SweepJob); !sweep {
			require.Contains(t, string(body), `"order_id":"`+id.String()+`"`, "the job runner finds the order by this name")
		}
	}
	// Stored in job tables: never to be changed.
	require.Equal(t, map[string]bool{"reserve_stock": true, "settle_payment": true, "ship_order": true, "track_shipment": true, "cancel_shipment": true, "sweep": true}, kinds)
}

// A cancel sends back what is left: neither what was sent back before nor what is on its way.
func TestACancelSendsBackWhatIsLeft(t *testing.T) {
	t.Parallel()
	o := newOrder(t)
	for _, s := range []step{reserved, paid, refund(1000, "a"), settle(3, millrace.PaymentResult{Outcome: millrace.OutcomeApproved}), refund(500, "b"), cancel} {
		s.run(t, o)
	}
	require.Equal(t, int64(3000-1000-500), o.Transactions[4].AmountMinor)
	require.Equal(t, millrace.TransactionRefund, o.Transactions[4].Kind)
}

// A customer reads the events of an order: what an operator notes for other operators must not be in them.
func TestAnOperatorsReasonIsNotInTheEventsThatCustomersRead(t *testing.T) {
	t.Parallel()
	o := &millrace.Order{Status: millrace.OrderPending}
	require.NoError(t, o.Hold("looks like fraud", time.Now(), "operator:otto"))
	require.Equal(t, "looks like fraud", o.HoldReason)
	for _, e := range o.TakeChanges().Events {
		require.NotContains(t, string(e.Data), "fraud")
	}
}
