package web_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"regexp"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/http/web"
)

var (
	elsewhere    = regexp.MustCompile(`(?i)\b(?:src|href|action|formaction|poster|srcset|data)\s*=\s*["']?\s*(?:https?:)?//[^"'\s>]+`)
	inlineScript = regexp.MustCompile(`(?i)<script(?:[^>]*)>`)
	inlineStyle  = regexp.MustCompile(`(?i)<style|\sstyle\s*=|\son[a-z]+\s*=`)
)

// everyPage is each page there is, with somebody who may see it.
func (b *testBundle) everyPage() map[string]string {
	id := b.place(ada, "TEA-001")
	return map[string]string{"/": "ada", "/orders": "ada", "/orders/" + id.String(): "ada", "/admin/": "olga", "/docs": "ada",
		"/nowhere": "ada", "/orders/" + uuid.NewString(): "ada", "/?after=CUP-002": ""}
}

func TestPagesRunNoInlineScriptAndNameNoOtherHost(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for page, who := range b.everyPage() {
		rw := b.get(who, page)
		policy := rw.Header().Get("Content-Security-Policy")
		require.Contains(t, policy, "default-src 'none'", page)
		require.Contains(t, policy, "script-src 'self';", page)
		require.Contains(t, policy, "frame-ancestors 'none'", page)
		require.NotContains(t, policy, "unsafe", page)
		require.NotContains(t, policy, "http", page)
		require.Equal(t, "DENY", rw.Header().Get("X-Frame-Options"), page)
		require.Equal(t, "same-origin", rw.Header().Get("Referrer-Policy"), page)
		require.Equal(t, "nosniff", rw.Header().Get("X-Content-Type-Options"), page)
		require.Equal(t, "no-store", rw.Header().Get("Cache-Control"), page)
		html := rw.Body.String()
		require.Empty(t, elsewhere.FindAllString(html, -1), page)
		require.Empty(t, inlineStyle.FindAllString(html, -1), page)
		for _, tag := range inlineScript.FindAllString(html, -1) {
			if !strings.Contains(tag, "src=") {
				require.Contains(t, tag, `type="application/json"`, page)
			}
		}
	}
}

func TestAssetsNameNoOtherHost(t *testing.T) {
	t.Parallel()
	loads := regexp.MustCompile(`(?i)url\(\s*["']?(?:https?:)?//|@import|\bimport\s*\(?\s*["'](?:https?:)?//|\bfrom\s*["'](?:https?:)?//|importScripts\(`)
	seen := 0
	require.NoError(t, fs.WalkDir(os.DirFS("assets"), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(name) == ".txt" {
			return err
		}
		body, err := os.ReadFile("assets/" + name)
		require.NoError(t, err)
		require.Empty(t, loads.FindAllString(string(body), -1), name)
		if path.Ext(name) != ".js" || !strings.HasPrefix(name, "vendor/") {
			require.Empty(t, elsewhere.FindAllString(string(body), -1), name)
		}
		seen++
		return nil
	}))
	require.Greater(t, seen, 10)
}

func TestVendoredAssetsNameTheirVersionAndLicence(t *testing.T) {
	t.Parallel()
	vendored, err := os.ReadDir("assets/vendor")
	require.NoError(t, err)
	for _, d := range vendored {
		for _, file := range []string{"VERSION.txt", "LICENSE.txt"} {
			body, err := os.ReadFile(path.Join("assets/vendor", d.Name(), file))
			require.NoError(t, err)
			require.NotEmpty(t, body)
		}
	}
}

func TestWhoMayOpenAPage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	order := "/orders/" + b.place(ada, "TEA-001").String()
	for _, c := range []struct {
		page                       string
		nobody, owner, other, oper int
	}{
		{"/", 200, 200, 200, 200},
		{"/docs", 200, 200, 200, 200},
		{"/orders", 401, 200, 200, 200},
		{order, 401, 200, 404, 200},
		{"/orders/" + uuid.NewString(), 401, 404, 404, 404},
		{"/orders/nonsense", 401, 404, 404, 404},
		{strings.ToUpper(order), 404, 404, 404, 404},
		{"/admin/", 401, 403, 403, 200},
		{"/admin/river/", 401, 403, 403, 200},
		{"/admin/river/jobs", 401, 403, 403, 200},
		{"/admin/river/api/queues", 401, 403, 403, 200},
		{"/nowhere", 404, 404, 404, 404},
	} {
		for who, want := range map[string]int{"": c.nobody, "ada": c.owner, "bob": c.other, "olga": c.oper} {
			require.Equal(t, want, b.get(who, c.page).Code, "%s as %q", c.page, who)
		}
	}
}

func TestRiverUIIsChangedByOperatorsOnThisSiteAlone(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.place(ada, "TEA-001")
	var id int64
	require.NoError(t, b.pool.QueryRow(t.Context(), "SELECT id FROM river.river_job").Scan(&id))
	state := func() (s string) {
		require.NoError(t, b.pool.QueryRow(t.Context(), "SELECT state FROM river.river_job WHERE id = $1", id).Scan(&s))
		return s
	}
	cancel := func(who, site string) int {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/admin/river/api/jobs/cancel", strings.NewReader(fmt.Sprintf(`{"ids":["%d"]}`, id)))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Sec-Fetch-Site", site)
		return b.ask(r, who).Code
	}
	require.Equal(t, http.StatusForbidden, cancel("olga", "cross-site"))
	require.Equal(t, http.StatusForbidden, cancel("olga", "same-site"))
	require.Equal(t, http.StatusForbidden, cancel("ada", "same-origin"))
	require.Equal(t, http.StatusUnauthorized, cancel("", "same-origin"))
	require.Equal(t, "available", state())
	require.Equal(t, http.StatusOK, cancel("olga", "same-origin"))
	require.Equal(t, "cancelled", state(), "River UI works in River's own schema")

	huge := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/admin/river/api/jobs/cancel", strings.NewReader(`{"ids":["`+strings.Repeat("1", 200<<10)+`"]}`))
	huge.Header.Set("Sec-Fetch-Site", "same-origin")
	require.GreaterOrEqual(t, b.ask(huge, "olga").Code, 400)
}

func TestWhatPeopleWroteIsEscaped(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const evil = `<img src=x onerror=alert(1)>"'&</script><script>alert(2)</script>`
	_, err := b.store.PutProduct(t.Context(), millrace.Product{SKU: "EVIL-1", Name: evil, Description: evil, PriceMinor: 1, Currency: "EUR", Active: true})
	require.NoError(t, err)
	_, err = b.store.SetStock(t.Context(), "EVIL-1", millrace.DefaultLocation, 5, "operator:test")
	require.NoError(t, err)
	id := b.place(ada, "EVIL-1")
	_, err = b.store.HoldOrder(t.Context(), id, evil, "operator:test")
	require.NoError(t, err)
	for _, page := range []string{"/", "/orders/" + id.String(), "/admin/", "/admin/?sku=%3Cimg%20src%3Dx%3E", "/orders/%3Cimg%20src%3Dx%3E"} {
		html := b.get("olga", page).Body.String()
		require.NotContains(t, html, "<img src=x", page)
		require.NotContains(t, html, "<script>alert", page)
	}
	require.Contains(t, b.get("olga", "/").Body.String(), "&lt;img src=x")
	require.Contains(t, b.get("olga", "/orders/"+id.String()).Body.String(), "&lt;img src=x")
}

func TestALinkToActLeadsToAPageOnly(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada, "TEA-001")
	b.reserve(id)
	b.pay(id, millrace.PaymentResult{Outcome: millrace.OutcomeRequiresAction, Reference: "ch_1", ActionURL: "javascript:alert(1)"})
	require.NotContains(t, b.get("ada", "/orders/"+id.String()).Body.String(), "javascript:")
}

func TestWhyAnOrderIsHeldIsForOperators(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada, "TEA-001")
	_, err := b.store.HoldOrder(t.Context(), id, "looks_like_fraud", "operator:test")
	require.NoError(t, err)
	require.NotContains(t, b.get("ada", "/orders/"+id.String()).Body.String(), "fraud")
	require.Contains(t, b.get("olga", "/orders/"+id.String()).Body.String(), "looks like fraud")
	require.Contains(t, b.get("olga", "/admin/").Body.String(), "looks like fraud")
}

func TestErrorsArePagesToBrowsersAndProblemsToPrograms(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, c := range []struct {
		method, path, who string
		status            int
		code              string
	}{
		{"GET", "/nowhere", "ada", 404, "not_found"},
		{"POST", "/orders", "ada", 405, "method_not_allowed"},
		{"POST", "/nowhere", "ada", 404, "not_found"},
		{"GET", "/orders", "", 401, "unauthorized"},
		{"GET", "/admin/", "ada", 403, "forbidden"},
		{"GET", "/orders?status=nonsense", "ada", 400, "invalid"},
		{"GET", "/admin/?before=nonsense", "olga", 400, "invalid"},
		{"GET", "/admin/?sku=%00", "olga", 400, "invalid"},
	} {
		b.place(ada, "TEA-001")
		page := b.ask(httptest.NewRequestWithContext(t.Context(), c.method, c.path, http.NoBody), c.who)
		require.Equal(t, c.status, page.Code, c.path)
		require.Equal(t, "text/html; charset=utf-8", page.Header().Get("Content-Type"), c.path)
		require.Contains(t, page.Body.String(), "<h1", c.path)
		r := httptest.NewRequestWithContext(t.Context(), c.method, c.path, http.NoBody)
		r.Header.Set("Accept", "application/json")
		problem := b.ask(r, c.who)
		require.Equal(t, c.status, problem.Code, c.path)
		require.Equal(t, "application/problem+json", problem.Header().Get("Content-Type"), c.path)
		var said struct{ Code, Detail string }
		require.NoError(t, json.Unmarshal(problem.Body.Bytes(), &said))
		require.Equal(t, c.code, said.Code, c.path)
		require.NotEmpty(t, said.Detail, c.path)
	}
	require.Equal(t, "GET, HEAD", b.ask(httptest.NewRequestWithContext(t.Context(), http.MethodPut, "/orders", http.NoBody), "ada").Header().Get("Allow"))
}

func TestADatabaseThatIsGoneIsAPageThatSaysSoAndNoMore(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.pool.Close()
	for _, page := range []string{"/", "/orders", "/admin/"} {
		rw := b.get("olga", page)
		require.GreaterOrEqual(t, rw.Code, 500, page)
		require.Contains(t, rw.Body.String(), "<h1", page)
		require.NotContains(t, rw.Body.String(), "pool", page)
		require.NotContains(t, rw.Body.String(), "SELECT", page)
	}
}

func TestAssetsAreKeptForeverUnderTheirFingerprint(t *testing.T) {
	t.Parallel()
	b := setup(t)
	address := regexp.MustCompile(`/assets/[^/"]+/shop\.js`).FindString(b.get("", "/").Body.String())
	require.NotEmpty(t, address)
	rw := b.get("", address)
	require.Equal(t, http.StatusOK, rw.Code)
	require.Equal(t, "public, max-age=31536000, immutable", rw.Header().Get("Cache-Control"))
	require.Equal(t, "text/javascript; charset=utf-8", rw.Header().Get("Content-Type"))
	plain := rw.Body.Bytes()

	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	r.Header.Set("If-None-Match", rw.Header().Get("ETag"))
	require.Equal(t, http.StatusNotModified, b.ask(r, "").Code)

	r = httptest.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	r.Header.Set("Accept-Encoding", "br, gzip;q=0.8")
	zipped := b.ask(r, "")
	require.Equal(t, "gzip", zipped.Header().Get("Content-Encoding"))
	require.Equal(t, "Accept-Encoding", zipped.Header().Get("Vary"))
	reader, err := gzip.NewReader(zipped.Body)
	require.NoError(t, err)
	unzipped, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.True(t, bytes.Equal(plain, unzipped))

	old := b.get("", "/assets/another/shop.js")
	require.Equal(t, http.StatusOK, old.Code)
	require.Equal(t, "no-cache", old.Header().Get("Cache-Control"), "another version's address is never kept")
	for _, missing := range []string{"/assets/another/none.js", "/assets/", "/assets/shop.js", "/assets/another/", "/assets/another/vendor"} {
		require.Equal(t, http.StatusNotFound, b.get("", missing).Code, missing)
	}
}

func TestListsPageByKey(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for range 27 {
		b.place(ada, "TEA-001")
	}
	first := b.get("ada", "/orders").Body.String()
	require.Equal(t, 25, strings.Count(first, "<tr data-order="))
	older := regexp.MustCompile(`rel="next" href="([^"]+)"`).FindStringSubmatch(first)
	require.Len(t, older, 2)
	second := b.get("ada", "/orders"+older[1]).Body.String()
	require.Equal(t, 2, strings.Count(second, "<tr data-order="))
	require.NotContains(t, second, `rel="next"`)
	require.Contains(t, b.get("ada", "/orders?status=completed").Body.String(), "No order matches")
	require.Contains(t, b.get("bob", "/orders").Body.String(), "You have not ordered anything yet")
	require.Equal(t, 25, strings.Count(b.get("ada", "/orders?sku=tea-001").Body.String(), "<tr data-order="), "a SKU may be typed in small letters")
}

func TestTheStorefrontOffersWhatTheGatewayTakes(t *testing.T) {
	t.Parallel()
	b := setup(t)
	simulated := b.get("ada", "/").Body.String()
	for _, token := range []string{"pm_ok", "pm_declined", "pm_flaky", "pm_slow", "pm_lost_answer", "pm_3ds"} {
		require.Contains(t, simulated, `value="`+token+`"`)
	}
	client, err := river.NewClient(riverpgxv5.New(b.pool), &river.Config{Schema: "river"})
	require.NoError(t, err)
	real, err := web.New(web.Config{Store: b.store, River: client, Identity: identify})
	require.NoError(t, err)
	b.pages = real
	require.NotContains(t, b.get("ada", "/").Body.String(), "pm_ok")
}

func TestRiverClientMustWorkWhereTheJobsAre(t *testing.T) {
	t.Parallel()
	b := setup(t)
	client, err := river.NewClient(riverpgxv5.New(b.pool), &river.Config{})
	require.NoError(t, err)
	_, err = web.New(web.Config{Store: b.store, River: client, Identity: identify})
	require.ErrorContains(t, err, "river")
	_, err = web.New(web.Config{})
	require.Error(t, err)
}
