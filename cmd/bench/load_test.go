package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/gate/identity"
)

func TestAnswersAreReadAsFarAsALoadNeedsThem(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want answer
		fail string
	}{
		"a 2xx without keeping its body":        {"HTTP/1.1 201 Created\r\nContent-Length: 5\r\n\r\nhello", answer{status: 201}, ""},
		"names of any case":                     {"HTTP/1.1 200 OK\r\ncOnTent-LENGTH:2\r\n\r\nok", answer{status: 200}, ""},
		"a refusal that says when to come back": {"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nbusy", answer{503, true, []byte("busy")}, ""},
		"the body of an error":                  {"HTTP/1.1 400 Bad\r\nContent-Length: 3\r\n\r\nwhy", answer{status: 400, body: []byte("why")}, ""},
		"no length":                             {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", answer{}, "no length"},
		"a length too large":                    {"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n", answer{}, "over"},
		"a negative length":                     {"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", answer{}, "not a length"},
		"no HTTP":                               {"SSH-2.0-OpenSSH_9.2\r\n", answer{}, "not a response"},
		"no number as status":                   {"HTTP/1.1 2x1 OK\r\n\r\n", answer{}, "not a status"},
		"a header without end":                  {"HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", 200), answer{}, "too long"},
		"an answer cut short":                   {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", answer{}, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := bufio.NewReaderSize(strings.NewReader(c.text+"HTTP/1.1"), 2048)
			if c.fail == "EOF" {
				in = bufio.NewReaderSize(strings.NewReader(c.text), 2048)
			}
			got, err := readAnswer(in)
			if c.fail != "" {
				require.ErrorContains(t, err, c.fail)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			next, err := in.Peek(8)
			require.NoError(t, err)
			require.Equal(t, "HTTP/1.1", string(next), "the next answer is where it begins")
		})
	}
}

func TestEachPostIsAnOrderUnderAKeyOfItsOwn(t *testing.T) {
	t.Parallel()
	post := orderPosts("127.0.0.1:1", 1000, "Gate-Identity: ", func(conn int) string { return fmt.Sprintf("token-%d", conn) })
	keys := map[string]bool{}
	for n := range 50 {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(post(nil, n%3, n))))
		require.NoError(t, err)
		require.Equal(t, "POST /v1/orders", r.Method+" "+r.RequestURI)
		require.Equal(t, fmt.Sprintf("token-%d", n%3), r.Header.Get(identity.Header))
		keys[r.Header.Get("Idempotency-Key")] = true
		var o struct {
			Lines []struct {
				SKU      string
				Quantity int
			}
			Email string
		}
		d := json.NewDecoder(r.Body)
		require.NoError(t, d.Decode(&o))
		require.Len(t, o.Lines, 2)
		require.Equal(t, "bench@example.com", o.Email)
		var first, second int
		_, err = fmt.Sscanf(o.Lines[0].SKU+o.Lines[1].SKU, "SKU-%06dSKU-%06d", &first, &second)
		require.NoError(t, err)
		require.Equal(t, (first+1)%1000, second)
		rest, err := io.ReadAll(io.MultiReader(d.Buffered(), r.Body))
		require.NoError(t, err)
		require.Empty(t, rest, "the length is that of the body")
	}
	require.Len(t, keys, 50)
}

// counted answers with the statuses that answer gives, and remembers how many requests were under way at once.
func counted(t *testing.T, answer func(n int64, w http.ResponseWriter)) (addr string, requests *atomic.Int64) {
	t.Helper()
	requests = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		answer(requests.Add(1), w)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), requests
}

func get(buf []byte, _, _ int) []byte {
	return append(buf, "GET / HTTP/1.1\r\nHost: bench\r\n\r\n"...)
}

func TestALoadCountsWhatWasTakenAndWhatWasRefused(t *testing.T) {
	t.Parallel()
	addr, requests := counted(t, func(n int64, w http.ResponseWriter) {
		if n%2 == 0 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	during := false
	a, err := load{addr: addr, conns: 4, time: 200 * time.Millisecond, request: get, during: func(ctx context.Context) error { during = true; return ctx.Err() }}.run(t.Context())
	require.NoError(t, err)
	require.True(t, during)
	require.Positive(t, a.accepted)
	require.Positive(t, a.refused)
	require.LessOrEqual(t, a.accepted+a.refused, requests.Load())
	require.Equal(t, a.accepted, a.latencies.TotalCount(), "only what was taken has a latency")
}

func TestALoadAtARateCountsLatencyFromWhenARequestWasDue(t *testing.T) {
	t.Parallel()
	const slow = 20 * time.Millisecond
	addr, _ := counted(t, func(int64, http.ResponseWriter) { <-time.After(slow) })
	// One connection answers 50 requests a second at most: of 200 that are due, each waits longer than the one before it.
	a, err := load{addr: addr, conns: 1, rate: 200, time: 500 * time.Millisecond, request: get}.run(t.Context())
	require.NoError(t, err)
	require.Greater(t, a.quantile(100), 3*slow.Seconds()*1000)
	require.Zero(t, a.leftOut)

	a, err = load{addr: addr, conns: 1, rate: 200, patience: 30 * time.Millisecond, time: 500 * time.Millisecond, request: get}.run(t.Context())
	require.NoError(t, err)
	require.Positive(t, a.leftOut, "what nobody could send in time is left out and counted")
}

func TestALoadFailsOnWhatIsNeitherTakenNorProperlyRefused(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(int64, http.ResponseWriter){
		"a 503 that does not say when to come back": func(_ int64, w http.ResponseWriter) { w.WriteHeader(503) },
		"an error":            func(_ int64, w http.ResponseWriter) { http.Error(w, "no", 500) },
		"a broken connection": func(int64, http.ResponseWriter) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr, _ := counted(t, answer)
			_, err := load{addr: addr, conns: 2, time: time.Minute, request: get}.run(t.Context())
			require.ErrorContains(t, err, addr)
		})
	}
}

func TestTheIssuersTokensAreThoseOfAGate(t *testing.T) {
	t.Parallel()
	i, err := newIssuer(t.Context())
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	t.Cleanup(func() { require.NoError(t, i.close()) })
	v, err := identity.NewVerifier(identity.Config{JWKSURL: i.jwksURL(), Audience: "millrace", HTTPClient: client})
	require.NoError(t, err)
	claims, err := v.Verify(t.Context(), i.customer(7))
	require.NoError(t, err)
	require.Equal(t, "bench-7", claims.Subject)
	require.True(t, claims.HasRole(string(millrace.RoleCustomer)))
	claims, err = v.Verify(t.Context(), i.operator())
	require.NoError(t, err)
	require.True(t, claims.HasRole(string(millrace.RoleOperator)))

	var tokens sync.Map
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { tokens.Store(i.customer(7), true) })
	}
	wg.Wait()
	n := 0
	tokens.Range(func(any, any) bool { n++; return true })
	require.Equal(t, 1, n, "a token is signed once, not for each request")
}
