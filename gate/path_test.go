package gate

import (
	"net/http"
	"net/url"
	"path"
	"strings"
	"testing"
)

func TestCanonicalPath(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ in, want string }{
		{"/", "/"},
		{"/a/b", "/a/b"},
		{"/a/", "/a/"},
		{"/a?x=/../", "/a"},
		{"/%61/b", "/a/b"},
		{"/caf%C3%A9", "/café"},
		{"/100%25", "/100%"},
		{"/a%2525b", "/a%25b"},
		{"/a%20b", "/a b"},
		{"/a.b/..c/c..", "/a.b/..c/c.."},
		{"/.well-known/x", "/.well-known/x"},
		{"/a,b:c@d!$&'()*+=~", "/a,b:c@d!$&'()*+=~"},
	} {
		got, err := canonicalPath(tc.in)
		if err != nil || got != tc.want {
			t.Errorf("%q: got %q, %v; want %q", tc.in, got, err, tc.want)
		}
	}
}

// badPaths are tricks to make a server behind the gate see another path than the gate.
var badPaths = []string{
	"", "a", "*", "http://evil.example/v1/", "//evil.example/", "/a//b", "//", "/open//v1/x",
	"/..", "/open/../v1/x", "/open/./x", "/open/.", "/open/%2e%2e/v1/x", "/open/%2E./v1/x", "/open/.%2e/v1/x", "/open/%252e%252e/v1/x",
	"/open/%25252e%25252e/v1/x", "/open/.../v1/x", "/open/..%20/v1/x", "/open/..%00/v1/x", "/open/%2e%2e%2fv1%2fx", "/open/..%2fv1/x", "/open/..%252fv1/x",
	"/open/..%5cv1%5cx", `/open/..\v1\x`, `/open\..\v1`, "/open/%5c../x", "/open/%255c/x", "/open%2fx", "/open%2Fx", "/open%252fx", "/open%25252fx",
	"/open/..;/v1/x", "/open;a=b/x", "/open/%3b/x", "/open/%253b/x", "/open/..%3b/v1/x",
	"/open/%00", "/open/%2500", "/open/%0d%0ax", "/open/%250d%250a", "/open/%7f", "/open/\x01", "/open/%C2%85",
	"/open/%c0%ae%c0%ae/v1/x", "/open/%e0%80%ae/x", "/open/%ff", "/open/%", "/open/%2", "/open/%zz", "/open/%u002e%u002e/", "/open#/v1",
	"/%" + strings.Repeat("25", 9) + "2e%2e/v1/x", "/" + strings.Repeat("a", maxPath),
}

func TestPathsThatDecodeToAnotherPathAreRefused(t *testing.T) {
	t.Parallel()
	for _, p := range badPaths {
		if got, err := canonicalPath(p); err == nil {
			t.Errorf("%q was taken for %q", p, got)
		}
	}
}

func FuzzCanonicalPath(f *testing.F) {
	for _, p := range badPaths {
		f.Add(p)
	}
	f.Add("/a/%2561/b?c")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := canonicalPath(in)
		if err != nil {
			return
		}
		// Whoever cleans, or decodes again and then cleans, must stay at or below what the gate routed on.
		layer := got
		for range 10 {
			if cleaned := path.Clean(layer); cleaned != strings.TrimSuffix(layer, "/") && layer != "/" {
				t.Fatalf("%q became %q, whose layer %q cleans to %q", in, got, layer, cleaned)
			}
			if strings.Count(layer, "/") != strings.Count(got, "/") || strings.ContainsAny(layer, "\\;\x00\r\n") {
				t.Fatalf("%q became %q with the dangerous layer %q", in, got, layer)
			}
			layer = unwrap(layer)
		}
		// What is sent upstream means the same path.
		again, err := canonicalPath((&url.URL{Path: got}).EscapedPath())
		if err != nil || again != got {
			t.Fatalf("%q became %q, which is sent as %q (%v)", in, got, again, err)
		}
	})
}

func TestLocalTargetNeverLeavesTheSite(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ in, want string }{
		{"/", "/"}, {"/orders/1?a=b&c=%20d", "/orders/1?a=b&c=%20d"}, {"/caf%C3%A9", "/caf%C3%A9"},
		{"", "/x"}, {"//evil.example", "/x"}, {`/\evil.example`, "/x"}, {"/%5cevil.example", "/x"}, {"/%2fevil.example", "/x"}, {"///evil.example", "/x"},
		{"https://evil.example", "/x"}, {"javascript:alert(1)", "/x"}, {"/a%0d%0aSet-Cookie:x=y", "/x"}, {"/a\r\nX: y", "/x"}, {"/a?b\r\nX: y", "/x"},
		{"/\t/evil.example", "/x"}, {"/%09/evil.example", "/x"}, {"@evil.example", "/x"}, {".evil.example", "/x"}, {"/a#b", "/x"}, {"/.//evil.example", "/x"},
		{"/@evil.example", "/@evil.example"}, {"user:pw@evil.example/", "/x"}, {"https:/evil.example", "/x"},
	} {
		if got := localTarget(tc.in, "/x"); got != tc.want {
			t.Errorf("%q: got %q, want %q", tc.in, got, tc.want)
		}
	}
}

func FuzzLocalTarget(f *testing.F) {
	for _, s := range []string{"//evil", `/\evil`, "/a?b=c", "/%0d%0a", "https://u@h"} {
		f.Add(s)
	}
	base, _ := url.Parse("https://shop.example/auth/login")
	f.Fuzz(func(t *testing.T, in string) {
		got := localTarget(in, "/")
		u, err := base.Parse(got)
		if err != nil || u.Host != base.Host || u.Scheme != base.Scheme || u.User != nil || strings.ContainsAny(got, "\r\n\t\\") {
			t.Fatalf("%q leads to %q (%v, %v)", in, got, u, err)
		}
	})
}

func TestPathTricksNeverReachTheUpstream(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, p := range badPaths {
		if p == "" || strings.ContainsAny(p, "\x01 ") || len(p) > 3000 {
			continue // not a request line; the server refuses it before the gate sees it
		}
		before := b.upstream.count()
		status, rest := b.raw("GET " + p + " HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(status, "HTTP/1.1 400") {
			t.Errorf("%q: %s %s", p, status, rest)
		}
		if b.upstream.count() != before {
			t.Errorf("%q reached the upstream as %s", p, b.upstream.last(t).RequestURI)
		}
	}
	b.get("/v1/%6frders/%2525", "Authorization", bearer(b.customerKey)).want(t, http.StatusOK, "")
	if got := b.upstream.last(t).RequestURI; got != "/v1/orders/%2525" {
		t.Errorf("the canonical path goes on, but the upstream saw %q", got)
	}
}
