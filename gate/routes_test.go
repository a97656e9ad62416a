package gate

import (
	"strings"
	"testing"
	"time"
)

func TestParseRoutes(t *testing.T) {
	t.Parallel()
	r, err := ParseRoutes([]byte(`
upstreams:
  shop: {url: http://127.0.0.1:8081}
routes:
  - {path: /, upstream: shop, allow: [public]}
  - {path: /v1/, upstream: shop, allow: [customer], max_body: 64KiB, timeout: 2s, stream: true}
  - {path: /v1/x, methods: [get], upstream: shop, allow: [public]}
  - {path: /v1/x, methods: [POST], upstream: shop, allow: [operator], rate: {requests: 5, per: 1m}}
  - {path: "/v1/{$}", upstream: shop, allow: [public]}
  - {host: Reports.Example, path: /, upstream: "http://127.0.0.1:9000", allow: [operator]}
`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		host, path, method string
		want               string // path and first role of the route
	}{
		{"a", "/", "GET", "/ public"},
		{"a", "/other", "PUT", "/ public"},
		{"a", "/v1", "GET", "/ public"},
		{"a", "/v1/", "GET", "/v1/{$} public"},
		{"a", "/v1/y", "GET", "/v1/ customer"},
		{"a", "/v1/x", "GET", "/v1/x public"},
		{"a", "/v1/x", "HEAD", "/v1/x public"},
		{"a", "/v1/x", "POST", "/v1/x operator"},
		{"a", "/v1/x", "DELETE", ""},
		{"a", "/v1/x/", "GET", "/v1/ customer"},
		{"a", "/V1/y", "GET", "/ public"},
		{"reports.example", "/v1/x", "GET", "/ operator"},
		{"REPORTS.example.:8080", "/v1/x", "GET", "/ operator"},
	} {
		got := ""
		if route, _ := r.match(tc.host, tc.path, tc.method); route != nil {
			got = route.Path + " " + route.Allow[0]
		}
		if got != tc.want {
			t.Errorf("%s %s%s: got %q, want %q", tc.method, tc.host, tc.path, got, tc.want)
		}
	}
	v1 := r.Routes[1]
	if v1.MaxBody != 64<<10 || time.Duration(v1.Timeout) != 2*time.Second || !v1.Stream || v1.upstream.Audience != "shop" {
		t.Errorf("route: %+v", v1)
	}
	if r.Routes[5].upstream.Audience != "127.0.0.1:9000" {
		t.Errorf("audience %q", r.Routes[5].upstream.Audience)
	}
}

func TestASiteAnswersToItsNamesAlone(t *testing.T) {
	t.Parallel()
	b := setupRoutes(t, `
hosts: [Shop.example., "127.0.0.1"]
routes:
  - {path: /, upstream: "%[1]s", allow: [public]}
  - {host: reports.example, path: /, upstream: "%[1]s", allow: [public]}
`)
	for host, status := range map[string]int{
		"shop.example": 200, "SHOP.example:8443": 200, "127.0.0.1:80": 200, "reports.example": 200,
		"evil.example": 421, "shop.example.evil.example": 421, "xshop.example": 421, "127.0.0.2": 421,
	} {
		for _, path := range []string{"/a", "/auth/login"} {
			before := b.upstream.count()
			res := b.get(path, "Host", host)
			if res.StatusCode != status || status == 421 && (!strings.Contains(res.body, `"unknown_host"`) || b.upstream.count() > before) {
				t.Errorf("%s of %s: got %d %s, want %d", path, host, res.StatusCode, res.body, status)
			}
		}
		b.get(jwksPath, "Host", host).want(t, 200, "") // upstreams may know the gate by another name
	}
}

func TestParseRoutesNamesEachFault(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, yaml, want string }{
		{"empty", "", "empty"},
		{"a host that is none", "hosts: ['a/b']\nroutes:\n- {path: /, upstream: 'http://a', allow: [public]}", "not the name of a host"},
		{"a token reused for too long", "upstreams: {a: {url: 'http://a', reuse_tokens: 60s}}\nroutes:\n- {path: /, upstream: a, allow: [public]}", "reuse_tokens"},
		{"not YAML", "routes: [", "not valid"},
		{"unknown field", "routes:\n- {path: /, upstream: 'http://a', allow: [public], allows: [x]}", "allows"},
		{"two documents", "routes:\n- {path: /, upstream: 'http://a', allow: [public]}\n---\na: b", "single"},
		{"no routes", "upstreams: {}", "at least one route"},
		{"no allow", "routes:\n- {path: /, upstream: 'http://a'}", "allow must list"},
		{"public and a role", "routes:\n- {path: /, upstream: 'http://a', allow: [public, operator]}", "name nothing else"},
		{"unknown upstream", "routes:\n- {path: /, upstream: shop, allow: [public]}", "neither listed"},
		{"upstream with a path", "routes:\n- {path: /, upstream: 'http://a/b', allow: [public]}", "scheme, host and port only"},
		{"path with dots", "routes:\n- {path: /a/../b, upstream: 'http://a', allow: [public]}", "dot segments"},
		{"path with a wildcard", "routes:\n- {path: '/a/{id}', upstream: 'http://a', allow: [public]}", "wildcards"},
		{"relative path", "routes:\n- {path: a, upstream: 'http://a', allow: [public]}", "starts with '/'"},
		{"the gate's own path", "routes:\n- {path: /auth/x, upstream: 'http://a', allow: [public]}", "belong to the gate"},
		{"twice the same", "routes:\n- {path: /, upstream: 'http://a', allow: [public]}\n- {path: /, upstream: 'http://b', allow: [operator]}", "same host and path"},
		{"twice the same method", "routes:\n- {path: /, methods: [GET], upstream: 'http://a', allow: [public]}\n- {path: /, methods: [GET], upstream: 'http://b', allow: [operator]}", "method GET"},
		{"TRACE", "routes:\n- {path: /, methods: [TRACE], upstream: 'http://a', allow: [public]}", "cannot be allowed"},
		{"negative timeout", "routes:\n- {path: /, timeout: -1s, upstream: 'http://a', allow: [public]}", "not a duration"},
		{"size without sense", "routes:\n- {path: /, max_body: lots, upstream: 'http://a', allow: [public]}", "not a size"},
		{"rate without requests", "routes:\n- {path: /, rate: {per: 1s}, upstream: 'http://a', allow: [public]}", "rate needs"},
		{"role with a space", "routes:\n- {path: /, upstream: 'http://a', allow: ['a b']}", "not a role"},
		{"all faults at once: first", "routes:\n- {path: a, upstream: 'http://a', allow: [public]}\n- {path: /, upstream: x, allow: [public]}", "route 1"},
		{"each with its route", "routes:\n- {path: /b, upstream: x, methods: [TRACE]}", "route 1 (/b): allow must list"},
		{"all faults at once: second", "routes:\n- {path: a, upstream: 'http://a', allow: [public]}\n- {path: /, upstream: x, allow: [public]}", "route 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseRoutes([]byte(tc.yaml))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want something about %q", err, tc.want)
			}
		})
	}
}

func FuzzParseRoutes(f *testing.F) {
	f.Add([]byte("routes:\n- {path: /, upstream: 'http://a', allow: [public]}"), "/a")
	f.Add([]byte("upstreams: {a: {url: http://a}}\nroutes:\n- {path: /v1/, upstream: a, allow: [x], methods: [GET]}"), "/v1/x")
	f.Fuzz(func(t *testing.T, text []byte, path string) {
		r, err := ParseRoutes(text)
		if err != nil {
			return
		}
		route, _ := r.match("h", path, "GET")
		if route == nil {
			return
		}
		if route.upstream == nil || route.upstream.target.Host == "" || len(route.Allow) == 0 {
			t.Fatalf("an unusable route was accepted: %+v", route)
		}
		if route.exact && path != route.prefix || !strings.HasPrefix(path, route.prefix) {
			t.Fatalf("%q was routed to %q", path, route.Path)
		}
	})
}
