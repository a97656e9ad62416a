package simulated_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"millrace"
	"millrace/provider/simulated"
)

// site is the handler on a real socket, mounted as dev does.
func site(t *testing.T, b *testBundle) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle("/simulated/", b.Handler())
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

type answer struct {
	status int
	header http.Header
	body   string
}

// do sends a request without following redirects.
func do(t *testing.T, server *httptest.Server, method, path string, header http.Header, body io.Reader) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		r.Header = header
	}
	response, err := server.Client().Transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{status: response.StatusCode, header: response.Header, body: string(text)}
}

func wantProblem(t *testing.T, what string, got answer, status int, code string) {
	t.Helper()
	var p struct {
		Title, Code, Detail string
		Status              int
	}
	if err := json.Unmarshal([]byte(got.body), &p); err != nil {
		t.Fatalf("%s: %v in %q", what, err, got.body)
	}
	if got.status != status || p.Status != status || p.Code != code || p.Title == "" || p.Detail == "" ||
		got.header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("%s: got %d %s %+v, want %d %s as problem+json", what, got.status, got.header.Get("Content-Type"), p, status, code)
	}
}

// waiting is a payment that waits for its buyer.
func waiting(t *testing.T, b *testBundle) (millrace.PaymentRequest, string) {
	t.Helper()
	r := authorize("pm_3ds")
	r.WithCapture = true
	got, err := b.Gateway().Authorize(t.Context(), r)
	if err != nil || got.Outcome != millrace.OutcomeRequiresAction {
		t.Fatalf("got %+v, %v", got, err)
	}
	return r, got.Reference
}

func TestTheBuyerDecidesOnce(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	server := site(t, b)
	type step struct {
		call string // confirm, decline, or void at the gateway
		code string // of the refusal, empty if it is accepted
	}
	for name, steps := range map[string][]step{
		"confirmed stays confirmed":       {{"confirm", ""}, {"confirm", ""}, {"decline", "already_confirmed"}, {"confirm", ""}},
		"declined stays declined":         {{"decline", ""}, {"decline", ""}, {"confirm", "already_declined"}, {"decline", ""}},
		"voided is too late for either":   {{"void", ""}, {"confirm", "voided"}, {"decline", "voided"}},
		"a declined one may be voided":    {{"decline", ""}, {"void", ""}, {"confirm", "already_declined"}},
		"a confirmed one was taken":       {{"confirm", ""}, {"void", millrace.CodeAlreadyCaptured}, {"confirm", ""}},
		"a void may be repeated, as well": {{"void", ""}, {"void", ""}, {"confirm", "voided"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, reference := waiting(t, b)
			for i, s := range steps {
				if s.call == "void" {
					void := r
					void.Reference, void.Key = reference, r.Key+strings.Repeat(":void", i+1)
					if got, err := b.Gateway().Void(t.Context(), void); err != nil || got.Code != s.code {
						t.Fatalf("step %d: got %+v, %v, want code %q", i, got, err, s.code)
					}
					continue
				}
				got := do(t, server, http.MethodPost, "/simulated/payments/"+reference+"/"+s.call, nil, nil)
				if s.code != "" {
					wantProblem(t, s.call, got, http.StatusConflict, s.code)
					continue
				}
				var p struct{ Reference, State string }
				if err := json.Unmarshal([]byte(got.body), &p); err != nil || got.status != http.StatusOK || p.Reference != reference {
					t.Fatalf("step %d: got %d %s, %v", i, got.status, got.body, err)
				}
				if want := map[string]string{"confirm": "captured", "decline": "declined"}[s.call]; p.State != want {
					t.Errorf("step %d: the payment is %s, want %s", i, p.State, want)
				}
			}
		})
	}
}

func TestBadRequestsGetAProblemAndChangeNothing(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	server := site(t, b)
	r, reference := waiting(t, b)
	plain := authorize("pm_ok")
	approved, err := b.Gateway().Authorize(t.Context(), plain)
	if err != nil {
		t.Fatal(err)
	}
	confirm := "/simulated/payments/" + reference + "/confirm"
	for _, c := range []struct {
		name, method, path string
		header             http.Header
		body               string
		status             int
		code               string
	}{
		{name: "an unknown reference", method: "POST", path: "/simulated/payments/pay_" + strings.Repeat("0", 32) + "/confirm", status: 404, code: "not_found"},
		{name: "an unknown reference, read", method: "GET", path: "/simulated/payments/pay_" + strings.Repeat("0", 32), status: 404, code: "not_found"},
		{name: "a malformed reference", method: "POST", path: "/simulated/payments/1%27%20OR%201=1/confirm", status: 404, code: "not_found"},
		{name: "a malformed reference, read", method: "GET", path: "/simulated/payments/%00", status: 404, code: "not_found"},
		{name: "a reference with a zero byte", method: "POST", path: "/simulated/payments/%00/confirm", status: 404, code: "not_found"},
		{name: "a reference that is not UTF-8", method: "POST", path: "/simulated/payments/%ff/decline", status: 404, code: "not_found"},
		{name: "a payment that never waited for a buyer", method: "POST", path: "/simulated/payments/" + approved.Reference + "/decline", status: 404, code: "not_found"},
		{name: "a payment that never waited, read", method: "GET", path: "/simulated/payments/" + approved.Reference, status: 404, code: "not_found"},
		{name: "a body too large", method: "POST", path: confirm, body: strings.Repeat("x", 5000), status: 413, code: "body_too_large"},
		{name: "a page of another site", method: "POST", path: confirm, header: http.Header{"Sec-Fetch-Site": {"cross-site"}}, status: 403, code: "cross_site"},
		{name: "a page of another origin", method: "POST", path: confirm, header: http.Header{"Origin": {"https://evil.example"}}, status: 403, code: "cross_site"},
		{name: "a decision by GET", method: "GET", path: confirm, status: 405, code: "method_not_allowed"},
		{name: "a page by POST", method: "POST", path: "/simulated/payments/" + reference, status: 405, code: "method_not_allowed"},
		{name: "another verb", method: "POST", path: "/simulated/payments/" + reference + "/refund", status: 404, code: "not_found"},
		{name: "another page", method: "GET", path: "/simulated/", status: 404, code: "not_found"},
		{name: "an unknown label", method: "GET", path: "/simulated/labels/SIM" + strings.Repeat("0", 32), status: 404, code: "not_found"},
		{name: "a malformed label", method: "GET", path: "/simulated/labels/%3Cscript%3E", status: 404, code: "not_found"},
		{name: "a label by DELETE", method: "DELETE", path: "/simulated/labels/SIM" + strings.Repeat("0", 32), status: 405, code: "method_not_allowed"},
	} {
		got := do(t, server, c.method, c.path, c.header, strings.NewReader(c.body))
		wantProblem(t, c.name, got, c.status, c.code)
		if c.status == http.StatusMethodNotAllowed && got.header.Get("Allow") == "" {
			t.Errorf("%s: it does not say which methods there are", c.name)
		}
	}
	if got, err := b.Gateway().Get(t.Context(), r); err != nil || got.Outcome != millrace.OutcomeRequiresAction {
		t.Errorf("the payment is %+v, %v, want it to wait still", got, err)
	}
	b.wantEntry(t, plain.OrderID, simulated.Entry{HeldMinor: 2500})
}

func TestADecisionIsNotTakenWithoutADatabaseAndSaysNoCause(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	server := site(t, b)
	_, reference := waiting(t, b)
	if _, err := b.pool.Exec(t.Context(), `ALTER TABLE simulated.charges RENAME TO gone`); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/confirm", "/decline"} {
		got := do(t, server, http.MethodPost, "/simulated/payments/"+reference+path, nil, nil)
		wantProblem(t, path, got, http.StatusServiceUnavailable, "unavailable")
		if strings.Contains(got.body, "charges") {
			t.Errorf("the answer tells the cause: %s", got.body)
		}
	}
}

func TestThePaymentPageLeadsThroughTheDecision(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{OrderPage: "/orders/"})
	server := site(t, b)
	r, reference := waiting(t, b)
	path := "/simulated/payments/" + reference
	browser := http.Header{"Accept": {"text/html,application/xhtml+xml"}, "Sec-Fetch-Site": {"same-origin"},
		"Content-Type": {"application/x-www-form-urlencoded"}}

	page := do(t, server, http.MethodGet, path, browser, nil)
	for _, want := range []string{`<html lang="en">`, "25.00", r.OrderID.String(), `action="` + path + `/confirm"`, `action="` + path + `/decline"`,
		`href="/orders/` + r.OrderID.String() + `"`} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the page lacks %s:\n%s", want, page.body)
		}
	}
	if csp := page.header.Get("Content-Security-Policy"); page.status != http.StatusOK || !strings.Contains(csp, "default-src 'none'") ||
		!strings.Contains(csp, "frame-ancestors 'none'") || page.header.Get("Cache-Control") != "no-store" {
		t.Errorf("got %d, %v", page.status, page.header)
	}

	posted := do(t, server, http.MethodPost, path+"/confirm", browser, strings.NewReader(url.Values{}.Encode()))
	if posted.status != http.StatusSeeOther || posted.header.Get("Location") != path {
		t.Fatalf("got %d to %q, want 303 to %s", posted.status, posted.header.Get("Location"), path)
	}
	page = do(t, server, http.MethodGet, path, browser, nil)
	if !strings.Contains(page.body, "You have confirmed") || strings.Contains(page.body, "<form") {
		t.Errorf("the page after the confirmation is\n%s", page.body)
	}

	posted = do(t, server, http.MethodPost, path+"/decline", browser, nil)
	if posted.status != http.StatusConflict || !strings.Contains(posted.body, `role="alert"`) || !strings.Contains(posted.body, "can no longer be declined") {
		t.Errorf("got %d\n%s", posted.status, posted.body)
	}
}

func TestALabelIsServedWhereItsURLSays(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{TransitAfter: never, DeliverAfter: never})
	server := site(t, b)
	r := label("GB")
	got, err := b.Carrier().Buy(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	page := do(t, server, http.MethodGet, got.LabelURL, nil, nil)
	if page.status != http.StatusOK || page.header.Get("Content-Type") != "image/svg+xml" {
		t.Fatalf("got %d %s", page.status, page.header.Get("Content-Type"))
	}
	for _, want := range []string{got.TrackingNumber, r.OrderID.String(), "GB", "purchased"} {
		if !strings.Contains(page.body, want) {
			t.Errorf("the label lacks %s:\n%s", want, page.body)
		}
	}
	if strings.Contains(page.body, r.ShipTo.Name) {
		t.Error("the label shows personal data, and anyone may fetch it")
	}
}
