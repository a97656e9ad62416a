package gate

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"

	"millrace/gate/identity"
)

var errUpstreamTimeout = errors.New("the upstream took longer than its route allows")

// newProxy returns the handler that passes an admitted request on to its route's upstream. A route for streams keeps a buffer
// for each open one, and so gets small ones.
func (g *Gate) newProxy(streams bool) http.Handler {
	size := 32 << 10
	if streams {
		size = 4 << 10
	}
	return &httputil.ReverseProxy{
		Rewrite:        g.rewrite,
		ModifyResponse: g.modifyResponse,
		ErrorHandler:   g.proxyFailed,
		Transport:      g.transport, // answers of unknown length, streams above all, are flushed at once
		BufferPool:     newBufferPool(size),
		ErrorLog:       slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// rewrite makes the request that goes to the upstream. It runs after hop-by-hop headers were removed, so a client cannot have
// what is set here removed by naming it in Connection.
func (g *Gate) rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In.Context())
	out := pr.Out
	out.URL.Scheme, out.URL.Host = x.route.upstream.target.Scheme, x.route.upstream.target.Host
	out.URL.Path, out.URL.RawPath = x.path, ""
	out.Host = pr.In.Host
	out.Trailer = nil // trailers could smuggle in headers that the upstream merges
	if len(x.whole) > 0 {
		out.Body = newWholeBody(x.whole) // it is sent along with the header
	}
	stripOwned(out.Header)
	g.cookies.stripCookies(out.Header)
	h := out.Header
	h["X-Forwarded-For"] = []string{x.client.String()}
	h["X-Forwarded-Host"] = []string{pr.In.Host}
	h["X-Forwarded-Proto"] = []string{x.proto}
	h["X-Request-Id"] = []string{x.id}
	if x.token.text != "" {
		h[identity.Header] = []string{x.token.text}
	}
}

// modifyResponse cleans what the upstream says and recognises answers that are streams.
func (g *Gate) modifyResponse(res *http.Response) error {
	if res.StatusCode < http.StatusContinue { // net/http reads 000 and cannot write it
		return errNoStatus
	}
	x := exchangeOf(res.Request.Context())
	g.cookies.cleanResponse(res.Header)
	x.quota.write(res.Header)
	res.Header["X-Request-Id"] = []string{x.id}
	upgraded := res.StatusCode == http.StatusSwitchingProtocols
	if res.ContentLength < 0 && !upgraded {
		res.Body = &trailedBody{ReadCloser: res.Body, res: res, cookies: g.cookies}
	}
	if !upgraded && !isEventStream(res.Header) || !x.route.Stream {
		return nil
	}
	x.timer.Stop()
	x.stream = &stream{principal: x.principal, cancel: x.cancel}
	if !g.streams.add(x.stream) {
		x.stream = nil
		return errDraining
	}
	x.w.streaming = true
	if conn, ok := res.Body.(io.ReadWriteCloser); ok && upgraded {
		res.Body = &socketBody{ReadWriteCloser: conn, stream: x.stream}
		return nil
	}
	res.Body = &eventBody{ReadCloser: res.Body, stream: x.stream}
	return nil
}

// trailedBody is a body that headers may follow, which are held to what the header itself is.
type trailedBody struct {
	io.ReadCloser
	res     *http.Response
	cookies cookieJar
}

func (b *trailedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.cookies.cleanResponse(b.res.Trailer)
	}
	return n, err //nolint:wrapcheck // the proxy knows its connections' errors
}

var (
	errDraining = errors.New("this process is stopping")
	errNoStatus = errors.New("the upstream's answer has no status that HTTP knows")
)

const eventStream = "text/event-stream"

func isEventStream(h http.Header) bool {
	if t := h.Get("Content-Type"); len(t) < len(eventStream) || !strings.EqualFold(t[:len(eventStream)], eventStream) {
		return false // the usual case, told without parsing
	}
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	return err == nil && mediaType == eventStream
}

// proxyFailed answers when the upstream did not.
func (g *Gate) proxyFailed(_ http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r.Context())
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		x.deny(denyBody.saying("the request body must be at most %d bytes", tooLarge.Limit))
	case x.body.late():
		x.deny(denySlow.because(err))
	case errors.Is(context.Cause(r.Context()), errUpstreamTimeout):
		x.deny(denyTimeout.because(err))
	case errors.Is(err, errDraining):
		x.deny(denyBusy.because(err))
	case r.Context().Err() != nil:
		x.code = "client_gone"
		panic(http.ErrAbortHandler)
	case x.body != nil && x.body.broken.Load():
		x.deny(denyBodyBroken.because(err))
	default:
		x.deny(denyUpstream.because(err))
	}
}

// bufferPool lends the buffers that bodies are copied through.
type bufferPool struct{ pool sync.Pool }

func newBufferPool(size int) *bufferPool {
	return &bufferPool{sync.Pool{New: func() any { b := make([]byte, size); return &b }}}
}

func (p *bufferPool) Get() []byte { return *p.pool.Get().(*[]byte) }

func (p *bufferPool) Put(b []byte) { p.pool.Put(&b) }

// onlyWebSocket drops requests for any other upgrade than to a WebSocket, and that too where the route does not stream: a
// connection upgraded to HTTP/2 without TLS would carry further requests past the gate.
func onlyWebSocket(r *http.Request, streams bool) {
	if len(r.Header["Upgrade"]) == 0 {
		return
	}
	if !streams || r.Method != http.MethodGet || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || len(r.Header["Upgrade"]) > 1 {
		delete(r.Header, "Upgrade")
	}
	delete(r.Header, "Http2-Settings")
}
