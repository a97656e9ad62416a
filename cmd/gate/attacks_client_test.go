package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// wire is a raw connection to a gate.
type wire struct {
	testing.TB
	net.Conn
	r *bufio.Reader
}

// reply is one answer as it came.
type reply struct {
	*http.Response
	text string // the body
}

// dial connects from an address of 127/8.
func (s *site) dial(t testing.TB, p *process, from string) *wire {
	t.Helper()
	conn, err := p.connect(from)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &wire{TB: t, Conn: conn, r: bufio.NewReader(conn)}
}

func (p *process) connect(from string) (net.Conn, error) {
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.Dial("tcp", p.addr)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return nil, err
	}
	if p.tls != nil {
		conn = tls.Client(conn, p.tls)
	}
	return conn, nil
}

// send writes what it is given. A server that refuses may close before it has read it all.
func (w *wire) send(text string) { _, _ = io.WriteString(w.Conn, text) }

// reply reads the next answer; ok is false when the connection ended without one.
func (w *wire) reply() (answer reply, ok bool) {
	w.Helper()
	res, err := http.ReadResponse(w.r, nil)
	if err != nil {
		if isTimeout(err) {
			w.Fatalf("no answer within %s", patience)
		}
		return reply{Response: &http.Response{}}, false
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if isTimeout(err) {
		w.Fatalf("half an answer within %s: %q", patience, body)
	}
	return reply{res, string(body)}, true
}

// rest reads until the other side ends the connection.
func (w *wire) rest() string {
	w.Helper()
	text, err := io.ReadAll(w.r)
	if isTimeout(err) {
		w.Fatalf("the connection was kept for %s; it said %q", patience, text)
	}
	return string(text)
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error) //nolint:errorlint // it comes right from the connection
	return ok && e.Timeout()
}

// ask sends one request on a connection of its own and returns the answer to it. Where this machine is so busy that the request was
// not on its way in time, the gate has hung up without having read it, and it is sent again.
func (s *site) ask(t testing.TB, p *process, from, request string) reply {
	t.Helper()
	for until := time.Now().Add(2 * patience); ; {
		began := time.Now()
		w := s.dial(t, p, from)
		w.send(request)
		answer, ok := w.reply()
		w.Close()
		if ok {
			return answer
		}
		if time.Since(began) < headerTimeout || time.Now().After(until) {
			t.Fatalf("the %s gate closed the connection instead of answering %.200q", p.name, request)
		}
	}
}

// submit is ask for forms that cost a hash: while too many others wait for theirs, it tries again.
func (s *site) submit(t testing.TB, p *process, from, request string) (answer reply) {
	t.Helper()
	for until := time.Now().Add(patience); time.Now().Before(until); pause(t) {
		if answer = s.ask(t, p, from, request); answer.StatusCode != http.StatusServiceUnavailable {
			return answer
		}
	}
	t.Fatalf("the %s gate was busy for %s", p.name, patience)
	return answer
}

// want checks the status, and the code of a denial.
func (r reply) want(t testing.TB, status int, code string) {
	t.Helper()
	if r.StatusCode != status || r.code() != code {
		t.Errorf("got %d %q %.300s, want %d %q", r.StatusCode, r.code(), r.text, status, code)
	}
}

// code returns the code of a denial, or nothing.
func (r reply) code() string {
	var problem struct {
		Code string `json:"code"`
	}
	if r.Header.Get("Content-Type") != "application/problem+json" || json.Unmarshal([]byte(r.text), &problem) != nil {
		return ""
	}
	return problem.Code
}

// host is what all requests call the site.
const host = "gate.example"

// request writes a request without a body; headers are whole lines.
func request(method, target string, headers ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + lines(headers) + "\r\n"
}

// post writes a request with a form.
func post(target string, form url.Values, headers ...string) string {
	return payload("POST", target, form.Encode(), append([]string{"Content-Type: application/x-www-form-urlencoded"}, headers...)...)
}

// payload writes a request with a body.
func payload(method, target, body string, headers ...string) string {
	return request(method, target, append(headers, "Content-Length: "+strconv.Itoa(len(body)))...) + body
}

func lines(headers []string) string {
	var b strings.Builder
	for _, h := range headers {
		b.WriteString(h + "\r\n")
	}
	return b.String()
}

func bearer(key string) string { return "Authorization: Bearer " + key }

func credentials(email, password string) url.Values {
	return url.Values{"email": {email}, "password": {password}}
}

// cookieName is what a gate calls its session cookie.
func (p *process) cookieName() string {
	if p.tls == nil {
		return "gate_session"
	}
	return "__Host-gate_session"
}

// cookie is the header line of a session.
func (p *process) cookie(session string) string { return "Cookie: " + p.cookieName() + "=" + session }

// login logs a user in and returns the session.
func (s *site) login(t testing.TB, p *process, email string) (session string) {
	t.Helper()
	answer := s.submit(t, p, s.address(), post("/auth/login", credentials(email, password)))
	session = answer.session(t, p)
	if answer.StatusCode != http.StatusSeeOther || session == "" {
		t.Fatalf("login: %d %s", answer.StatusCode, answer.text)
	}
	s.keepSecret(session)
	return session
}

// session returns the session that an answer sets, or nothing.
func (r reply) session(t testing.TB, p *process) string {
	t.Helper()
	found := ""
	for _, c := range r.Cookies() {
		if c.Name == p.cookieName() && c.MaxAge >= 0 {
			if found != "" {
				t.Errorf("two sessions are set: %q", r.Header["Set-Cookie"])
			}
			found = c.Value
		}
	}
	return found
}
