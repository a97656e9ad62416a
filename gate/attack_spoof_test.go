package gate

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"millrace/gate/identity"
)

// spellings of a header that some server takes for the same.
func spellings(name string) []string {
	return []string{
		name, strings.ToLower(name), strings.ToUpper(name), strings.ReplaceAll(name, "-", "_"), strings.ToLower(strings.ReplaceAll(name, "-", "_")),
		strings.ReplaceAll(name, "-", "."), strings.Replace(name, "-", "_", 1), strings.ReplaceAll(name, "-", "~"),
	}
}

func TestAttackHeaderSpoofingInAllSpellings(t *testing.T) {
	t.Parallel()
	b := setup(t)
	names := []string{
		"Gate-Identity", "Gate-Anything", "X-Gate-User", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-User", "X-Forwarded-Prefix", "X-Real-Ip",
		"X-Request-Id", "Remote-User", "X-Remote-User", "X-Auth-Request-Email", "X-Original-Url", "X-Rewrite-Url", "X-Http-Method-Override", "True-Client-Ip", "Proxy-Authorization",
	}
	for _, path := range []string{"/open/a", "/v1/a"} {
		var spoofed strings.Builder
		for _, name := range names {
			for _, s := range spellings(name) {
				fmt.Fprintf(&spoofed, "%s: spoofed\r\n", s)
			}
		}
		spoofed.WriteString("Forwarded: for=spoofed\r\nforwarded: for=spoofed\r\nFORWARDED: for=spoofed\r\n")
		status, rest := b.raw("GET " + path + " HTTP/1.1\r\nHost: " + b.addr + "\r\nConnection: close\r\nAuthorization: Bearer " + b.customerKey + "\r\n" + spoofed.String() + "\r\n")
		if status != "HTTP/1.1 200 OK" {
			t.Fatalf("%s %s", status, rest)
		}
		for name, values := range b.upstream.last(t).Header {
			if strings.Contains(strings.Join(values, " "), "spoofed") {
				t.Errorf("%s: %v reached the upstream", name, values)
			}
		}
		if c := b.claims("shop"); c.Email != customerEmail {
			t.Errorf("claims %+v", c)
		}
		if got := b.upstream.last(t).Header["X-Forwarded-For"]; !slices.Equal(got, []string{"127.0.0.1"}) {
			t.Errorf("X-Forwarded-For %v", got)
		}
	}
}

func TestAttackConnectionHeaderNamesOurs(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, value := range []string{"Gate-Identity", "close, Gate-Identity, X-Forwarded-For", "gate-identity"} {
		status, rest := b.raw("GET /v1/a HTTP/1.1\r\nHost: " + b.addr + "\r\nConnection: " + value + "\r\nConnection: close\r\nAuthorization: Bearer " + b.customerKey + "\r\n\r\n")
		if status != "HTTP/1.1 200 OK" {
			t.Fatalf("%s %s", status, rest)
		}
		if c := b.claims("shop"); c.Email != customerEmail {
			t.Errorf("claims %+v", c)
		}
		if got := b.upstream.last(t).Header.Get("X-Forwarded-For"); got != "127.0.0.1" {
			t.Errorf("X-Forwarded-For %q", got)
		}
	}
}

func TestAttackTrailersCarryAnIdentity(t *testing.T) {
	t.Parallel()
	b := setup(t)
	status, rest := b.raw("POST /open/a HTTP/1.1\r\nHost: " + b.addr + "\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: Gate-Identity\r\n\r\n" +
		"2\r\nhi\r\n0\r\nGate-Identity: spoofed\r\n\r\n")
	if status != "HTTP/1.1 200 OK" {
		t.Fatalf("%s %s", status, rest)
	}
	seen := b.upstream.last(t)
	if len(seen.Trailer) > 0 || seen.Header.Get(identity.Header) != "" {
		t.Errorf("trailer %v, header %v", seen.Trailer, seen.Header)
	}
}

func TestAttackForgedForwardingIsBelievedFromTrustedProxiesAlone(t *testing.T) {
	t.Parallel()
	forged := []string{"X-Forwarded-For", "203.0.113.9, 198.51.100.7, 127.0.0.1", "X-Forwarded-Proto", "https"}
	b := setup(t)
	b.get("/open/a", forged...).want(t, 200, "")
	if h := b.upstream.last(t).Header; h.Get("X-Forwarded-For") != "127.0.0.1" || h.Get("X-Forwarded-Proto") != "http" {
		t.Errorf("believed: %v", h)
	}
	trusting := setup(t, func(c *Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	trusting.get("/open/a", forged...).want(t, 200, "")
	// The last address that no trusted proxy stands behind; what the client wrote before it is not believed.
	if h := trusting.upstream.last(t).Header; h.Get("X-Forwarded-For") != "198.51.100.7" || h.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("not believed: %v", h)
	}
	trusting.get("/open/a", "X-Forwarded-For", "junk, 198.51.100.7").want(t, 200, "")
	if h := trusting.upstream.last(t).Header; h.Get("X-Forwarded-For") != "198.51.100.7" {
		t.Errorf("%v", h)
	}
}

func TestAttackUpgradeToHTTP2PastTheGate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.raw("GET /v1/a HTTP/1.1\r\nHost: " + b.addr + "\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nAuthorization: Bearer " + b.customerKey + "\r\n\r\n")
	if h := b.upstream.last(t).Header; h.Get("Upgrade") != "" || h.Get("Http2-Settings") != "" || strings.Contains(strings.ToLower(h.Get("Connection")), "upgrade") {
		t.Errorf("the upgrade reached the upstream: %v", h)
	}
}

func TestAttackLogInjection(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.login(b.client(), "a@example.com\n{\"level\":\"INFO\",\"msg\":\"forged\"}", "x\ny")
	b.get("/v1/a\u2028b", "User-Agent", "x\tforged", "Authorization", "Bearer forged").want(t, 401, "")
	b.raw("GET /v1/%0aforged HTTP/1.1\r\nHost: forged\r\nConnection: close\r\nX-Request-Id: forged\r\n\r\n")
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.logs.String()) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("not one entry: %q", line)
		}
		if strings.Contains(line, "forged") {
			t.Errorf("a client wrote into the log: %q", line)
		}
	}
}

func TestAttackHostHeader(t *testing.T) {
	t.Parallel()
	b := setupRoutes(t, `
routes:
  - {host: shop.example, path: /, upstream: "%[1]s", allow: [public]}
  - {host: admin.example, path: /, upstream: "%[1]s", allow: [operator]}
`)
	for host, status := range map[string]string{
		"shop.example": "200", "SHOP.example:80": "200", "shop.example.": "200", "admin.example": "401", "ADMIN.EXAMPLE": "401", "admin.example.": "401", "admin.example:8080": "401",
		"evil.example": "404", "shop.example@admin.example": "400", "shop.example/../": "400", "": "400", "a b": "400", strings.Repeat("a", 300): "400",
	} {
		line, rest := b.raw("GET /x HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
		if !strings.Contains(line, status) {
			t.Errorf("host %q: %s %s, want %s", host, line, rest, status)
		}
	}
	if line, _ := b.raw("GET /x HTTP/1.1\r\nHost: shop.example\r\nHost: admin.example\r\nConnection: close\r\n\r\n"); !strings.Contains(line, "400") {
		t.Errorf("two hosts: %s", line)
	}
	if line, _ := b.raw("GET http://admin.example/x HTTP/1.1\r\nHost: shop.example\r\nConnection: close\r\n\r\n"); !strings.Contains(line, "400") {
		t.Errorf("absolute target: %s", line)
	}
	b.get("/x", "Host", "shop.example", "X-Forwarded-Host", "admin.example", "X-Original-URL", "/y").want(t, 200, "")
	if seen := b.upstream.last(t); seen.Host != "shop.example" || seen.Header.Get("X-Forwarded-Host") != "shop.example" || seen.RequestURI != "/x" {
		t.Errorf("%s %v %s", seen.Host, seen.Header, seen.RequestURI)
	}
}

func TestAttackIdentityForAnotherUpstream(t *testing.T) {
	t.Parallel()
	b := setupRoutes(t, `
upstreams:
  shop: {url: "%[1]s"}
  reports: {url: "%[1]s"}
routes:
  - {path: /shop/, upstream: shop, allow: [customer]}
  - {path: /reports/, upstream: reports, allow: [customer]}
`)
	b.get("/reports/x", "Authorization", bearer(b.customerKey)).want(t, 200, "")
	b.claims("reports")
	v, err := identity.NewVerifier(identity.Config{JWKSURL: b.url + jwksPath, Audience: "shop", HTTPClient: b.client()})
	if err != nil {
		t.Fatal(err)
	}
	token := b.upstream.last(t).Header.Get(identity.Header)
	if _, err := v.Verify(t.Context(), token); err == nil {
		t.Error("shop accepts an identity that was made out to reports")
	}
	// Nor does the gate take its own identities for credentials.
	b.get("/shop/x", "Authorization", "Bearer "+token).want(t, 401, "bad_credential")
	b.get("/shop/x", identity.Header, token).want(t, 401, "unauthorized")
}
