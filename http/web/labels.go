package web

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"millrace"
)

// label is how a state is shown: its words, and the tone that gives it colour.
type label struct {
	Text string `json:"text"`
	Tone string `json:"tone"` // neutral, active, wait, good or bad
}

// The labels of every state. The modules get the same tables (words), so that a page that fills in live reads as one that was loaded.
var (
	orderLabels = map[millrace.OrderStatus]label{
		millrace.OrderPending:        {"Pending", "active"},
		millrace.OrderProcessing:     {"Processing", "active"},
		millrace.OrderRequiresAction: {"Action needed", "wait"},
		millrace.OrderOnHold:         {"On hold", "wait"},
		millrace.OrderCompleted:      {"Completed", "good"},
		millrace.OrderCanceled:       {"Canceled", "neutral"},
		millrace.OrderFailed:         {"Failed", "bad"},
		millrace.OrderExpired:        {"Expired", "bad"},
	}
	paymentLabels = map[millrace.PaymentStatus]label{
		millrace.PaymentUnpaid:            {"Unpaid", "neutral"},
		millrace.PaymentPending:           {"Payment pending", "active"},
		millrace.PaymentAuthorized:        {"Authorized", "active"},
		millrace.PaymentPartiallyPaid:     {"Partly paid", "active"},
		millrace.PaymentPaid:              {"Paid", "good"},
		millrace.PaymentPartiallyRefunded: {"Partly refunded", "neutral"},
		millrace.PaymentRefunded:          {"Refunded", "neutral"},
		millrace.PaymentVoided:            {"Voided", "neutral"},
		millrace.PaymentExpired:           {"Payment expired", "bad"},
		millrace.PaymentFailed:            {"Payment failed", "bad"},
	}
	fulfillmentLabels = map[millrace.FulfillmentStatus]label{
		millrace.FulfillmentUnfulfilled: {"Not shipped", "neutral"},
		millrace.FulfillmentOnHold:      {"Shipping on hold", "wait"},
		millrace.FulfillmentInProgress:  {"Being packed", "active"},
		millrace.FulfillmentPartial:     {"Partly shipped", "active"},
		millrace.FulfillmentFulfilled:   {"Shipped", "active"},
		millrace.FulfillmentDelivered:   {"Delivered", "good"},
		millrace.FulfillmentCanceled:    {"Not shipping", "neutral"},
	}
)

// eventLabel is how an event is shown. Detail is a pattern over the event's data, left out where the data lacks one of its names. Done
// names the step that the order has then taken.
type eventLabel struct {
	label
	Detail string `json:"detail,omitempty"`
	Done   string `json:"done,omitempty"`
}

var eventLabels = map[millrace.EventType]eventLabel{
	millrace.EventOrderPlaced:           {label{"Order placed", "good"}, "{total_minor}", "placed"},
	millrace.EventStockReserved:         {label{"Stock reserved", "good"}, "", "stock"},
	millrace.EventStockRejected:         {label{"Out of stock", "bad"}, "There is not enough of {sku} left.", ""},
	millrace.EventPaymentAuthorized:     {label{"Payment authorized", "good"}, "{amount_minor}", "payment"},
	millrace.EventPaymentCaptured:       {label{"Payment captured", "good"}, "{amount_minor}", "payment"},
	millrace.EventPaymentDeclined:       {label{"Payment declined", "bad"}, "The bank says: {code}.", ""},
	millrace.EventPaymentRequiresAction: {label{"Your bank asks for you", "wait"}, "Confirm the payment by {expires_at}.", ""},
	millrace.EventPaymentRefunded:       {label{"Refund sent", "neutral"}, "{amount_minor}", ""},
	millrace.EventPaymentVoided:         {label{"Payment released", "neutral"}, "No money was taken.", ""},
	millrace.EventShipmentCreated:       {label{"Handed to the carrier", "good"}, "{carrier} {service}, tracking number {tracking_number}", "shipment"},
	millrace.EventShipmentInTransit:     {label{"On its way", "good"}, "", "shipment"},
	millrace.EventShipmentDelivered:     {label{"Delivered", "good"}, "", "delivery"},
	millrace.EventOrderCompleted:        {label{"Order completed", "good"}, "", ""},
	millrace.EventOrderCanceled:         {label{"Order canceled", "neutral"}, "Reason: {reason}", ""},
	millrace.EventOrderFailed:           {label{"Order failed", "bad"}, "Reason: {reason}", ""},
	millrace.EventOrderExpired:          {label{"Order expired", "bad"}, "The payment was not confirmed in time.", ""},
	millrace.EventOrderOnHold:           {label{"Put on hold", "wait"}, "Reason: {reason}", ""},
	millrace.EventOrderReleased:         {label{"Released", "active"}, "", ""},
}

// step is a stage that an order passes on its way to completed.
type step struct {
	ID   string `json:"id"`
	Text string `json:"text"`
}

var steps = []step{{"placed", "Placed"}, {"stock", "Stock"}, {"payment", "Payment"}, {"shipment", "Shipping"}, {"delivery", "Delivery"}}

// words is what the modules need to show states and events as the templates do.
type words struct {
	Orders       map[millrace.OrderStatus]label       `json:"orders"`
	Payments     map[millrace.PaymentStatus]label     `json:"payments"`
	Fulfillments map[millrace.FulfillmentStatus]label `json:"fulfillments"`
	Events       map[millrace.EventType]eventLabel    `json:"events"`
	Steps        []step                               `json:"steps"`
	Final        []millrace.OrderStatus               `json:"final"`
}

// wordsFor is what a viewer is shown. Why an order is on hold is for operators alone.
func wordsFor(isOperator bool) words {
	w := words{orderLabels, paymentLabels, fulfillmentLabels, eventLabels, steps,
		slices.DeleteFunc(millrace.OrderStatuses(), func(s millrace.OrderStatus) bool { return !s.Final() })}
	if !isOperator {
		w.Events = maps.Clone(w.Events)
		held := w.Events[millrace.EventOrderOnHold]
		held.Detail = "We are looking into it."
		w.Events[millrace.EventOrderOnHold] = held
	}
	return w
}

var placeholder = regexp.MustCompile(`\{[a-z_]+\}`)

// describe fills an event's data into its pattern: amounts as money, times as the reader's calendar has them, reasons as words. It is
// empty where the data lacks a name. The module order.js does the same.
func describe(pattern string, data json.RawMessage) string {
	var values map[string]any
	if json.Unmarshal(data, &values) != nil {
		return ""
	}
	complete := true
	text := placeholder.ReplaceAllStringFunc(pattern, func(name string) string {
		name = strings.Trim(name, "{}")
		value, ok := values[name]
		if !ok || value == "" {
			complete = false
			return ""
		}
		switch v := value.(type) {
		case float64:
			currency, _ := values["currency"].(string)
			return millrace.Currency(currency).Format(int64(v)) // at most MaxAmount, which a double holds exactly
		case string:
			switch name {
			case "reason", "code":
				return plain(v)
			case "expires_at":
				if at, err := time.Parse(time.RFC3339, v); err == nil {
					return exact(at)
				}
			}
			return v
		}
		return fmt.Sprint(value)
	})
	if !complete {
		return ""
	}
	return text
}

// actionURL is where an event's data sends the buyer, empty if nowhere. The template lets no scheme but http and https through.
func actionURL(data json.RawMessage) string {
	var d struct {
		ActionURL string `json:"action_url"`
	}
	if json.Unmarshal(data, &d) != nil {
		return ""
	}
	return d.ActionURL
}

// plain writes a code as words.
func plain(code string) string { return strings.ReplaceAll(code, "_", " ") }

// exact writes a time in full.
func exact(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" }
