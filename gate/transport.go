package gate

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

const (
	upstreamDial       = 5 * time.Second
	upstreamIdle       = 60 * time.Second // after it a connection that is not in use is closed
	upstreamIdleConns  = 256              // that wait for a request, for each upstream
	upstreamHeader     = 64 << 10         // the longest header of an answer, bytes
	upstreamReadBuffer = 2 << 10          // kept for as long as a stream is open
	maxInformational   = 5                // answers such as 103 before the one that counts
)

// transport asks upstreams. Most requests go over HTTP/1.1 and have a body that is at hand, or none, and these it sends and answers on the
// goroutine of the request, where http.Transport hands each to two more, which a stream then keeps for as long as it is open. How
// requests are written and answers read is net/http's in any case, and all other requests go by its transport: see docs/decisions/0020.
type transport struct {
	full   *http.Transport
	dialer net.Dialer

	mu     sync.Mutex
	idle   map[string][]*upstreamConn // by host and port, the one used last at the end
	closed bool
}

func newTransport() *transport {
	t := &transport{dialer: net.Dialer{Timeout: upstreamDial, KeepAlive: 30 * time.Second}, idle: map[string][]*upstreamConn{}}
	t.full = &http.Transport{
		DialContext:            t.dialer.DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		MaxIdleConnsPerHost:    upstreamIdleConns,
		IdleConnTimeout:        upstreamIdle,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: upstreamHeader,
		DisableCompression:     true, // bodies pass as they are
		ReadBufferSize:         upstreamReadBuffer,
		WriteBufferSize:        2 << 10,
	}
	return t
}

// upstreamConn is a connection to an upstream that one request at a time has to itself.
type upstreamConn struct {
	net.Conn
	host      string // and port
	in        *bufio.Reader
	readable  int64 // bytes that may be read before the header ends
	idleSince time.Time
}

var (
	errLongHeader   = errors.New("the upstream's header is too long")
	errUnaskedProto = errors.New("the upstream switched protocols without being asked to")
	errTooManyHints = errors.New("the upstream sends informational answers without end")
)

// Read reads from the upstream, of a header no more than it may have.
func (c *upstreamConn) Read(p []byte) (int, error) {
	if c.readable <= 0 {
		return 0, errLongHeader
	}
	if int64(len(p)) > c.readable {
		p = p[:c.readable]
	}
	n, err := c.Conn.Read(p)
	c.readable -= int64(n)
	return n, err //nolint:wrapcheck // the proxy knows its connections' errors
}

// wholeBody is a body that is at hand.
type wholeBody struct{ bytes.Reader }

func newWholeBody(b []byte) *wholeBody {
	var w wholeBody
	w.Reset(b)
	return &w
}

// Close does nothing.
func (*wholeBody) Close() error { return nil }

// isPlain reports whether a request can be written in one go and its answer be read after that. Nor has it anything that http.Transport
// would refuse to send and Request.Write does not, such as a method with a space in it: what HTTP/2 clients send is not checked before.
func isPlain(req *http.Request) bool {
	_, whole := req.Body.(*wholeBody)
	return (whole || hasNoBody(req)) && req.URL.Scheme == "http" && slices.Contains(plainMethods, req.Method) && len(req.Trailer) == 0 &&
		len(req.Header["Upgrade"]) == 0 && len(req.Header["Expect"]) == 0 && !req.Close && isWellFormed(req.Header)
}

var plainMethods = []string{http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions}

func isWellFormed(h http.Header) bool {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return false
		}
	}
	return true
}

func hasNoBody(req *http.Request) bool { return req.Body == nil || req.Body == http.NoBody }

// isRepeatable reports whether it does no harm that an upstream gets a request twice.
func isRepeatable(req *http.Request) bool {
	return hasNoBody(req) && (req.Method == http.MethodGet || req.Method == http.MethodHead || req.Method == http.MethodOptions)
}

// RoundTrip sends a request and returns the answer as soon as its header is there.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if !isPlain(req) {
		return t.full.RoundTrip(req) //nolint:wrapcheck // it stands in for it
	}
	for {
		c, used, err := t.connect(req)
		if err != nil {
			return nil, err
		}
		res, err := t.ask(c, req)
		if err == nil {
			return res, nil
		}
		silent := c.readable == upstreamHeader
		_ = c.Close() // the error that led here is the one to report
		if req.Context().Err() != nil {
			return nil, context.Cause(req.Context())
		}
		// A connection that was used before may have been closed just now, by an upstream that never saw the request.
		if !used || !silent || !isRepeatable(req) {
			return nil, err
		}
	}
}

// connect returns a connection to a request's upstream, and whether it was used before.
func (t *transport) connect(req *http.Request) (c *upstreamConn, used bool, err error) {
	host := req.URL.Host
	if req.URL.Port() == "" {
		host = net.JoinHostPort(req.URL.Hostname(), "80")
	}
	for c := t.take(host); c != nil; c = t.take(host) {
		if isQuiet(c.Conn) {
			return c, true, nil
		}
		_ = c.Close() // the upstream has closed it, or spoken without being asked
	}
	conn, err := t.dialer.DialContext(req.Context(), "tcp", host)
	if err != nil {
		return nil, false, err //nolint:wrapcheck // the proxy knows its connections' errors
	}
	c = &upstreamConn{Conn: conn, host: host}
	c.in = bufio.NewReaderSize(c, upstreamReadBuffer)
	return c, false, nil
}

var requestBuffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// ask sends a request and reads the header of its answer. Whoever reads the answer's body to its end gives the connection back.
func (t *transport) ask(c *upstreamConn, req *http.Request) (*http.Response, error) {
	stop := context.AfterFunc(req.Context(), func() { _ = c.SetDeadline(time.Unix(1, 0)) }) // of one that is closed already
	c.readable = upstreamHeader
	res, err := c.exchange(req)
	if err != nil {
		stop()
		return nil, err
	}
	c.readable = math.MaxInt64
	body := &upstreamBody{ReadCloser: res.Body, transport: t, conn: c, res: res, stop: stop}
	if res.Body == http.NoBody {
		body.end(true)
		return res, nil
	}
	res.Body = body
	return res, nil
}

func (c *upstreamConn) exchange(req *http.Request) (*http.Response, error) {
	buf := requestBuffers.Get().(*bytes.Buffer)
	defer requestBuffers.Put(buf)
	buf.Reset()
	if err := req.Write(buf); err != nil {
		return nil, err //nolint:wrapcheck // the proxy knows its connections' errors
	}
	if _, err := c.Write(buf.Bytes()); err != nil {
		return nil, err //nolint:wrapcheck // likewise
	}
	for range maxInformational + 1 { // informational answers do not go on to the client
		res, err := http.ReadResponse(c.in, req)
		switch {
		case err != nil:
			return nil, err //nolint:wrapcheck // likewise
		case res.StatusCode == http.StatusSwitchingProtocols:
			return nil, errUnaskedProto
		case res.StatusCode >= http.StatusOK, res.StatusCode < http.StatusContinue: // who is given one that is none refuses it
			return res, nil
		}
	}
	return nil, errTooManyHints
}

// upstreamBody is an answer's body. Its connection is used again once it was read to its end.
type upstreamBody struct {
	io.ReadCloser
	transport *transport
	conn      *upstreamConn
	res       *http.Response
	stop      func() bool
	ended     bool
	err       error // that ended it, given again to whoever goes on reading
}

func (b *upstreamBody) Read(p []byte) (int, error) {
	if b.ended {
		return 0, cmp.Or(b.err, http.ErrBodyReadAfterClose)
	}
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.end(errors.Is(err, io.EOF))
		if ctx := b.res.Request.Context(); !errors.Is(err, io.EOF) && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		b.err = err
	}
	return n, err //nolint:wrapcheck // the proxy knows its connections' errors
}

// Close gives the rest of the body up, and the connection with it.
func (b *upstreamBody) Close() error {
	b.end(false)
	return nil
}

func (b *upstreamBody) end(whole bool) {
	if b.ended {
		return
	}
	b.ended = true
	if b.stop() && whole && !b.res.Close && b.conn.in.Buffered() == 0 {
		b.transport.keep(b.conn)
		return
	}
	_ = b.conn.Close() // nothing more is expected of it
}

// take returns the connection to a host that was used last, nil where none waits.
func (t *transport) take(host string) *upstreamConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	waiting := t.idle[host]
	if len(waiting) == 0 {
		return nil
	}
	last := len(waiting) - 1
	c := waiting[last]
	waiting[last] = nil
	t.idle[host] = waiting[:last]
	return c
}

// keep lets a connection wait for the next request.
func (t *transport) keep(c *upstreamConn) {
	t.mu.Lock()
	full := t.closed || len(t.idle[c.host]) >= upstreamIdleConns
	if !full {
		c.idleSince = time.Now()
		t.idle[c.host] = append(t.idle[c.host], c)
	}
	t.mu.Unlock()
	if full {
		_ = c.Close() // nothing more is expected of it
	}
}

// closeIdle closes the connections that have waited since before a time.
func (t *transport) closeIdle(before time.Time) {
	t.mu.Lock()
	var old []*upstreamConn
	for host, waiting := range t.idle {
		n := 0
		for n < len(waiting) && waiting[n].idleSince.Before(before) { // they lie in the order in which they came back
			n++
		}
		old = append(old, waiting[:n]...)
		if n == len(waiting) {
			delete(t.idle, host)
		} else {
			t.idle[host] = slices.Clone(waiting[n:])
		}
	}
	t.mu.Unlock()
	for _, c := range old {
		_ = c.Close() // nothing more is expected of them
	}
}

// close closes all connections that wait, and those in use once they are done.
func (t *transport) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.closeIdle(time.Now().Add(time.Second))
	t.full.CloseIdleConnections()
}
