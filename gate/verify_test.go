package gate

import (
	"net/netip"
	"testing"

	"millrace/gate/identity"
)

func TestForwardAuthAnswersForOtherProxies(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) {
		c.ForwardAuth, c.TrustedProxies = true, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	})
	ask := func(method, uri string, headers ...string) answer {
		return b.get("/auth/verify", append([]string{"X-Forwarded-Method", method, "X-Forwarded-Host", "shop.example", "X-Forwarded-Uri", uri}, headers...)...)
	}
	for _, tc := range []struct {
		name, method, uri, key string
		status                 int
		code                   string
	}{
		{"public", "GET", "/open/a", "", 200, ""},
		{"guarded, nobody", "GET", "/v1/a", "", 401, "unauthorized"},
		{"guarded, customer", "POST", "/v1/a?x=y", b.customerKey, 200, ""},
		{"operators', customer", "GET", "/admin/a", b.customerKey, 403, "forbidden"},
		{"path trick", "GET", "/open/..%2fadmin/a", b.customerKey, 400, "bad_path"},
		{"method that is not routed", "POST", "/v1/products", b.operatorKey, 405, "method_not_allowed"},
		{"no route", "GET", "/nowhere", b.operatorKey, 404, "not_found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var headers []string
			if tc.key != "" {
				headers = []string{"Authorization", bearer(tc.key)}
			}
			res := ask(tc.method, tc.uri, append(headers, "Accept", "text/html")...)
			res.want(t, tc.status, tc.code)
			if got := res.Header.Get(identity.Header) != ""; got != (tc.status == 200 && tc.key != "") {
				t.Errorf("identity given: %t", got)
			}
		})
	}
	t.Run("a cookie and a foreign origin", func(t *testing.T) {
		cookie := b.loggedIn(customerEmail, customerPassword).Jar.Cookies(nil)[0].String()
		ask("POST", "/v1/a", "Cookie", cookie, "Origin", "https://shop.example").want(t, 200, "")
		ask("POST", "/v1/a", "Cookie", cookie, "Origin", "https://evil.example").want(t, 403, "cross_site")
	})
	t.Run("without the headers", func(t *testing.T) {
		b.get("/auth/verify").want(t, 422, "invalid")
	})
	t.Run("by a name of the gate's own, for the site's names alone", func(t *testing.T) {
		named := setupRoutes(t, "hosts: [shop.example]\n"+defaultRoutes, func(c *Config) {
			c.ForwardAuth, c.TrustedProxies = true, []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
		})
		for host, want := range map[string]int{"shop.example": 200, "evil.example": 421} {
			res := named.get("/auth/verify", "Host", "gate.internal", "X-Forwarded-Method", "GET", "X-Forwarded-Host", host, "X-Forwarded-Uri", "/v1/a", "Authorization", bearer(named.customerKey))
			res.want(t, want, "")
			if given := res.Header.Get(identity.Header) != ""; given != (want == 200) || res.Header.Get("X-Request-Id") == "" {
				t.Errorf("%s: identity given: %t, request id %q", host, given, res.Header.Get("X-Request-Id"))
			}
		}
	})
	t.Run("to nobody but trusted proxies", func(t *testing.T) {
		plain := setup(t, func(c *Config) {
			c.ForwardAuth, c.TrustedProxies = true, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		})
		plain.get("/auth/verify", "X-Forwarded-Method", "GET", "X-Forwarded-Host", "x", "X-Forwarded-Uri", "/v1/a", "Authorization", bearer(plain.customerKey)).want(t, 404, "not_found")
	})
}
