package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// field is a header of HTTP/2, pseudo-headers included, in the order in which it is sent.
type field struct{ name, value string }

// conn2 is a connection of HTTP/2 to the secure gate, and how headers are written on it.
func (s *site) conn2(t testing.TB, from string) (*http2.Framer, func([]field) []byte) {
	t.Helper()
	config := s.secure.tls.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := (&process{addr: s.secure.addr, tls: config}).connect(from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.(*tls.Conn).Handshake(); err != nil || conn.(*tls.Conn).ConnectionState().NegotiatedProtocol != "h2" {
		t.Fatalf("the gate does not speak HTTP/2: %v", err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.AllowIllegalWrites = true
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	_ = framer.WriteSettings() // the gate may hang up at any time; what it said shows in what is read
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	return framer, func(fields []field) []byte {
		block.Reset()
		for _, f := range fields {
			if err := encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value}); err != nil {
				t.Fatal(err)
			}
		}
		return bytes.Clone(block.Bytes())
	}
}

// stream2 sends one request by frames of HTTP/2, trailers if there are any, and returns the status, or how the gate ended it.
func (s *site) stream2(t testing.TB, from, body string, fields, trailers []field) string {
	t.Helper()
	framer, encode := s.conn2(t, from)
	// The gate may hang up in the middle; what it said shows in what is read.
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(fields), EndHeaders: true, EndStream: body == "" && trailers == nil})
	if body != "" {
		_ = framer.WriteData(1, trailers == nil, []byte(body))
	}
	if trailers != nil {
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: encode(trailers), EndHeaders: true, EndStream: true})
	}
	return answer2(t, framer)
}

// answer2 is the status that a stream is answered with, or how the gate ended it.
func answer2(t testing.TB, framer *http2.Framer) string {
	t.Helper()
	for {
		frame, err := framer.ReadFrame()
		if isTimeout(err) {
			t.Fatalf("no answer within %s", patience)
		}
		if err != nil {
			return "closed"
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			return "goaway"
		}
	}
}

// longerThanItsLength sends as much of a body as was announced, and more only once the gate has had time to ask the upstream: it must
// not ask before the body has ended.
func longerThanItsLength(t *testing.T, s *site) {
	for _, body := range []string{"", "hi"} {
		id := s.id()
		framer, encode := s.conn2(t, s.address())
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndHeaders: true, BlockFragment: encode([]field{{":method", "POST"}, {":scheme", "https"},
			{":authority", host}, {":path", "/open/" + id}, {"content-length", strconv.Itoa(len(body))}})})
		if body != "" {
			_ = framer.WriteData(1, false, []byte(body))
		}
		for range 20 { // others come through meanwhile
			s.ask(t, s.secure, s.address(), request("GET", "/open/"+s.id())).want(t, 200, "")
		}
		_ = framer.WriteData(1, true, []byte(smuggled))
		if got := answer2(t, framer); got < "400" || s.upstream.seen(id) != nil {
			t.Errorf("a body longer than %d: %s; the upstream saw %+v", len(body), got, s.upstream.seen(id))
		}
	}
}

// http2Tricks are requests that are well-formed until they are written as HTTP/1.1.
func http2Tricks(t *testing.T, s *site) {
	email := s.user(t, "customer")
	customer := s.key(t, email)
	session, other := s.login(t, s.secure, email), s.login(t, s.secure, s.user(t, "operator"))
	get := func(path string, more ...field) []field {
		return append([]field{{":method", "GET"}, {":scheme", "https"}, {":authority", host}, {":path", path}}, more...)
	}
	const inject = "x\r\n\r\n" + smuggled
	type trick struct {
		name           string
		fields         []field
		body           string
		trailers       []field
		passes         bool // it reaches the upstream, as one request
		status, absent string
	}
	own := "/open/ID"
	tricks := []trick{
		{name: "a plain request", fields: get(own), passes: true, status: "200"},
		{name: "a plain body", fields: get(own, field{"content-length", "2"}), body: "hi", passes: true, status: "200"},
		{name: "forged identity", fields: get(own, field{"gate-identity", "spoofed"}, field{"gate_identity", "spoofed"}, field{"x-forwarded-for", "spoofed"}, field{"forwarded", "spoofed"}), passes: true, status: "200", absent: "spoofed"},
		{name: "forged trailers", fields: get(own, field{"trailer", "gate-identity"}), body: "hi", trailers: []field{{"gate-identity", "spoofed"}, {"x-forwarded-for", "spoofed"}}, passes: true, status: "200", absent: "spoofed"},
		{name: "two sessions in two crumbs", fields: get("/guarded/ID", field{"cookie", s.secure.cookieName() + "=" + session}, field{"cookie", s.secure.cookieName() + "=" + other}), status: "400"},
		{name: "a session and a key", fields: get("/guarded/ID", field{"cookie", s.secure.cookieName() + "=" + session}, field{"authorization", "Bearer " + customer}), status: "400"},
		{name: "a length that is too short", fields: get(own, field{"content-length", "0"}), body: smuggled},
		{name: "a length that is too long", fields: get(own, field{"content-length", "500"}), body: smuggled},
		{name: "two lengths", fields: get(own, field{"content-length", "0"}, field{"content-length", strconv.Itoa(len(smuggled))}), body: smuggled},
		{name: "a length with a plus", fields: get(own, field{"content-length", "+" + strconv.Itoa(len(smuggled))}), body: smuggled},
		{name: "an encoding", fields: get(own, field{"transfer-encoding", "chunked"}), body: "0\r\n\r\n" + smuggled},
		{name: "an encoding with an underscore", fields: get(own, field{"transfer_encoding", "chunked"}), body: "0\r\n\r\n" + smuggled, passes: true, status: "200"},
		{name: "an upgrade", fields: get(own, field{"connection", "upgrade"}, field{"upgrade", "h2c"})},
		{name: "connection", fields: get(own, field{"connection", "gate-identity"})},
		{name: "a line break in a value", fields: get(own, field{"x-a", inject})},
		{name: "a bare LF in a value", fields: get(own, field{"x-a", "b\nTransfer-Encoding: chunked"})},
		{name: "a NUL in a value", fields: get(own, field{"x-a", "b\x00c"})},
		{name: "a line break in a name", fields: get(own, field{"x-a: b\r\ntransfer-encoding", "chunked"})},
		{name: "a colon in a name", fields: get(own, field{"transfer-encoding: chunked", "x"})},
		{name: "a space in a name", fields: get(own, field{"transfer-encoding ", "chunked"})},
		{name: "capitals in a name", fields: get(own, field{"Transfer-Encoding", "chunked"})},
		{name: "an empty name", fields: get(own, field{"", "x"})},
		{name: "a line break in the path", fields: get(own + " HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled)},
		{name: "a space in the path", fields: get(own + " HTTP/1.1"), passes: true, status: "200"}, // as part of the path that it is
		{name: "dot segments", fields: get("/open/../operator/ID")},
		{name: "encoded dot segments", fields: get("/open/%252e%252e/operator/ID")},
		{name: "two slashes", fields: get("//operator/ID")},
		{name: "a whole URL", fields: get("https://" + host + "/operator/ID")},
		{name: "an asterisk", fields: get("*")},
		{name: "no path", fields: []field{{":method", "GET"}, {":scheme", "https"}, {":authority", host}, {"x-id", "ID"}}},
		{name: "an empty path", fields: get("")},
		{name: "two paths", fields: append(get(own), field{":path", "/operator/ID"})},
		{name: "a path after a header", fields: []field{{":method", "GET"}, {":scheme", "https"}, {":authority", host}, {"x-a", "b"}, {":path", own}}},
		{name: "an unknown pseudo-header", fields: append([]field{{":gate-identity", "spoofed"}}, get(own)...)},
		{name: "a line break in the method", fields: append([]field{{":method", "GET /operator/smuggled HTTP/1.1\r\nHost: x\r\n\r\nGET"}}, get(own)[1:]...)},
		{name: "a space in the method", fields: append([]field{{":method", "GET /operator/smuggled"}}, get(own)[1:]...)},
		{name: "a line break in the authority", fields: []field{{":method", "GET"}, {":scheme", "https"}, {":authority", inject}, {":path", own}}},
		{name: "a user in the authority", fields: []field{{":method", "GET"}, {":scheme", "https"}, {":authority", "x@" + host}, {":path", own}}},
		{name: "a path in the authority", fields: []field{{":method", "GET"}, {":scheme", "https"}, {":authority", host + "/operator"}, {":path", own}}},
		{name: "CONNECT", fields: []field{{":method", "CONNECT"}, {":authority", "127.0.0.1:5432"}}},
		{name: "CONNECT with a protocol", fields: []field{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"}, {":authority", host}, {":path", "/stream/ID"}}},
		{name: "a huge header", fields: get(own, field{"x-a", strings.Repeat("a", 100_000)})},
	}
	all := atOnce{T: t}
	defer all.Wait()
	for _, tc := range tricks {
		all.run(tc.name, func(t *testing.T) {
			id := s.id()
			for i := range tc.fields {
				tc.fields[i].value = strings.ReplaceAll(tc.fields[i].value, "ID", id)
			}
			got := s.stream2(t, s.address(), tc.body, tc.fields, tc.trailers)
			seen := s.upstream.seen(id)
			if !tc.passes {
				if seen != nil || got < "400" {
					t.Errorf("%s; the upstream saw %+v", got, seen)
				}
				if tc.status != "" && got != tc.status {
					t.Errorf("got %s, want %s", got, tc.status)
				}
				return
			}
			if len(seen) != 1 || got != tc.status {
				t.Fatalf("%s; the upstream saw %+v", got, seen)
			}
			if all := fmt.Sprint(seen[0].head, seen[0].tail); tc.absent != "" && strings.Contains(all, tc.absent) || seen[0].tail != "" {
				t.Errorf("the upstream saw %q", all)
			}
			if seen[0].body != tc.body {
				t.Errorf("the body arrived as %q", seen[0].body)
			}
		})
	}
}
