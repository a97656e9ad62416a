package http_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"millrace"
	orderhttp "millrace/http"
)

func TestAServerNeedsItsParts(t *testing.T) {
	t.Parallel()
	_, err := orderhttp.NewServer(orderhttp.Config{})
	require.ErrorContains(t, err, "Store, Hub and Identity")
}

func TestAPanicIsAProblemAndItsCauseIsLogged(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *orderhttp.Config) {
		c.Extra = map[string]http.Handler{
			"/panic": http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("secret cause") }),
			"/half": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				_, _ = w.Write([]byte("half"))
				_ = http.NewResponseController(w).Flush()
				panic("half way")
			}),
		}
	})
	r := b.call(none, "GET", "/panic", "", "X-Request-Id", "req-1")
	p := r.problem(http.StatusInternalServerError, millrace.CodeInternal)
	require.Equal(t, "req-1", p.RequestID)
	require.Contains(t, b.log.String(), "secret cause")
	require.Contains(t, b.log.String(), "request_id=req-1")

	resp, err := b.client.Transport.(*contract).next.RoundTrip(b.request(none, "GET", "/half", ""))
	require.NoError(t, err)
	defer resp.Body.Close()
	_, err = io.ReadAll(resp.Body)
	require.Error(t, err, "an answer that has begun is cut, not completed")
	require.Eventually(t, func() bool { return strings.Contains(b.log.String(), "half way") }, patience, poll)
}

func TestCausesAreLoggedAndNotTold(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.place(ada)
	b.pool.Close() // the database is gone
	for _, path := range []string{"/v1/orders", "/v1/products", "/v1/customers/me"} {
		r := b.call(ada, "GET", path, "")
		r.problem(http.StatusServiceUnavailable, millrace.CodeUnavailable)
		require.NotEmpty(t, r.header.Get("Retry-After"))
	}
	b.call(ada, "POST", "/v1/orders", teaOrder, "Idempotency-Key", "k").problem(http.StatusServiceUnavailable, millrace.CodeUnavailable)
	require.Contains(t, b.log.String(), "closed pool")
	require.Contains(t, b.log.String(), "level=WARN")
	require.NotContains(t, b.log.String(), "ada@example.com", "no personal data is logged")
	require.NotContains(t, b.log.String(), "Mill Lane")
}

func TestARequestIDIsTakenOverOrMade(t *testing.T) {
	t.Parallel()
	b := setup(t)
	require.Equal(t, "abc-123", b.call(none, "GET", "/v1/products", "", "X-Request-Id", "abc-123").header.Get("X-Request-Id"))
	for _, bad := range []string{"", strings.Repeat("a", 129), "ü"} {
		id := b.call(none, "GET", "/v1/products", "", "X-Request-Id", bad).header.Get("X-Request-Id")
		require.NotEqual(t, bad, id)
		require.Len(t, id, 36)
	}
}

func TestNothingOfARequestsHostOrFormatIsRepeated(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.request(none, "GET", "/v1/products", "")
	r.Host = "evil.example"
	for _, accept := range []string{"text/html", "application/cbor", "json", "*/*", "application/json;q=0", "application/problem+json"} {
		r.Header.Set("Accept", accept)
		resp, err := b.client.Do(r)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.NoError(t, err)
		require.Equal(t, "application/json", resp.Header.Get("Content-Type"), accept)
		require.NotContains(t, string(body), "$schema")
		require.Empty(t, resp.Header.Get("Link"))
		require.NotContains(t, string(body), "evil.example")
	}
	r = b.request(none, "GET", "/v1/products", "")
	r.Host = "evil.example"
	r.URL.Path = "/v1/orders"
	resp, err := b.client.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.False(t, bytes.Contains(body, []byte("evil.example")))
}

func TestRequestsAreCountedByRouteAndStatus(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	b := setup(t, func(c *orderhttp.Config) { c.Metrics = registry })
	id := b.place(ada)
	b.call(ada, "GET", "/v1/orders/"+id.String(), "").is(http.StatusOK)
	b.call(bob, "GET", "/v1/orders/"+id.String(), "").is(http.StatusNotFound)
	b.call(ada, "GET", "/v1/no/such/"+id.String(), "").is(http.StatusNotFound)
	for _, line := range []string{
		`millrace_http_requests_total{route="GET /v1/orders/{id}",status="200"} 1`,
		`millrace_http_requests_total{route="GET /v1/orders/{id}",status="404"} 1`,
		`millrace_http_requests_total{route="POST /v1/orders",status="201"} 1`,
		`millrace_http_requests_total{route="none",status="404"} 1`,
		`millrace_http_request_duration_seconds_count{route="GET /v1/orders/{id}"} 2`,
	} {
		require.Eventually(t, func() bool { // a request is counted once its answer is out
			w := httptest.NewRecorder()
			orderhttp.NewOps(orderhttp.OpsConfig{Gatherer: registry}).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/metrics", nil))
			return strings.Contains(w.Body.String(), line+"\n")
		}, patience, poll, line)
	}
	_, err := orderhttp.NewServer(orderhttp.Config{Store: b.store, Hub: b.hub, Identity: testIdentity, Metrics: registry})
	require.Error(t, err, "two servers cannot count in one registry")
}

func TestOps(t *testing.T) {
	t.Parallel()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "answer", Help: "An answer."}, func() float64 { return 42 }))
	listening := errors.New("secret cause")
	config := orderhttp.OpsConfig{Gatherer: registry, Ready: map[string]func(context.Context) error{
		"database": func(context.Context) error { return nil },
		"listen":   func(context.Context) error { return listening },
	}}
	get := func(c orderhttp.OpsConfig, path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		orderhttp.NewOps(c).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
		return w
	}
	require.Equal(t, http.StatusOK, get(config, "/healthz").Code)
	notReady := get(config, "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, notReady.Code)
	require.JSONEq(t, `{"status":"not ready","checks":{"database":"ok","listen":"failed"}}`, notReady.Body.String())
	listening = nil
	require.JSONEq(t, `{"status":"ready","checks":{"database":"ok","listen":"ok"}}`, get(config, "/readyz").Body.String())
	require.Contains(t, get(config, "/metrics").Body.String(), "answer 42")
	require.Equal(t, http.StatusNotFound, get(config, "/debug/pprof/").Code, "profiles are off unless asked for")
	config.Pprof = true
	require.Equal(t, http.StatusOK, get(config, "/debug/pprof/").Code)
	require.Equal(t, http.StatusOK, get(orderhttp.OpsConfig{}, "/readyz").Code)
}

func TestAStreamShowsWhatTheHistoryShows(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id := b.place(ada)
	stream := b.open(ada, "/v1/orders/"+id.String()+"/stream")
	all := b.open(ada, "/v1/stream")
	operators := b.open(olga, "/v1/stream")
	others := b.open(bob, "/v1/stream")
	b.pay(id)
	b.ship(id)
	theirs := b.place(bob)
	page := into[orderhttp.EventPage](b.call(ada, "GET", "/v1/orders/"+id.String()+"/events", "").is(http.StatusOK))
	for i, want := range page.Events {
		id, got := stream.next()
		require.Equal(t, want, got)
		require.Equal(t, string('1'+rune(i)), id, "the id is the version")
	}
	// A stream of all orders begins when it is opened, or a little before.
	for _, want := range page.Events[1:] {
		_, got := all.next()
		for got.Version < want.Version {
			_, got = all.next()
		}
		require.Equal(t, want, got)
	}
	_, first := others.next()
	require.Equal(t, theirs, first.OrderID, "bob's stream has his order alone")
	for {
		_, e := operators.next()
		if e.OrderID == theirs {
			return // the operators' stream has both
		}
		require.Equal(t, id, e.OrderID)
	}
}

// events is an open stream.
type events struct {
	t    testing.TB
	body *bufio.Reader
}

func (b *testBundle) open(who millrace.Principal, path string) *events {
	b.t.Helper()
	resp, err := b.client.Do(b.request(who, "GET", path, "", "Accept", "text/event-stream"))
	require.NoError(b.t, err)
	b.t.Cleanup(func() { resp.Body.Close() })
	require.Equal(b.t, http.StatusOK, resp.StatusCode)
	require.Equal(b.t, "text/event-stream", resp.Header.Get("Content-Type"))
	s := &events{t: b.t, body: bufio.NewReader(resp.Body)}
	for { // the first frame has no data and says that the stream is open
		if s.line() == "" {
			return s
		}
	}
}

func (s *events) line() string {
	s.t.Helper()
	line, err := s.body.ReadString('\n')
	require.NoError(s.t, err)
	return strings.TrimRight(line, "\n")
}

// next is the id and the data of the next event.
func (s *events) next() (id string, e orderhttp.Event) {
	s.t.Helper()
	for data := ""; ; {
		name, value, _ := strings.Cut(s.line(), ": ")
		switch {
		case name == "id":
			id = value
		case name == "data":
			data = value
		case name == "" && value == "" && data != "":
			return id, into[orderhttp.Event](&reply{t: s.t, body: []byte(data)})
		}
	}
}
