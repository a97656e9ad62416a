package gate

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// tape is an upstream that records each request that reaches it as it was sent, and reads as strictly as net/http does.
type tape struct {
	ln       net.Listener
	mu       sync.Mutex
	requests []taped
	wg       sync.WaitGroup
}

type taped struct{ line, head, body string }

func newTape(t *testing.T) *tape {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tape{ln: ln}
	p.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			p.wg.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(p.stop)
	return p
}

// stop waits until everything was recorded. The gate must have closed its connections.
func (p *tape) stop() {
	p.ln.Close()
	p.wg.Wait()
}

func (p *tape) serve(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	var raw bytes.Buffer // what came in since the last answer: a proxy sends one request at a time
	reader := bufio.NewReader(io.TeeReader(conn, &raw))
	for {
		req, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		head, _, _ := strings.Cut(raw.String(), "\r\n\r\n")
		raw.Reset()
		p.mu.Lock()
		p.requests = append(p.requests, taped{req.Method + " " + req.RequestURI, head, string(body)})
		p.mu.Unlock()
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

// Where a server in front may have seen another end of a request, nothing that follows on the connection is taken for one.
func TestAttackWhatFollowsAnAmbiguousEnd(t *testing.T) {
	t.Parallel()
	b := setup(t)
	const next = "GET /open/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for name, tc := range map[string]struct {
		request string
		answers int
	}{
		"length and encoding": {"POST /open/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1},
		"of a refused one":    {"POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1},
		"of an own page":      {"POST /auth/logout HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 1},
		"encoding in 1.0":     {"POST /open/a HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", 1},
		"a length alone":      {"POST /open/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi", 2},
	} {
		_, rest := b.raw(tc.request + next + "GET /open/last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if got := 1 + strings.Count(rest, "HTTP/1."); tc.answers == 1 && got != 1 || tc.answers == 2 && got != 3 {
			t.Errorf("%s: %d answers: %s", name, got, rest)
		}
	}
}

// Whose fault a body is that cannot be read is told rightly.
func TestABodyThatIsFramedBadlyIsTheClientsFault(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, body := range []string{"zz\r\nhi\r\n0\r\n\r\n", "-2\r\nhi\r\n", "2\r\nhi!\r\n0\r\n\r\n"} {
		status, rest := b.raw("POST /open/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
		if !strings.Contains(status, " 400 ") || !strings.Contains(rest, "bad_body") {
			t.Errorf("%q: %s %s", body, status, rest)
		}
	}
}

func TestAttackRequestSmuggling(t *testing.T) {
	t.Parallel()
	upstream := newTape(t)
	b := setupRoutes(t, `
routes:
  - {path: /open/, upstream: "http://`+upstream.ln.Addr().String()+`", allow: [public]}
  - {path: /admin/, upstream: "http://`+upstream.ln.Addr().String()+`", allow: [operator]}
`)
	const smuggled = "GET /admin/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	chunk := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(smuggled), smuggled)
	post := func(headers, body string) string {
		return "POST /open/a HTTP/1.1\r\nHost: x\r\n" + headers + "\r\n" + body
	}
	sent := map[string]string{} // names of the tricks, by path
	for _, tc := range []struct{ name, request string }{
		{"CL and TE: CL covers the smuggled request", post(fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n", 5+len(smuggled)), "0\r\n\r\n"+smuggled)},
		{"TE and CL: CL is short", post("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", chunk)},
		{"two lengths", post(fmt.Sprintf("Content-Length: 0\r\nContent-Length: %d\r\n", len(smuggled)), smuggled)},
		{"two lengths in one", post(fmt.Sprintf("Content-Length: 0, %d\r\n", len(smuggled)), smuggled)},
		{"the same length twice", post("Content-Length: 2\r\nContent-Length: 2\r\n", "hi")},
		{"negative length", post("Content-Length: -1\r\n", smuggled)},
		{"length with a plus", post("Content-Length: +0\r\n", smuggled)},
		{"length in hex", post("Content-Length: 0x0\r\n", smuggled)},
		{"length with a space inside", post("Content-Length: 0 0\r\n", smuggled)},
		{"space before the colon", post(fmt.Sprintf("Content-Length : %d\r\n", len(smuggled)), smuggled)},
		{"folded header", post("X-A: b\r\n Content-Length: 0\r\n", smuggled)},
		{"folded encoding", post("Transfer-Encoding:\r\n chunked\r\n", chunk)},
		{"encoding with a tab", post("Transfer-Encoding:\tchunked\r\n", chunk)},
		{"encoding with a vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", chunk)},
		{"encoding in capitals", post("Transfer-Encoding: CHUNKED\r\n", chunk)},
		{"encoding with a prefix", post("Transfer-Encoding: xchunked\r\n", chunk)},
		{"encoding twice", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunk)},
		{"encodings in a list", post("Transfer-Encoding: identity, chunked\r\n", chunk)},
		{"encoding with a comma", post("Transfer-Encoding: chunked,\r\n", chunk)},
		{"encoding with a quote", post("Transfer-Encoding: \"chunked\"\r\n", chunk)},
		{"encoding with a space before the colon", post("Transfer-Encoding : chunked\r\nContent-Length: 4\r\n", chunk)},
		{"encoding with an underscore", post("Transfer_Encoding: chunked\r\nContent-Length: 0\r\n", "")},
		{"bare LF ends the header", "POST /open/a HTTP/1.1\nHost: x\nContent-Length: 0\n\n" + smuggled},
		{"bare CR in a header", post("X-A: b\rTransfer-Encoding: chunked\r\nContent-Length: 0\r\n", smuggled)},
		{"NUL in a header", post("X-A: b\x00\r\nContent-Length: 0\r\n", smuggled)},
		{"colon-less line", post("Transfer-Encoding chunked\r\nContent-Length: 0\r\n", smuggled)},
		{"empty name", post(": chunked\r\nContent-Length: 0\r\n", smuggled)},
		{"chunk size that overflows", post("Transfer-Encoding: chunked\r\n", "ffffffffffffffff1\r\n"+smuggled)},
		{"chunk size with a sign", post("Transfer-Encoding: chunked\r\n", "+2d\r\n"+smuggled+"\r\n0\r\n\r\n")},
		{"chunk extension with a bare LF", post("Transfer-Encoding: chunked\r\n", "2;a\nhi\r\n0\r\n\r\n"+smuggled)},
		{"chunk that is longer than it says", post("Transfer-Encoding: chunked\r\n", "2\r\nhi!\r\n0\r\n\r\n")},
		{"a body on a GET", "GET /open/a HTTP/1.1\r\nHost: x\r\nContent-Length: " + fmt.Sprint(len(smuggled)) + "\r\n\r\n" + smuggled},
		{"HTTP/1.0 with an encoding", "POST /open/a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk},
		{"HTTP/0.9", "GET /open/a\r\n" + smuggled},
		{"HTTP/1.9", "GET /open/a HTTP/1.9\r\nHost: x\r\n\r\n" + smuggled},
		{"space in the target", "GET /open/a HTTP/1.1 HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled},
		{"tab in the request line", "GET\t/open/a HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled},
		{"line break in the target", "GET /open/a%0d%0aX:%20y HTTP/1.1\r\nHost: x\r\n\r\n"},
		{"pipelined, in plain sight", "GET /open/a HTTP/1.1\r\nHost: x\r\n\r\n" + smuggled},
		{"expectation that is never met", post("Expect: 100-continue\r\nContent-Length: 0\r\n", smuggled)},
	} {
		path := fmt.Sprintf("/open/%d", len(sent))
		sent[path] = tc.name
		conn, err := net.Dial("tcp", b.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, strings.Replace(tc.request, "/open/a", path, 1))
		_ = conn.(*net.TCPConn).CloseWrite()
		_, _ = io.ReadAll(conn)
		conn.Close()
	}
	// Of the tricks some are requests like others, which a client that has closed its side may see canceled. These are not.
	for _, plain := range []string{post("Transfer-Encoding: chunked\r\nConnection: close\r\n", chunk), post("Content-Length: 2\r\nConnection: close\r\n", "hi")} {
		path := fmt.Sprintf("/open/%d", len(sent))
		sent[path] = "none"
		if status, rest := b.raw(strings.Replace(plain, "/open/a", path, 1)); !strings.Contains(status, " 200 ") {
			t.Fatalf("a request without tricks: %s %s", status, rest)
		}
	}
	if err := b.stop(); err != nil {
		t.Fatal(err)
	}
	upstream.stop()
	reached := map[string]bool{}
	for _, r := range upstream.requests {
		method, path, _ := strings.Cut(r.line, " ")
		name, known := sent[path]
		if !known || method != "POST" && method != "GET" {
			t.Errorf("the upstream was asked %q", r.line)
		}
		if reached[path] {
			t.Errorf("%s: one request became two", name)
		}
		reached[path] = true
		if strings.Contains(r.head, "Content-Length") && strings.Contains(r.head, "Transfer-Encoding") {
			t.Errorf("%s: two framings reached the upstream: %s", name, r.head)
		}
		for _, bad := range []string{"\x00", "\x0b", "\r\r", "\n\n", "\nHost: x\n"} {
			if strings.Contains(r.head, bad) {
				t.Errorf("%s: %q reached the upstream: %q", name, bad, r.head)
			}
		}
	}
	for path, name := range sent {
		if name == "none" && !reached[path] {
			t.Errorf("the upstream did not record %s", path)
		}
	}
}
