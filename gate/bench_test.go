package gate

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkProxy compares a request through the gate, by key, by session and to a public route, with one through a bare
// httputil.ReverseProxy and one straight to the upstream, all over keep-alive connections.
func BenchmarkProxy(b *testing.B) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"id":"0190a3c5-0000-7000-8000-000000000000","status":"completed"}`)
	}))
	b.Cleanup(upstream.Close)
	target, err := url.Parse(upstream.URL)
	if err != nil {
		b.Fatal(err)
	}
	bare := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(target) },
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
	})
	b.Cleanup(bare.Close)
	g := setupRoutes(b, `
routes:
  - {path: /, upstream: "`+upstream.URL+`", allow: [customer]}
  - {path: /open/, upstream: "`+upstream.URL+`", allow: [public]}
`, func(c *Config) { c.Logger = slog.New(slog.DiscardHandler) })
	session := g.loggedIn(customerEmail, customerPassword).Jar.Cookies(nil)[0].String()
	for _, bc := range []struct{ name, url, header, value string }{
		{"upstream alone", upstream.URL + "/v1/a", "X-A", "b"},
		{"bare proxy", bare.URL + "/v1/a", "X-A", "b"},
		{"gate, public", g.url + "/open/a", "X-A", "b"},
		{"gate, key", g.url + "/v1/a", "Authorization", bearer(g.customerKey)},
		{"gate, session", g.url + "/v1/a", "Cookie", session},
	} {
		b.Run(bc.name, func(b *testing.B) {
			transport := &http.Transport{MaxIdleConnsPerHost: 64}
			defer transport.CloseIdleConnections()
			var mu sync.Mutex
			var took []time.Duration
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				var own []time.Duration
				for pb.Next() {
					req, _ := http.NewRequestWithContext(b.Context(), http.MethodGet, bc.url, nil)
					req.Header.Set(bc.header, bc.value)
					started := time.Now()
					res, err := transport.RoundTrip(req)
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if res.StatusCode != http.StatusOK {
						b.Errorf("status %d", res.StatusCode)
						return
					}
					own = append(own, time.Since(started))
				}
				mu.Lock()
				took = append(took, own...)
				mu.Unlock()
			})
			slices.Sort(took)
			b.ReportMetric(float64(len(took))/b.Elapsed().Seconds(), "req/s")
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-us")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-us")
		})
	}
}

func BenchmarkCanonicalPath(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := canonicalPath("/v1/orders/0190a3c5-0000-7000-8000-000000000000/events?limit=10"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSign(b *testing.B) {
	g := setup(b)
	p := &Principal{Subject: "0190a3c5-0000-7000-8000-000000000000", Email: customerEmail, Name: "Ada", Roles: []string{"customer"}, Scopes: []string{"*"}, Kind: kindSession, Credential: "0190a3c5-0000-7000-8000-000000000000"}
	for name, to := range map[string]*Upstream{"each": {Audience: "shop"}, "reused": {Audience: "shop", ReuseTokens: Duration(maxReuse)}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := g.gate.signer.identity(p, to, "jwi4n6z7q2v5c3k8d9f0a1b2s3"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
