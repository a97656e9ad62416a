package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"millrace/http/web/browsertest"
)

// logIn logs a user in at the gate's page, starting from a page that asks for it.
func logIn(b *browsertest.Browser, d *dev, u devUser, next string) {
	b.Open(d.URL + "/auth/login?next=" + url.QueryEscape(next))
	b.Fill("#email", u.Email)
	b.Fill("#password", u.Password)
	b.Click("form button")
	b.Wait(`location.pathname === "` + next + `" && document.readyState === "complete"`)
}

func TestACustomerOrdersAndWatchesInTheBrowser(t *testing.T) {
	t.Parallel()
	d := startDev(t, dataDir(t))
	b := browsertest.New(t)
	logIn(b, d, d.Customer, "/")
	b.Click(`[data-add="TEA-001"]`)
	b.Click(`[data-add="CUP-002"]`)
	for field, text := range map[string]string{"ship-name": "Ada", "ship-line1": "1 Mill Lane", "ship-city": "Bath", "ship-country": "GB"} {
		b.Fill("#"+field, text)
	}
	b.Click("#place")
	b.Wait(`location.pathname.startsWith("/orders/")`)
	b.Wait(`document.querySelectorAll("#timeline li").length === 8`)
	require.Equal(t, "Completed", b.Texts(".pills .pill")[0])
	b.RequireOnly(d.URL)
	id := strings.TrimPrefix(b.Location(), d.URL+"/orders/")
	require.Equal(t, happyPath, eventTypes(t, d.customer(), id))

	// A customer does not get to the operators' pages.
	b.Open(d.URL + "/admin/river/")
	require.False(t, browsertest.Evaluate[bool](b, `document.body.innerText.includes("settle_payment")`))
	require.NoError(t, d.terminate())
}

func TestAnOperatorSeesJobsInRiverUI(t *testing.T) {
	t.Parallel()
	d := startDev(t, dataDir(t))
	id := d.customer().place(t, "one", orderBody("pm_ok", "GB", "TEA-001"))
	d.until("the order is completed", func() bool {
		_, body, err := d.customer().do(t.Context(), "GET", "/v1/orders/"+id, "")
		return err == nil && strings.Contains(string(body), `"status":"completed"`)
	})
	b := browsertest.New(t)
	logIn(b, d, d.Operator, "/admin/")
	b.Wait(`document.querySelector('a[href="/orders/` + id + `"]')`)
	b.Open(d.URL + "/admin/river/jobs?state=completed")
	b.Wait(`document.body.innerText.includes("settle_payment")`)
	b.RequireOnly(d.URL)
	require.NoError(t, d.terminate())
}
