package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// tape is an upstream that records each request byte by byte, with a reader of its own: one that cleans what it reads would hide
// what the gate let through.
type tape struct {
	ln       net.Listener
	wg       sync.WaitGroup
	mu       sync.Mutex
	open     map[net.Conn]bool
	requests []taped
	held     map[string]chan struct{} // answers that wait to be released
	faults   []string
	closing  chan struct{}
}

// errCutOff is a request that ends before it is whole, as when the gate refuses its body halfway.
var errCutOff = errors.New("cut off")

// taped is one request as it came.
type taped struct {
	line, head string // the head without its first line
	body, tail string // decoded body; trailers
	at         time.Time
}

func newTape(t testing.TB) *tape {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &tape{ln: ln, open: map[net.Conn]bool{}, held: map[string]chan struct{}{}, closing: make(chan struct{})}
	u.wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			u.mu.Lock()
			u.open[conn] = true
			u.mu.Unlock()
			u.wg.Go(func() { u.serve(conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		close(u.closing)
		u.mu.Lock()
		for conn := range u.open {
			conn.Close()
		}
		u.mu.Unlock()
		u.wg.Wait()
	})
	return u
}

func (u *tape) addr() string { return u.ln.Addr().String() }

func (u *tape) serve(conn net.Conn) {
	defer func() {
		conn.Close()
		u.mu.Lock()
		delete(u.open, conn)
		u.mu.Unlock()
	}()
	r := bufio.NewReader(conn)
	for {
		req, err := readTaped(r)
		if err != nil {
			if !errors.Is(err, errCutOff) {
				u.mu.Lock()
				u.faults = append(u.faults, fmt.Sprintf("%v in %q", err, req.line+req.head))
				u.mu.Unlock()
			}
			return
		}
		u.mu.Lock()
		u.requests = append(u.requests, req)
		u.mu.Unlock()
		if !u.answer(conn, r, req) {
			return
		}
	}
}

// answer does what the path asks for, and reports whether the connection is kept.
func (u *tape) answer(conn net.Conn, r io.Reader, req taped) bool {
	say := func(text string) bool {
		_, err := io.WriteString(conn, text)
		return err == nil
	}
	target := strings.Fields(req.line)[1]
	switch {
	case strings.Contains(target, "/events/"):
		say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\nd\r\ndata: first\n\n\r\n")
		_, _ = io.Copy(io.Discard, r) // until the gate hangs up
		return false
	case strings.Contains(target, "/socket/"):
		say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x05first")
		_, _ = io.Copy(io.Discard, r)
		return false
	case strings.Contains(target, "/held/"):
		select {
		case <-u.hold(path.Base(target)):
		case <-u.closing:
		}
	case strings.Contains(target, "/unasked/"): // the client of an upstream logs such things by itself
		return say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n{\"level\":\"ERROR\",\"msg\":\"out of turn\"}\r\n")
	case strings.Contains(target, "/speaks/"):
		return say("HTTP/1.1 200 OK\r\nSet-Cookie: gate_session=planted\r\nset-cookie: GATE_SESSION=planted; Path=/\r\nSet-Cookie:\t__Host-gate_session =planted\r\n" +
			"SET-COOKIE: __Secure-gate_session=planted\r\nSet-Cookie: =gate_session=planted\r\nSet-Cookie: = = __Host-gate_session=planted\r\nSet-Cookie: theme=dark\r\nGate-Identity: planted\r\nX-Request-Id: planted\r\nContent-Length: 2\r\n\r\nok")
	}
	body := "upstream saw " + req.line
	if strings.HasPrefix(req.line, "HEAD ") {
		return say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
	}
	return say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
}

// hold returns what ends the wait of an answer that is held, when it is closed.
func (u *tape) hold(id string) chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.held[id] == nil {
		u.held[id] = make(chan struct{})
	}
	return u.held[id]
}

// seen returns the requests whose target has the id in it.
func (u *tape) seen(id string) (found []taped) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, r := range u.requests {
		if strings.Contains(r.line, id) {
			found = append(found, r)
		}
	}
	return found
}

// once returns the only request with the id.
func (u *tape) once(t testing.TB, id string) taped {
	t.Helper()
	found := u.seen(id)
	if len(found) != 1 {
		t.Fatalf("the upstream was asked %d times for %s: %+v", len(found), id, found)
	}
	return found[0]
}

var (
	requestLine = regexp.MustCompile(`^[A-Z]+ /[^\x00-\x20\x7f]* HTTP/1\.1$`)
	headerLine  = regexp.MustCompile(`^([A-Za-z0-9!#$%&'*+.^_|~` + "`" + `-]+): ([^\x00-\x08\x0a-\x1f\x7f]*)$`)
)

// readTaped reads one request by the letter of RFC 9112 and calls everything else a fault.
func readTaped(r *bufio.Reader) (req taped, err error) {
	text := func() string {
		line, readErr := r.ReadString('\n')
		switch {
		case err != nil:
		case readErr != nil:
			err = fmt.Errorf("%w: %w", errCutOff, readErr)
		case !strings.HasSuffix(line, "\r\n"):
			err = fmt.Errorf("bare LF after %q", line)
		}
		return strings.TrimSuffix(line, "\r\n")
	}
	if _, err := r.Peek(1); err != nil {
		return req, errCutOff
	}
	req.at = time.Now()
	if req.line = text(); err == nil && !requestLine.MatchString(req.line) {
		return req, fmt.Errorf("request line %q", req.line)
	}
	length, chunked, framings := 0, false, 0
	for line := text(); line != "" && err == nil; line = text() {
		req.head += line + "\n"
		parts := headerLine.FindStringSubmatch(line)
		if parts == nil {
			return req, fmt.Errorf("header line %q", line)
		}
		switch strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(parts[1])) {
		case "content-length":
			framings++
			if length, err = strconv.Atoi(parts[2]); err != nil || parts[2] != strconv.Itoa(length) || length < 0 {
				return req, fmt.Errorf("length %q", parts[2])
			}
		case "transfer-encoding":
			framings++
			if chunked = true; parts[2] != "chunked" {
				return req, fmt.Errorf("encoding %q", parts[2])
			}
		}
	}
	if framings > 1 {
		return req, fmt.Errorf("%d framings", framings)
	}
	take := func(n int) string {
		b := make([]byte, n)
		if _, readErr := io.ReadFull(r, b); readErr != nil && err == nil {
			err = fmt.Errorf("%w: %w", errCutOff, readErr)
		}
		return string(b)
	}
	for chunked && err == nil {
		size := text()
		n, parseErr := strconv.ParseUint(size, 16, 31)
		if err == nil && (parseErr != nil || strings.HasPrefix(size, "+")) {
			return req, fmt.Errorf("chunk size %q", size)
		}
		if n == 0 {
			for line := text(); line != "" && err == nil; line = text() {
				req.tail += line + "\n"
			}
			return req, err
		}
		req.body += take(int(n))
		if end := text(); err == nil && end != "" {
			return req, fmt.Errorf("%q after a chunk", end)
		}
	}
	if length > 0 {
		req.body = take(length)
	}
	return req, err
}

// header returns the values of a header in any spelling that some server takes for it.
func (r taped) header(name string) (values []string) {
	fold := strings.NewReplacer("_", "-", ".", "-").Replace
	for line := range strings.Lines(r.head) {
		n, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		if strings.EqualFold(fold(n), name) {
			values = append(values, v)
		}
	}
	return values
}

// leadsTo returns every path that some server would make of a request's target: decoded again and again, with any separator,
// cleaned or not.
func (r taped) leadsTo() (paths []string) {
	target, _, _ := strings.Cut(strings.Fields(r.line)[1], "?")
	for range 10 {
		for _, p := range []string{target, strings.ReplaceAll(target, `\`, "/"), strings.ReplaceAll(target, ";", "/")} {
			paths = append(paths, strings.ToLower(p), strings.ToLower(path.Clean(p)))
		}
		next, err := url.PathUnescape(target)
		if err != nil {
			break
		}
		target = next
	}
	return paths
}
