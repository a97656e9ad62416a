package main

import (
	"fmt"
	"strings"
	"testing"
)

// encode percent-encodes a text so many times over.
func encode(text string, layers int) string {
	for range layers {
		var b strings.Builder
		for _, c := range []byte(text) {
			fmt.Fprintf(&b, "%%%02x", c)
		}
		text = b.String()
	}
	return text
}

// escapes are targets that lead, or may lead some server, from an open path to an operator's. ID stands for what finds it again.
func escapes() []string {
	var out []string
	for _, open := range []string{"/open/", "/guarded/"} {
		for _, up := range []string{"..", ".", "...", "..;", ".. ", "..\x00", "..%00", "..%20", "..%09", "..%0a", "..%0d", "..%ff", "..%u2215", "%2e.", ".%2E", "..;a=b", "..%3b", "..%253b"} {
			out = append(out, open+up+"/operator/ID")
		}
		for layers := 1; layers <= 3; layers++ {
			dots, slash, back := encode("..", layers), encode("/", layers), encode(`\`, layers)
			out = append(out,
				open+dots+"/operator/ID", open+dots+slash+"operator/ID", open+".."+slash+"operator/ID", open+"ID"+slash+"x", strings.TrimSuffix(open, "/")+slash+dots+slash+"operator/ID",
				open+".."+back+"operator"+back+"ID", open+dots+back+"operator/ID", open+back+"ID", open+encode(";", layers)+"ID", open+"ID"+encode("\x00", layers), open+"ID"+encode("\r\nX: y", layers),
				open+encode(".", layers)+"/ID", open+"x"+encode("/../", layers)+"ID", open+encode(".", layers)+"./operator/ID", encode("/", layers)+"operator/ID",
			)
		}
		out = append(out,
			// raw bytes
			open+`..\operator\ID`, open+`\ID`, `\operator\ID`, open+"ID\x00", open+"ID\x7f", open+"ID\x1b[31m", open+";/ID", open+"ID;jsessionid=1", open+";../operator/ID",
			// empty segments
			"/"+open+"ID", open+"/ID", open+"x//ID", "//operator/ID", "///operator/ID", "/./operator/ID", open+"./ID", "/.//operator/ID", open+"x/..//../operator/ID",
			// bytes that are no UTF-8: overlong dots, slashes and NULs, raw and encoded
			open+"%c0%ae%c0%ae/operator/ID", open+"%e0%80%ae%e0%80%ae/operator/ID", open+"%f0%80%80%ae./operator/ID", open+"..%c0%afoperator/ID", open+"..%e0%80%afoperator/ID", open+"..%c1%9coperator/ID",
			open+"%25c0%25ae%25c0%25ae/operator/ID", open+"\xc0\xae\xc0\xae/operator/ID", open+"..\xc0\xafoperator/ID", open+"ID%c0%80", open+"ID%80", open+"ID\xff",
			// broken encodings
			open+"%", open+"ID%2", open+"ID%zz", open+"%%32%65%%32%65/operator/ID", open+"%u002e%u002e/operator/ID", open+"ID%0", open+"%2%65%2%65/operator/ID",
			// query and fragment
			open+"..?/ID", open+"%3f/../../operator/ID", open+"x%3f/../ID", open+"ID#/../operator", open+"..%23/operator/ID", open+"..%3f/operator/ID", open+"#/../../operator/ID", open+".%3b./operator/ID",
		)
	}
	return append(out,
		// other forms of a target
		"http://"+host+"/operator/ID", "http://"+host+"/open/ID", "http://evil.example/operator/ID", "HTTP://"+host+"/operator/ID", "http:/operator/ID", "http:operator/ID", "https://"+host+":443/guarded/ID",
		"http:///operator/ID", "http://"+host+"@evil.example/ID", host+":80/ID", host+"/operator/ID", "operator/ID", "open/../operator/ID", "*", "*/operator/ID", "@"+host+"/ID", ".", "..", "?ID", "#ID", "/open/"+strings.Repeat("x/../", 50)+"ID",
		"/open/"+strings.Repeat("a", 5000)+"ID", "/open/%"+strings.Repeat("25", 9)+"2e%2e/operator/ID", "/open/%"+strings.Repeat("25", 200)+"2fID",
	)
}

func pathTricks(t *testing.T, s *site) {
	customer := s.key(t, s.user(t, "customer"))
	s.each(t, func(t *testing.T, p *process) {
		from := s.address()
		for _, target := range escapes() {
			for _, credential := range []string{"X-None: x", bearer(customer)} {
				id := s.id()
				target := strings.ReplaceAll(target, "ID", id)
				answer := s.ask(t, p, from, request("GET", target, credential))
				if answer.StatusCode != 400 {
					t.Errorf("%q: %d %.200s", target, answer.StatusCode, answer.text)
				}
				if seen := s.upstream.seen(id); seen != nil {
					t.Errorf("%q reached the upstream as %q", target, seen[0].line)
				}
			}
		}
		// Forms of a target that only other methods have.
		for _, line := range []string{
			"CONNECT " + host + ":443", "CONNECT /operator/smuggled", "CONNECT http://" + host + "/operator/smuggled", "CONNECT 127.0.0.1:5432", "TRACE /open/smuggled",
			"GET " + host + ":443", "OPTIONS http://" + host + "/operator/smuggled", "PRI *",
		} {
			if answer := s.ask(t, p, from, line+" HTTP/1.1\r\nHost: "+host+"\r\n\r\n"); answer.StatusCode < 400 {
				t.Errorf("%s: %d %s", line, answer.StatusCode, answer.text)
			}
		}
		for _, h := range []string{"", host + "/operator", host + "@evil.example", host + "\\x", "a b", host + "#", host + "?", strings.Repeat("a", 300), "a\x00b", host + "\r\nHost: other.example"} {
			id := s.id()
			answer := s.ask(t, p, from, "GET /open/"+id+" HTTP/1.1\r\nHost: "+h+"\r\n\r\n")
			if answer.StatusCode != 400 || s.upstream.seen(id) != nil {
				t.Errorf("Host %.40q: %d, the upstream saw %v", h, answer.StatusCode, s.upstream.seen(id))
			}
		}
		// The paths that look like an operator's lead nowhere else.
		for _, target := range []string{"/operator", "/Operator/ID", "/OPERATOR/ID", "/operatorID", "/open", "/openID", "/guarded", "/", "/auth", "/auth/ID", "/.well-known/ID", "/stream"} {
			id := s.id()
			answer := s.ask(t, p, from, request("GET", strings.ReplaceAll(target, "ID", id), bearer(customer)))
			if answer.StatusCode < 400 || s.upstream.seen(id) != nil {
				t.Errorf("%s: %d", target, answer.StatusCode)
			}
		}
	})
}

// oddPathsPass keeps pathTricks honest: what leads nowhere else does pass, in one form whatever was sent.
func oddPathsPass(t *testing.T, s *site) {
	s.each(t, func(t *testing.T, p *process) {
		for target, want := range map[string]string{
			"/open/ID": "/open/ID", "/%6fpen/ID": "/open/ID", "/open/ID/": "/open/ID/", "/open/ID%20b": "/open/ID%20b", "/open/ID..b": "/open/ID..b", "/open/.ID": "/open/.ID", "/open/ID.": "/open/ID.",
			"/open/ID%3fa=b": "/open/ID%3Fa=b", "/open/ID%23a": "/open/ID%23a", "/open/ID%25": "/open/ID%25", "/open/ID%2525": "/open/ID%2525", "/open/ID\u00e9": "/open/ID%C3%A9",
			"/open/ID?a=/../b&c=%2e%2e": "/open/ID?a=/../b&c=%2e%2e", "/open/ID?": "/open/ID?", "/open/ID/auth/login": "/open/ID/auth/login", "/open/ID:80@x": "/open/ID:80@x",
		} {
			id := s.id()
			target, want := strings.ReplaceAll(target, "ID", id), strings.ReplaceAll(want, "ID", id)
			if answer := s.ask(t, p, s.address(), request("GET", target)); answer.StatusCode != 200 {
				t.Errorf("%s: %d %s", target, answer.StatusCode, answer.text)
				continue
			}
			if seen := s.upstream.once(t, id); seen.line != "GET "+want+" HTTP/1.1" && seen.line != "GET "+strings.TrimSuffix(want, "?")+" HTTP/1.1" {
				t.Errorf("%s: the upstream was asked %q, want %s", target, seen.line, want)
			}
		}
	})
}
