package main

import (
	"fmt"
	"strings"
	"testing"
)

// smuggled is the request that rides in another's body; it must never be seen as one.
const smuggled = "GET /operator/smuggled HTTP/1.1\r\nHost: x\r\nX-A: b\r\n\r\n"

// framings are requests that two servers may cut in two ways. ID stands for the path.
func framings() map[string]string {
	post := func(headers, body string) string {
		return "POST /open/quick/ID HTTP/1.1\r\nHost: " + host + "\r\n" + headers + "\r\n" + body
	}
	n := len(smuggled)
	chunk := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n, smuggled)
	length := fmt.Sprintf("Content-Length: %d\r\n", n)
	out := map[string]string{
		"CL and TE, CL covers it":               post(fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n", 5+n), "0\r\n\r\n"+smuggled),
		"TE and CL, CL is short":                post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", chunk),
		"TE and CL of 0":                        post("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", chunk),
		"two lengths, short first":              post("Content-Length: 0\r\n"+length, smuggled),
		"two lengths, long first":               post(length+"Content-Length: 0\r\n", smuggled),
		"two lengths in one line":               post(fmt.Sprintf("Content-Length: 0, %d\r\n", n), smuggled),
		"the same length twice in one line":     post(fmt.Sprintf("Content-Length: %d, %d\r\n", n, n), smuggled),
		"the same length twice":                 post(length+length, smuggled),
		"length and content_length":             post(length+"Content_Length: 0\r\n", smuggled),
		"obs-fold hides a length":               post("X-A: b\r\n Content-Length: 0\r\n", smuggled),
		"obs-fold, tab":                         post("X-A: b\r\n\tTransfer-Encoding: chunked\r\n"+length, smuggled),
		"obs-fold after the request line":       "POST /open/quick/ID HTTP/1.1\r\n Host: x\r\nHost: x\r\n\r\n" + smuggled,
		"folded length":                         post("Content-Length:\r\n 0\r\n", smuggled),
		"folded encoding":                       post("Transfer-Encoding:\r\n chunked\r\n", chunk),
		"folded encoding and a length":          post("Transfer-Encoding: identity,\r\n chunked\r\n"+length, smuggled),
		"two encodings":                         post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunk),
		"two encodings, identity first":         post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"+length, chunk),
		"chunked twice":                         post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", chunk),
		"Transfer_Encoding":                     post("Transfer_Encoding: chunked\r\nContent-Length: 4\r\n", chunk),
		"Transfer.Encoding":                     post("Transfer.Encoding: chunked\r\nContent-Length: 4\r\n", chunk),
		"bare LF ends lines":                    "POST /open/quick/ID HTTP/1.1\nHost: x\nContent-Length: 0\n\n" + smuggled,
		"bare LF ends one line":                 post("X-A: b\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n", chunk),
		"bare LF ends the header":               "POST /open/quick/ID HTTP/1.1\r\nHost: x\r\nX-A: b\n\n" + smuggled,
		"bare CR in a header":                   post("X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n", smuggled),
		"CR CR LF":                              post("Transfer-Encoding: chunked\r\r\n"+length, smuggled),
		"CR before the colon":                   post("Transfer-Encoding\r: chunked\r\n"+length, smuggled),
		"NUL in a value":                        post("X-A: b\x00c\r\nContent-Length: 0\r\n", smuggled),
		"NUL in a name":                         post("Transfer-Encoding\x00: chunked\r\n"+length, smuggled),
		"a line without a colon":                post("Transfer-Encoding chunked\r\nContent-Length: 0\r\n", smuggled),
		"an empty name":                         post(": chunked\r\nContent-Length: 0\r\n", smuggled),
		"a space before the first header":       "POST /open/quick/ID HTTP/1.1\r\n Transfer-Encoding: chunked\r\nHost: x\r\n" + length + "\r\n" + smuggled,
		"chunk size overflows":                  post("Transfer-Encoding: chunked\r\n", "ffffffffffffffff1\r\n"+smuggled),
		"chunk size overflows to 0":             post("Transfer-Encoding: chunked\r\n", "10000000000000000\r\n"+smuggled+"0\r\n\r\n"),
		"chunk size in 0x":                      post("Transfer-Encoding: chunked\r\n", fmt.Sprintf("0x%x\r\n%s\r\n0\r\n\r\n", n, smuggled)),
		"chunk size with a plus":                post("Transfer-Encoding: chunked\r\n", "+"+chunk),
		"chunk size with a minus":               post("Transfer-Encoding: chunked\r\n", "-1\r\n"+smuggled),
		"chunk size with an underscore":         post("Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x_\r\n%s\r\n0\r\n\r\n", n, smuggled)),
		"chunk size with a space":               post("Transfer-Encoding: chunked\r\n", " "+chunk),
		"chunk size is empty":                   post("Transfer-Encoding: chunked\r\n", "\r\n"+chunk),
		"chunk size is no number":               post("Transfer-Encoding: chunked\r\n", "zz\r\n"+smuggled),
		"chunk size with a NUL":                 post("Transfer-Encoding: chunked\r\n", "0\x00\r\n\r\n"+smuggled),
		"chunk ends by LF":                      post("Transfer-Encoding: chunked\r\n", "2\nhi\n0\n\n"+smuggled),
		"chunk ends by CR":                      post("Transfer-Encoding: chunked\r\n", "2\rhi\r0\r\r"+smuggled),
		"chunk is longer than it says":          post("Transfer-Encoding: chunked\r\n", "2\r\nhi!\r\n0\r\n\r\n"+smuggled),
		"chunk data without its end":            post("Transfer-Encoding: chunked\r\n", "2\r\nhi0\r\n\r\n"+smuggled),
		"chunk extension":                       post("Transfer-Encoding: chunked\r\n", "2;a=b\r\nhi\r\n0;"+strings.Repeat("x", 200)+"\r\n\r\n"+smuggled),
		"chunk extension with a bare LF":        post("Transfer-Encoding: chunked\r\n", "2;a\nhi\r\n0\r\n\r\n"+smuggled),
		"chunk extension with a bare CR":        post("Transfer-Encoding: chunked\r\n", "2;a\rb\r\nhi\r\n0\r\n\r\n"+smuggled),
		"chunk extension in quotes":             post("Transfer-Encoding: chunked\r\n", "2;a=\"\r\nhi\r\n0\r\n\r\n"+smuggled+"\"\r\n"),
		"chunk extensions without end":          post("Transfer-Encoding: chunked\r\n", "2;"+strings.Repeat("x", 20_000)+"\r\nhi\r\n0\r\n\r\n"+smuggled),
		"a trailer is a request":                post("Transfer-Encoding: chunked\r\n", "0\r\n"+smuggled),
		"a trailer names a length":              post("Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n", "2\r\nhi\r\n0\r\nContent-Length: 50\r\n\r\n"+smuggled),
		"a trailer with a bare LF":              post("Transfer-Encoding: chunked\r\n", "0\r\nX-A: b\n\n"+smuggled),
		"a GET with a body":                     "GET /open/quick/ID HTTP/1.1\r\nHost: x\r\n" + length + "\r\n" + smuggled,
		"a HEAD with a body":                    "HEAD /open/quick/ID HTTP/1.1\r\nHost: x\r\n" + length + "\r\n" + smuggled,
		"a GET with a body in chunks":           "GET /open/quick/ID HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk,
		"HTTP/1.0 with an encoding":             "POST /open/quick/ID HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk,
		"HTTP/1.0 with both":                    "POST /open/quick/ID HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n" + smuggled,
		"HTTP/0.9":                              "GET /open/quick/ID\r\n" + smuggled,
		"HTTP/1.9":                              "GET /open/quick/ID HTTP/1.9\r\nHost: x\r\n\r\n" + smuggled,
		"HTTP/2.0 without a preface":            "GET /open/quick/ID HTTP/2.0\r\nHost: x\r\n\r\n" + smuggled,
		"HTTP/1.1 with a zero":                  "GET /open/quick/ID HTTP/01.1\r\nHost: x\r\n\r\n" + smuggled,
		"http in small letters":                 "GET /open/quick/ID http/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"a space in the target":                 "GET /open/quick/ID HTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"a tab in the request line":             "GET\t/open/quick/ID\tHTTP/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"a method with a space":                 "GET /operator/smuggled HTTP/1.1\r\nX: POST /open/quick/ID HTTP/1.1\r\nHost: x\r\n\r\n",
		"a line break in the target":            "GET /open/quick/ID%20HTTP/1.1%0d%0aHost:%20x%0d%0a%0d%0aGET%20/operator/smuggled HTTP/1.1\r\nHost: x\r\n\r\n",
		"a line break in the query":             "GET /open/quick/ID?a=%20HTTP/1.1%0d%0aHost:%20x%0d%0a%0d%0aGET%20/x HTTP/1.1\r\nHost: x\r\n\r\n",
		"an empty line before the request":      "\r\n\r\nGET /open/quick/ID HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"pipelined in plain sight":              "GET /open/quick/ID HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled,
		"pipelined behind a refusal":            "POST /operator/x HTTP/1.1\r\nHost: x\r\n" + length + "\r\n" + smuggled + "GET /open/quick/ID HTTP/1.1\r\nHost: x\r\n\r\n",
		"Expect, then the body":                 post("Expect: 100-continue\r\nContent-Length: 0\r\n", smuggled),
		"Expect of something else":              post("Expect: 100-continue, x\r\n"+length, smuggled),
		"Upgrade to h2c and a request after it": "GET /open/quick/ID HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + smuggled,
	}
	for _, l := range []string{"+0", "-1", "-0", "0x0", "0 0", "0,", ",0", "\"0\"", "0\t0", "0;", "1e1", "0.0", "٠", "", " ", "9223372036854775808", "18446744073709551616", "4294967296", "00000000000000000000000000000000000000", "\x0b0", "0\x0c"} {
		out[fmt.Sprintf("length of %q", l)] = post("Content-Length: "+l+"\r\n", smuggled)
	}
	out["length with a space before the colon"] = post(fmt.Sprintf("Content-Length : %d\r\n", n), smuggled)
	out["length with a tab before the colon"] = post(fmt.Sprintf("Content-Length\t: %d\r\n", n), smuggled)
	for _, encoding := range []string{
		"Transfer-Encoding : chunked", "Transfer-Encoding\t: chunked", " Transfer-Encoding: chunked", "Transfer-Encoding:chunked", "Transfer-Encoding:\tchunked", "Transfer-Encoding:  chunked ", "Transfer-Encoding: \x0bchunked",
		"Transfer-Encoding: chunked\x00", "Transfer-Encoding: \x00chunked", "Transfer-Encoding: xchunked", "Transfer-Encoding: chunkedx", "Transfer-Encoding: CHUNKED", "Transfer-Encoding: chunKed", "Transfer-Encoding: chunked, identity",
		"Transfer-Encoding: identity, chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: chunked,", "Transfer-Encoding: ,chunked", "Transfer-Encoding: \"chunked\"", "Transfer-Encoding: 'chunked'",
		"Transfer-Encoding: chunked;q=1", "Transfer-Encoding: identity", "Transfer-Encoding: cow", "Transfer-Encoding: ", "Transfer-Encoding: chun\u212Aed", "Transfer-Encoding: \u00a0chunked", "transfer-encoding: chunked", "TRANSFER-ENCODING: chunked",
		"X: y\rTransfer-Encoding: chunked", "Transfer-Encoding=chunked", "Transfer-Encoding; chunked",
	} {
		out[fmt.Sprintf("%q alone", encoding)] = post(encoding+"\r\n", chunk)
		out[fmt.Sprintf("%q with a length", encoding)] = post(encoding+"\r\nContent-Length: 4\r\n", chunk)
	}
	return out
}

// smuggling sends each framing and then, on other connections, requests whose answers must be their own.
func smuggling(t *testing.T, s *site) {
	s.each(t, func(t *testing.T, p *process) {
		t.Run("tricks", func(t *testing.T) {
			all := atOnce{T: t}
			defer all.Wait()
			for name, text := range framings() {
				all.run(name, func(t *testing.T) {
					id := s.id()
					w := s.dial(t, p, s.address())
					w.send(strings.Replace(text, "ID", id, 1))
					got := w.rest()
					seen := s.upstream.seen(id)
					if len(seen) > 1 {
						t.Errorf("one request became %d: %+v", len(seen), seen)
					}
					if strings.Contains(got, "saw GET /operator/") {
						t.Errorf("the answer to what was smuggled: %q", got)
					}
					if len(seen) == 1 && strings.Contains(seen[0].head, smuggled[:20]) {
						t.Errorf("what was smuggled stands in the header: %q", seen[0].head)
					}
				})
			}
		})
		customer := s.key(t, s.user(t, "customer"))
		for range 100 {
			id := s.id()
			if answer := s.ask(t, p, s.address(), request("GET", "/guarded/"+id, bearer(customer))); answer.text != "upstream saw GET /guarded/"+id+" HTTP/1.1" {
				t.Fatalf("a customer got the answer %d %q to %s", answer.StatusCode, answer.text, id)
			}
		}
		for _, framing := range []string{"Content-Length: 2\r\n\r\nhi", "Transfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1;x=y\r\ni\r\n0\r\n\r\n"} {
			id := s.id()
			s.ask(t, p, s.address(), "POST /open/"+id+" HTTP/1.1\r\nHost: x\r\n"+framing).want(t, 200, "")
			if seen := s.upstream.once(t, id); seen.body != "hi" {
				t.Errorf("a plain body arrived as %q", seen.body)
			}
		}
	})
}

// upgradesPastTheGate asks for a connection that the gate would no longer read, on a route that streams and on one that does not.
func upgradesPastTheGate(t *testing.T, s *site) {
	customer := s.key(t, s.user(t, "customer"))
	s.each(t, func(t *testing.T, p *process) {
		for _, path := range []string{"/open/", "/guarded/", "/stream/", "/open/stream/"} {
			for _, upgrade := range []string{"h2c", "H2C", "h2", "HTTP/2.0", "h2c, websocket", "websocket, h2c", "TLS/1.0", "IRC/6.9", "websocket\r\nUpgrade: h2c", "h2c\r\nUpgrade: websocket"} {
				id := s.id()
				s.ask(t, p, s.address(), request("GET", path+id, bearer(customer), "Connection: Upgrade, HTTP2-Settings", "Upgrade: "+upgrade, "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA")).want(t, 200, "")
				seen := s.upstream.once(t, id)
				if seen.header("upgrade") != nil || seen.header("http2-settings") != nil || strings.Contains(strings.ToLower(strings.Join(seen.header("connection"), " ")), "upgrade") {
					t.Errorf("%s: the upstream was asked to upgrade to %q:\n%s", path, upgrade, seen.head)
				}
			}
			id := s.id()
			s.ask(t, p, s.address(), payload("POST", path+id, "x", bearer(customer), "Connection: Upgrade", "Upgrade: websocket")).want(t, 200, "")
			if seen := s.upstream.once(t, id); seen.header("upgrade") != nil {
				t.Errorf("%s: a POST upgraded:\n%s", path, seen.head)
			}
		}
		id := s.id()
		s.ask(t, p, s.address(), request("GET", "/guarded/socket/"+id, bearer(customer), "Connection: Upgrade", "Upgrade: websocket")).want(t, 502, "upstream_failed") // it insists, and gets nowhere
		if seen := s.upstream.once(t, id); seen.header("upgrade") != nil {
			t.Errorf("a route without streams asked to upgrade:\n%s", seen.head)
		}
	})
}
