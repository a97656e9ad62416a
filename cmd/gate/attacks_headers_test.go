package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// owned are headers that say who asks, from where, or for what: only the gate may say that.
var owned = []string{
	"Gate-Identity", "Gate-User", "X-Gate-Roles", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
	"X-Forwarded-Server", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Prefix", "X-Forwarded-Uri", "X-Forwarded-Client-Cert", "X-Real-IP", "X-Client-IP", "Client-IP", "X-Forwarded", "Forwarded-For",
	"X-Cluster-Client-IP", "True-Client-IP", "CF-Connecting-IP", "Remote-User", "Remote-Addr", "X-Remote-User", "X-Auth-User", "X-Auth-Request-Groups", "X-WebAuth-User",
	"X-Original-URL", "X-Original-Host", "X-Rewrite-URL", "X-Host", "X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override", "X-Request-Id", "Proxy-Authorization",
}

// spellings of a header that some server takes for the same: CGI knows neither case nor '_' from '-'.
func spellings(name string) []string {
	under := strings.ReplaceAll(name, "-", "_")
	return []string{
		name, name, strings.ToLower(name), strings.ToUpper(name), strings.ToLower(name[:1]) + name[1:], name[:len(name)-1] + strings.ToUpper(name[len(name)-1:]),
		under, strings.ToLower(under), strings.ToUpper(under), strings.Replace(name, "-", "_", 1), strings.ReplaceAll(name, "-", "."),
	}
}

func forgedHeaders(t *testing.T, s *site) {
	customer := s.key(t, s.user(t, "customer"))
	s.each(t, func(t *testing.T, p *process) {
		claims := s.reader(t)
		for _, path := range []string{"/open/", "/guarded/"} {
			from := s.address()
			for part := range slices.Chunk(owned, 12) { // all at once are more than the gate reads
				id, forged := s.id(), []string{bearer(customer)}
				for _, name := range part {
					for _, spelling := range spellings(name) {
						forged = append(forged, spelling+": spoofed")
					}
				}
				s.ask(t, p, from, request("GET", path+id, append(forged, "Authorization-Info: passes")...)).want(t, 200, "")
				seen := s.upstream.once(t, id)
				if strings.Contains(seen.head, "spoofed") {
					t.Errorf("%s: the upstream believes\n%s", path, seen.head)
				}
				if !strings.Contains(seen.head, "Authorization-Info: passes") {
					t.Errorf("%s: what is not the gate's was dropped:\n%s", path, seen.head)
				}
				if got := seen.header("x-forwarded-for"); !slices.Equal(got, []string{from}) {
					t.Errorf("%s: X-Forwarded-For %q, want %s", path, got, from)
				}
				if got := seen.header("x-forwarded-proto"); !slices.Equal(got, []string{map[bool]string{true: "https", false: "http"}[p.tls != nil]}) {
					t.Errorf("%s: X-Forwarded-Proto %q", path, got)
				}
				if c, err := claims(seen, "shop"); err != nil || !c.HasRole("customer") || c.HasRole("operator") {
					t.Errorf("%s: %+v, %v", path, c, err)
				}
			}
		}
		// The same once more with values that could be true.
		id, from := s.id(), s.address()
		s.ask(t, p, from, request("GET", "/open/"+id, "X-Forwarded-For: 203.0.113.9, 198.51.100.7", "X-Forwarded-Proto: "+map[bool]string{true: "http", false: "https"}[p.tls != nil], "X-Forwarded-Host: evil.example")).want(t, 200, "")
		if seen := s.upstream.once(t, id); strings.Contains(seen.head, "203.0.113.9") || strings.Contains(seen.head, "198.51.100.7") || strings.Contains(seen.head, "evil.example") ||
			!slices.Equal(seen.header("x-forwarded-for"), []string{from}) || slices.Equal(seen.header("x-forwarded-proto"), []string{"https"}) != (p.tls != nil) {
			t.Errorf("the upstream is told\n%s", seen.head)
		}
		id = s.id()
		s.ask(t, p, s.address(), request("GET", "/open/"+id, "Gate-Identity: spoofed", "gate_identity: spoofed")).want(t, 200, "")
		if got := s.upstream.once(t, id).header("gate-identity"); got != nil {
			t.Errorf("a nobody has the identity %q", got)
		}
		for _, bad := range []string{"Gate-Identity : mine", " Gate-Identity: mine", "\tGate-Identity: mine", "Gate-Identity\t: mine", "Gate\x00-Identity: mine", "X: y\rGate-Identity: mine", "Gate-Identity:\r\n mine"} {
			id := s.id()
			if got := s.ask(t, p, s.address(), request("GET", "/open/"+id, "A: b", bad)); got.StatusCode < 400 {
				// The continuation of a line may pass as the value that it is part of.
				if seen := s.upstream.once(t, id); seen.header("gate-identity") != nil || !strings.Contains(seen.head, "A: b") {
					t.Errorf("%q became\n%s", bad, seen.head)
				}
			}
		}
	})
}

func connectionNamesOurs(t *testing.T, s *site) {
	customer := s.key(t, s.user(t, "customer"))
	s.each(t, func(t *testing.T, p *process) {
		claims := s.reader(t)
		for _, lines := range [][]string{
			{"Connection: Gate-Identity"}, {"connection: gate-identity, x-forwarded-for, x-request-id"}, {"Connection: close, Gate-Identity, X-Forwarded-For, X-Forwarded-Proto"},
			{"Connection: keep-alive", "CONNECTION: GATE-IDENTITY", "Connection: X-Forwarded-For"}, {"Proxy-Connection: Gate-Identity"}, {"Keep-Alive: Gate-Identity"},
			{"Connection: Gate-Identity", "Gate-Identity: spoofed"}, {"Connection: Authorization"}, {"Connection: Cookie, Host, Content-Length"},
		} {
			id, from := s.id(), s.address()
			s.ask(t, p, from, request("GET", "/guarded/"+id, append(lines, bearer(customer))...)).want(t, 200, "")
			seen := s.upstream.once(t, id)
			if c, err := claims(seen, "shop"); err != nil || !c.HasRole("customer") {
				t.Errorf("%q: %+v, %v", lines, c, err)
			}
			if got := seen.header("x-forwarded-for"); !slices.Equal(got, []string{from}) {
				t.Errorf("%q: X-Forwarded-For %q, want %s", lines, got, from)
			}
			if len(seen.header("host")) != 1 || len(seen.header("x-request-id")) != 1 {
				t.Errorf("%q: the upstream saw\n%s", lines, seen.head)
			}
		}
	})
}

func forgedTrailers(t *testing.T, s *site) {
	customer := s.key(t, s.user(t, "customer"))
	s.each(t, func(t *testing.T, p *process) {
		for _, announced := range []string{"Trailer: Gate-Identity", "Trailer: gate_identity, X-Forwarded-For", "X-No: trailer", "Trailer: Content-Length", "TE: trailers"} {
			for _, path := range []string{"/open/", "/guarded/"} {
				id := s.id()
				w := s.dial(t, p, s.address())
				w.send(request("POST", path+id, announced, bearer(customer), "Transfer-Encoding: chunked") +
					"2\r\nhi\r\n0\r\nGate-Identity: spoofed\r\ngate_identity: spoofed\r\nX-Forwarded-For: spoofed\r\n\r\n")
				answer, _ := w.reply()
				w.Close()
				seen := s.upstream.seen(id)
				if answer.StatusCode == 200 && (len(seen) != 1 || seen[0].body != "hi") || len(seen) > 1 {
					t.Errorf("%s: %d, the upstream saw %+v", announced, answer.StatusCode, seen)
				}
				for _, r := range seen {
					if r.tail != "" || strings.Contains(r.head, "spoofed") || r.header("trailer") != nil {
						t.Errorf("%s: trailers %q, headers\n%s", announced, r.tail, r.head)
					}
				}
			}
		}
	})
}

func upstreamSpeaksAsGate(t *testing.T, s *site) {
	s.each(t, func(t *testing.T, p *process) {
		id := s.id()
		answer := s.ask(t, p, s.address(), request("GET", "/open/speaks/"+id))
		answer.want(t, 200, "")
		if got := answer.Header["Set-Cookie"]; !slices.Equal(got, []string{"theme=dark"}) {
			t.Errorf("cookies: %q", got)
		}
		if answer.Header["Gate-Identity"] != nil || len(answer.Header["X-Request-Id"]) != 1 || answer.Header.Get("X-Request-Id") == "planted" {
			t.Errorf("headers: %v", answer.Header)
		}
	})
}

// routeOverrides asks for an open path and, by all that some framework heeds, for an operator's.
func routeOverrides(t *testing.T, s *site) {
	s.each(t, func(t *testing.T, p *process) {
		for _, name := range []string{"X-Original-URL", "X-Rewrite-URL", "X-Original-Uri", "X-Forwarded-Uri", "X-Forwarded-Path", "X-Forwarded-Prefix", "X-Forwarded-Host", "X-HTTP-Method-Override",
			"x_original_url", "X-Method-Override", "Destination", "Location", "Content-Location", "Referer"} {
			id := s.id()
			s.ask(t, p, s.address(), request("GET", "/open/"+id, name+": /operator/smuggled")).want(t, 200, "")
			if seen := s.upstream.once(t, id); seen.line != "GET /open/"+id+" HTTP/1.1" {
				t.Errorf("%s: the upstream was asked %q", name, seen.line)
			}
			s.ask(t, p, s.address(), request("GET", "/operator/"+id, name+": /open/"+id)).want(t, 401, "unauthorized")
		}
		for _, query := range []string{"?path=/operator/elsewhere", "?/../operator/elsewhere", "?_method=DELETE", "?url=http://x/operator/", "?%2e%2e%2foperator", "?a=b;c=d", "?;/operator/", "?#", "??"} {
			id := s.id()
			answer := s.ask(t, p, s.address(), request("GET", "/open/"+id+query))
			if seen := s.upstream.seen(id); answer.StatusCode == 200 && (len(seen) != 1 || !strings.HasPrefix(seen[0].line, "GET /open/"+id)) {
				t.Errorf("%s: the upstream saw %+v", query, seen)
			}
			s.ask(t, p, s.address(), request("GET", "/operator/"+id+query)).want(t, 401, "unauthorized")
		}
		for _, method := range []string{"HEAD", "OPTIONS", "PROPFIND", "get", "GETX", "POST", "M-SEARCH"} {
			id := s.id()
			w := s.dial(t, p, s.address())
			w.send(fmt.Sprintf("%s /operator/%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", method, id, host))
			if text := w.rest(); !strings.HasPrefix(text, "HTTP/1.1 401 ") {
				t.Errorf("%s: %.100q", method, text)
			}
			if seen := s.upstream.seen(id); seen != nil {
				t.Errorf("%s reached the upstream: %+v", method, seen)
			}
		}
	})
}
