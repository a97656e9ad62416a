package web_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db"
	"millrace/http/web/browsertest"
)

const connected = `document.getElementById("connection").dataset.state === "live"`

// browse opens a page as somebody.
func (b *testBundle) browse(who, path string) *browsertest.Browser {
	b.t.Helper()
	br := browsertest.New(b.t)
	br.Cookie(b.url, "test", who)
	br.Open(b.url + path)
	return br
}

// entries waits until the timeline has n entries.
func entries(br *browsertest.Browser, n int) {
	br.Wait(fmt.Sprintf(`document.querySelectorAll("#timeline li").length === %d`, n))
}

func fillAddress(br *browsertest.Browser, country string) {
	for field, text := range map[string]string{"ship-name": "Ada", "ship-line1": "1 Mill Lane", "ship-city": "Bath", "ship-country": country} {
		br.Fill("#"+field, text)
	}
}

func TestAnOrderIsPlacedAndItsTimelineFillsInLive(t *testing.T) {
	t.Parallel()
	b := setup(t)
	br := b.browse("ada", "/")
	br.Click(`[data-add="TEA-001"]`)
	br.Click(`[data-add="TEA-001"]`)
	br.Click(`[data-add="POT-003"]`)
	require.Equal(t, "93.00 EUR", br.Text("#basket-total"))
	require.True(t, browsertest.Evaluate[bool](br, `document.querySelector('[data-add="GONE-000"]').disabled`))

	// What is missing is said before anything is sent, what is wrong is said by the API, each next to its field.
	br.Fill("#ship-name", "Ada")
	br.Click("#place")
	require.Equal(t, "Please fill this in.", br.Text("#ship-line1 + .field-error"))
	require.Empty(t, b.keys.seen)
	fillAddress(br, "1!")
	br.Click("#place")
	br.Wait(`document.querySelector("#ship-country + .field-error")`)
	require.Contains(t, br.Text("#ship-country + .field-error"), "two-letter")
	require.Equal(t, "ship-country", browsertest.Evaluate[string](br, `document.activeElement.id`))
	require.Len(t, br.Complaints(), 1, "the answer 400 alone")
	br.Forget()

	br.Fill("#ship-country", "gb")
	br.Click("#place")
	br.Wait(`location.pathname.startsWith("/orders/")`)
	br.Wait(connected)
	id := uuid.MustParse(strings.TrimPrefix(br.Location(), b.url+"/orders/"))
	o, err := b.store.FindOrder(t.Context(), id)
	require.NoError(t, err)
	require.EqualValues(t, 2*1250+6800, o.TotalMinor)
	require.Equal(t, &millrace.Address{Name: "Ada", Line1: "1 Mill Lane", City: "Bath", Country: "GB"}, o.ShipTo)
	require.NotEqual(t, b.keys.seen[0], b.keys.seen[1], "a changed order is another submission")

	entries(br, 1)
	b.reserve(id)
	entries(br, 2)
	b.pay(id, approved)
	entries(br, 4)
	require.Equal(t, "93.00 EUR", br.Text("td[data-captured]"))
	require.Equal(t, []string{"Processing", "Paid", "Not shipped"}, br.Texts(".pills .pill"))
	require.True(t, browsertest.Evaluate[bool](br, `document.querySelector('[data-action="cancel"]').checkVisibility()`))
	b.ship(id)
	entries(br, 5)
	require.Equal(t, "simulated SIM123", br.Text("[data-tracking]"))
	require.False(t, browsertest.Evaluate[bool](br, `document.querySelector('[data-action="cancel"]').checkVisibility()`), "it has left the house")
	b.deliver(id)
	entries(br, 8)
	require.Equal(t, []string{"Completed", "Paid", "Delivered"}, br.Texts(".pills .pill"))
	b.samePageAfterReload(br)

	br.Open(b.url + "/")
	br.Wait(`document.getElementById("basket-empty").checkVisibility()`)
	br.Open(b.url + "/orders")
	require.Equal(t, []string{"Completed"}, br.Texts("[data-status] .pill"))
	br.RequireOnly(b.url)
}

// samePageAfterReload checks that what filled in connected reads as what the server renders: words, steps, sums and buttons.
func (b *testBundle) samePageAfterReload(br *browsertest.Browser) {
	b.t.Helper()
	look := func() []string {
		return browsertest.Evaluate[[]string](br, `[
			...Array.from(document.querySelectorAll("#timeline li"), (e) => [e.dataset.version, e.dataset.tone, e.querySelector(".event").innerText,
				e.querySelector(".detail")?.innerText, Date.parse(e.querySelector("time").dateTime)].join("|")),
			...Array.from(document.querySelectorAll(".steps li"), (e) => [e.innerText, e.dataset.state, e.dataset.tone].join("|")),
			...Array.from(document.querySelectorAll(".pills .pill, .lines tfoot tr, .facts > div:not(:has(time)), #action, #held, #actions button"),
				(e) => e.checkVisibility() ? e.innerText : "hidden")]`)
	}
	before := look()
	br.Do(chromedp.Reload())
	require.Equal(b.t, look(), before)
}

func TestALostAnswerIsAskedForAgainUnderTheSameKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.loseAnswers.Store(2)
	br := b.browse("ada", "/")
	br.Click(`[data-add="CUP-002"]`)
	fillAddress(br, "GB")
	br.Click("#place")
	br.Wait(`location.pathname.startsWith("/orders/")`)
	require.Len(t, b.keys.seen, 3)
	require.Equal(t, b.keys.seen[0], b.keys.seen[1])
	require.Equal(t, b.keys.seen[0], b.keys.seen[2])
	page, err := b.store.PageOrders(t.Context(), db.OrderFilter{Limit: 10})
	require.NoError(t, err)
	require.Len(t, page.Orders, 1, "three requests, one order")

	br.Open(b.url + "/")
	br.Click(`[data-add="CUP-002"]`)
	fillAddress(br, "GB")
	br.Click("#place")
	br.Wait(`location.pathname.startsWith("/orders/")`)
	require.Len(t, b.keys.seen, 4)
	require.NotEqual(t, b.keys.seen[0], b.keys.seen[3], "the same basket later is another order")
}

func TestAKeyOutlivesAReload(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.loseAnswers.Store(1000)
	br := b.browse("ada", "/")
	br.Click(`[data-add="CUP-002"]`)
	fillAddress(br, "GB")
	br.Click("#place")
	br.Wait(`document.getElementById("order-error").checkVisibility()`)
	require.Contains(t, br.Text("#order-error"), "placed once")
	b.loseAnswers.Store(0)
	br.Do(chromedp.Reload())
	fillAddress(br, "GB")
	br.Click("#place")
	br.Wait(`location.pathname.startsWith("/orders/")`)
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(b.keys.seen))), 1, "one key for all tries")
	page, err := b.store.PageOrders(t.Context(), db.OrderFilter{Limit: 10})
	require.NoError(t, err)
	require.Len(t, page.Orders, 1)
}

func TestATimelineHasNoHoleAfterItsConnectionBroke(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada, "TEA-001")
	br := b.browse("ada", "/orders/"+id.String())
	br.Wait(connected)
	b.reserve(id)
	entries(br, 2)
	b.connections.cut()
	b.pay(id, approved)
	entries(br, 4)
	br.Wait(connected)
	b.ship(id)
	b.connections.cut()
	b.deliver(id)
	entries(br, 8)
	b.samePageAfterReload(br)
}

func TestARefusedStreamIsTriedAgainAndAnEndedSessionSaysSo(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada, "TEA-001")
	b.refuseStreams.Store(true)
	br := b.browse("ada", "/orders/"+id.String())
	br.Wait(`document.getElementById("connection").dataset.state === "waiting"`)
	require.Contains(t, br.Text("#connection"), "trying again in")
	b.reserve(id)
	b.refuseStreams.Store(false)
	br.Wait(connected)
	entries(br, 2)

	br.Cookie(b.url, "test", "nobody")
	b.connections.cut()
	br.Wait(`document.getElementById("connection").dataset.state === "ended"`)
	require.Equal(t, "Log in again to go on", br.Text("#connection"))
}

func TestTheBuyerIsSentToTheirBankAndMayCancelInstead(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada, "TEA-001")
	b.reserve(id)
	br := b.browse("ada", "/orders/"+id.String())
	br.Wait(connected)
	require.False(t, browsertest.Evaluate[bool](br, `document.getElementById("action").checkVisibility()`))
	b.pay(id, millrace.PaymentResult{Outcome: millrace.OutcomeRequiresAction, Reference: "ch_1", ActionURL: "/simulated/payments/ch_1"})
	br.Wait(`document.getElementById("action").checkVisibility()`)
	require.Equal(t, b.url+"/simulated/payments/ch_1", browsertest.Evaluate[string](br, `document.querySelector("#action a").href`))

	br.Click(`[data-action="cancel"]`)
	br.Click(`#cancel-dialog [data-dismiss]`)
	require.Equal(t, []string{"Action needed", "Payment pending", "Not shipped"}, br.Texts(".pills .pill"))
	br.Click(`[data-action="cancel"]`)
	br.Fill("#cancel-reason", "ordered twice")
	br.Click(`#cancel-dialog [value="confirm"]`)
	br.Wait(`document.getElementById("order").dataset.status === "canceled"`)
	require.Equal(t, "Reason: ordered twice", br.Text("#timeline li:last-child .detail"))
	require.False(t, browsertest.Evaluate[bool](br, `document.getElementById("action").checkVisibility()`))
	b.samePageAfterReload(br)
	br.RequireOnly(b.url)
}

func TestOperatorsReleaseAndRefundFromTheirPage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	paid, held := b.place(ada, "POT-003"), b.place(bob, "TEA-001")
	b.reserve(paid)
	b.pay(paid, approved)
	_, err := b.store.HoldOrder(t.Context(), held, "no_rate", "job:test")
	require.NoError(t, err)

	br := b.browse("olga", "/admin/")
	br.Wait(connected)
	require.Equal(t, []string{"no rate"}, br.Texts(`tr[data-held] .what`))
	br.Click(fmt.Sprintf(`tr[data-held=%q] [data-action="release"]`, held))
	br.Wait(`!document.querySelector("tr[data-held]")`)
	o, err := b.store.FindOrder(t.Context(), held)
	require.NoError(t, err)
	require.NotEqual(t, millrace.OrderOnHold, o.Status)

	br.Wait(connected)
	br.Click(fmt.Sprintf(`tr[data-order=%q] [data-action="refunds"]`, paid))
	br.Fill("#refund-amount", "12.345")
	br.Click(`#refund-dialog [value="confirm"]`)
	br.Wait(`document.querySelector("[data-action-error]").checkVisibility()`)
	require.Contains(t, br.Text("[data-action-error]"), "at most 2 decimal digits")
	br.Click(fmt.Sprintf(`tr[data-order=%q] [data-action="refunds"]`, paid))
	br.Fill("#refund-amount", "12.5")
	browsertest.Evaluate[any](br, `window.beforeRefund = true`)
	br.Click(`#refund-dialog [value="confirm"]`)
	br.Wait(`!window.beforeRefund`)
	o, err = b.store.FindOrder(t.Context(), paid)
	require.NoError(t, err)
	last := o.Transactions[len(o.Transactions)-1]
	require.Equal(t, millrace.TransactionRefund, last.Kind)
	require.EqualValues(t, 1250, last.AmountMinor)

	// What happens meanwhile shows without a reload.
	br.Wait(connected)
	b.ship(paid)
	br.Wait(fmt.Sprintf(`document.querySelector('tr[data-order=%q] [data-fulfillment]').innerText === "Shipped"`, paid))
	b.place(bob, "TEA-001")
	br.Wait(`document.getElementById("news").checkVisibility()`)
	br.RequireOnly(b.url)
}

func TestRiverUIAndTheAPIsDocumentationWorkOffline(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.place(ada, "TEA-001")
	br := b.browse("olga", "/admin/river/jobs?state=available")
	br.Wait(`document.body.innerText.includes("reserve_stock") || document.body.innerText.includes("ReserveStock")`)
	br.Open(b.url + "/docs")
	br.Wait(`document.querySelector("#docs .opblock")`)
	require.Contains(t, br.Text("#docs"), "/v1/orders/{id}/stream")
	br.RequireOnly(b.url)
}

func TestPagesFitAPhone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada, "TEA-001", "RARE-010")
	_, err := b.store.HoldOrder(t.Context(), id, "a_reason_of_many_words_without_a_single_space_between_any_two_of_them", "job:test")
	require.NoError(t, err)
	br := b.browse("olga", "/")
	for _, dark := range []bool{false, true} {
		br.View(360, 740, dark)
		for _, page := range []string{"/", "/orders", "/orders/" + id.String(), "/admin/", "/docs", "/nowhere"} {
			br.Open(b.url + page)
			require.Empty(t, br.Overflow(), page)
		}
	}
	br.Open(b.url + "/")
	br.Click(`[data-add="RARE-010"]`)
	require.Empty(t, br.Overflow(), "with a basket")
}

func TestAnOrderIsPlacedByKeyboardAlone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	br := b.browse("ada", "/")
	press := func(keys string) { br.Do(chromedp.KeyEvent(keys)) }
	until := func(selector string) {
		for range 60 {
			press("\t")
			if browsertest.Evaluate[bool](br, fmt.Sprintf(`document.activeElement.matches(%q)`, selector)) {
				return
			}
		}
		t.Fatalf("Tab never leads to %s", selector)
	}
	press("\t")
	require.Equal(t, "Skip to the content", br.Text(":focus"))
	until(`[data-add="CUP-002"]`)
	press("\r")
	until("[data-more]")
	press("\r")
	require.True(t, browsertest.Evaluate[bool](br, `document.activeElement.matches("[data-more]")`), "the focus stays where it was")
	until("#ship-line1")
	press("1 Mill Lane")
	until("#ship-city")
	press("Bath")
	until("#ship-country")
	press("GB\r")
	br.Wait(`location.pathname.startsWith("/orders/")`)
	page, err := b.store.PageOrders(t.Context(), db.OrderFilter{Limit: 10})
	require.NoError(t, err)
	require.Len(t, page.Orders, 1)
	require.EqualValues(t, 2, page.Orders[0].Lines[0].Quantity)
}

func TestEverySetbackShowsLiveAsItDoesAfterwards(t *testing.T) {
	t.Parallel()
	b := setup(t)
	br := browsertest.New(t)
	for _, who := range []string{"ada", "olga"} {
		br.Cookie(b.url, "test", who)
		id := b.place(ada, "TEA-001")
		br.Open(b.url + "/orders/" + id.String())
		br.Wait(connected)
		_, err := b.store.HoldOrder(t.Context(), id, "looks_like_fraud", "operator:test")
		require.NoError(t, err)
		entries(br, 2)
		if who == "olga" {
			br.Wait(`document.querySelector("#held").innerText.includes("looks like fraud")`)
		}
		require.Equal(t, who == "olga", browsertest.Evaluate[bool](br, `document.documentElement.outerHTML.includes("fraud")`), "why is for operators")
		b.samePageAfterReload(br)
		br.Wait(connected)
		_, err = b.store.ReleaseOrder(t.Context(), id, "operator:test")
		require.NoError(t, err)
		b.reserve(id)
		b.pay(id, millrace.PaymentResult{Outcome: millrace.OutcomeDeclined, Code: "insufficient_funds"})
		entries(br, 6)
		require.Equal(t, "The bank says: insufficient funds.", br.Texts("#timeline .detail")[len(br.Texts("#timeline .detail"))-2])
		b.samePageAfterReload(br)

		id = b.place(ada, "GONE-000")
		br.Open(b.url + "/orders/" + id.String())
		br.Wait(connected)
		b.reserve(id)
		entries(br, 3)
		require.Equal(t, "Reason: out of stock", br.Text("#timeline li:last-child .detail"))
		b.samePageAfterReload(br)
	}
	br.RequireOnly(b.url)
}
