package web

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"millrace"
)

func TestEveryStateAndEventHasItsWords(t *testing.T) {
	t.Parallel()
	for _, s := range millrace.OrderStatuses() {
		require.NotEmpty(t, orderLabels[s].Text, s)
	}
	for _, e := range millrace.EventTypes() {
		require.NotEmpty(t, eventLabels[e].Text, e)
	}
	tones := []string{"neutral", "active", "wait", "good", "bad"}
	for _, l := range orderLabels {
		require.Contains(t, tones, l.Tone)
	}
	for _, l := range paymentLabels {
		require.Contains(t, tones, l.Tone)
	}
	for _, l := range fulfillmentLabels {
		require.Contains(t, tones, l.Tone)
	}
	for _, l := range eventLabels {
		require.Contains(t, tones, l.Tone)
	}
}

func TestAnEventsDetailIsFilledFromItsData(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ pattern, data, want string }{
		"an amount in the data's currency":     {"{amount_minor}", `{"amount_minor":1250,"currency":"EUR"}`, "12.50 EUR"},
		"a currency without minor units":       {"{amount_minor}", `{"amount_minor":1250,"currency":"JPY"}`, "1250 JPY"},
		"a reason as words":                    {"Reason: {reason}", `{"reason":"payment_declined"}`, "Reason: payment declined"},
		"a tracking number as it is":           {"{tracking_number}", `{"tracking_number":"SIM_1"}`, "SIM_1"},
		"a time in full":                       {"by {expires_at}", `{"expires_at":"2026-01-02T03:04:05Z"}`, "by 2026-01-02 03:04:05 UTC"},
		"nothing where a name is missing":      {"{carrier} {service}", `{"carrier":"simulated"}`, ""},
		"nothing where a value is empty":       {"Reason: {reason}", `{"reason":""}`, ""},
		"nothing from what is no object":       {"{reason}", `[]`, ""},
		"a pattern without names as it stands": {"No money was taken.", `{}`, "No money was taken."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, describe(c.pattern, json.RawMessage(c.data)))
		})
	}
}

func TestTheCurrentStepIsTheFirstNotDone(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		done   []string
		status millrace.OrderStatus
		want   string // a letter a step: done, current, ahead
		tone   string // of the current step
	}{
		"taken in":              {[]string{"placed"}, millrace.OrderPending, "dcaaa", "active"},
		"paid":                  {[]string{"placed", "stock", "payment"}, millrace.OrderProcessing, "dddca", "active"},
		"waiting for the buyer": {[]string{"placed", "stock"}, millrace.OrderRequiresAction, "ddcaa", "wait"},
		"failed at its payment": {[]string{"placed", "stock"}, millrace.OrderFailed, "ddcaa", "bad"},
		"completed":             {[]string{"placed", "stock", "payment", "shipment", "delivery"}, millrace.OrderCompleted, "ddddd", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			done := map[string]bool{}
			for _, s := range c.done {
				done[s] = true
			}
			var states, tone string
			for _, s := range stepStates(done, c.status) {
				states += s.State[:1]
				if s.State == "current" {
					tone = s.Tone
				}
			}
			require.Equal(t, c.want, states)
			require.Equal(t, c.tone, tone)
		})
	}
}
