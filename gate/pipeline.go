package gate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// exchange is one request on its way through the gate.
type exchange struct {
	gate      *Gate
	w         *responseWriter
	r         *http.Request
	id        string
	client    netip.Addr
	proto     string // http or https, as the client spoke it
	path      string // canonical
	route     *Route
	principal *Principal
	token     identityToken // its text is empty where nobody is known
	quota     quota
	code      string // why it was denied; empty: it was not
	cause     error

	newSession string // id of the session that the request began

	cancel context.CancelCauseFunc
	timer  *time.Timer
	stream *stream
	body   *timedBody // nil: there is none
	whole  []byte     // all of a small body; empty: there is none, or it is passed on as it comes
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	x, _ := ctx.Value(exchangeKey{}).(*exchange)
	return x
}

// routing is a routes file in use.
type routing struct {
	table    *Routes
	limiters map[*Route]*limiter
	plain    http.Handler // for routes without streams
	streamed http.Handler
}

func (g *Gate) newRouting(t *Routes) *routing {
	rt := &routing{table: t, limiters: map[*Route]*limiter{}, plain: g.newProxy(false), streamed: g.newProxy(true)}
	for i := range t.Routes {
		if r := &t.Routes[i]; r.Rate != nil {
			rt.limiters[r] = newLimiter("route", *r.Rate)
		}
	}
	return rt
}

// newRequestID is 26 letters and digits that nobody can guess.
func newRequestID() string { return strings.ToLower(rand.Text()) }

// Handler serves everything: the gate's own pages and whatever the routes name.
func (g *Gate) Handler() http.Handler { return http.HandlerFunc(g.serve) }

func (g *Gate) serve(w http.ResponseWriter, r *http.Request) {
	started := time.Now()
	x := &exchange{gate: g, w: newResponseWriter(w), r: r, id: newRequestID()}
	x.client, x.proto = g.clientOf(r)
	if r.ProtoMajor == 1 && (r.ProtoMinor == 0 || len(r.TransferEncoding) > 0) {
		// net/http does not say whether there was a length as well, or an encoding that HTTP/1.0 does not have: then a server in front may
		// see another end of the request than this one, and what follows must not be taken for a request.
		x.w.Header().Set("Connection", "close")
	}
	defer func() {
		failure := recover()
		if failure == http.ErrAbortHandler && x.code == "" && x.stream == nil { //nolint:errorlint // it is this very value; streams end so
			x.code = x.whoBroke()
		}
		if failure != nil && failure != http.ErrAbortHandler { //nolint:errorlint // it is this very value
			g.log.ErrorContext(r.Context(), "panic", "panic", fmt.Sprint(failure), "request_id", x.id)
			x.cause = fmt.Errorf("panic: %v", failure)
		}
		g.metrics.observe(x, time.Since(started))
		x.report(started)
		x.w.extend() // what is still buffered goes out after this
		if x.token.next && x.stream == nil && x.code == "" && failure == nil {
			_ = x.w.control.Flush() // the client has its answer, or is gone, before the next request's token is signed
			g.signer.signNext(x.principal, x.route.upstream)
		}
		if failure != nil {
			panic(http.ErrAbortHandler)
		}
	}()
	if d := x.admit(); d != nil {
		x.deny(d)
	}
}

// whoBroke says by whom an answer under way was broken off.
func (x *exchange) whoBroke() string {
	if x.w.failed || x.r.Context().Err() != nil {
		return "client_gone"
	}
	return denyUpstream.code
}

// admit takes the request through the steps, and serves it if none refuses.
func (x *exchange) admit() *denial {
	for _, step := range []func() *denial{x.limitAddress, x.canonicalise, x.serveOwn, x.findRoute, x.identify, x.limitAccount, x.authorise, x.sign} {
		if d := step(); d != nil {
			if d == served {
				return nil
			}
			return d
		}
	}
	return x.forward()
}

// served says that a step has answered the request.
var served = &denial{}

func (x *exchange) canonicalise() *denial {
	path, err := canonicalPath(x.r.RequestURI)
	if err != nil {
		return denyPath.saying("%s", err)
	}
	if x.r.Host == "" || len(x.r.Host) > 255 || strings.ContainsAny(x.r.Host, badInHost) {
		return denyHost
	}
	// Upstreams that fetch the keys, and proxies that ask before they pass a request on, may know the gate by another name.
	if path != jwksPath && path != verifyPath && !x.gate.routes.Load().table.answersTo(x.r.Host) {
		return denyHostUnknown
	}
	x.path = path
	return nil
}

// badInHost is what ends a host name for some parsers and not for others.
const badInHost = "@/\\?#, "

func (x *exchange) limitAddress() *denial {
	q, ok := x.gate.byAddress.take(addressKey(x.client), x.gate.now())
	return x.count(q, ok)
}

// count notes a quota; the tightest is told to the client.
func (x *exchange) count(q quota, ok bool) *denial {
	x.quota = x.quota.tighter(q)
	if !ok {
		x.quota = q
		return denyRate.after(q.wait)
	}
	return nil
}

func (x *exchange) serveOwn() *denial {
	if !isOwnPath(x.path) {
		return nil
	}
	ctx := context.WithValue(x.r.Context(), exchangeKey{}, x)
	r := x.r.WithContext(ctx)
	x.r = r
	r.URL.Path, r.URL.RawPath = x.path, ""
	x.gate.own.ServeHTTP(x.w, r)
	return served
}

func (x *exchange) findRoute() *denial {
	rt := x.gate.routes.Load()
	route, allowed := rt.table.match(x.r.Host, x.path, x.r.Method)
	switch {
	case route == nil && allowed == nil:
		return denyNoRoute
	case route == nil, x.r.Method == http.MethodTrace, x.r.Method == http.MethodConnect:
		d := *denyMethod
		d.allow = allowed
		return &d
	}
	x.route = route
	if l := rt.limiters[route]; l != nil && route.Rate.By == byAddress {
		if d := x.count(l.take(addressKey(x.client), x.gate.now())); d != nil {
			return d
		}
	}
	if x.r.ContentLength > int64(route.MaxBody) {
		return denyBody.saying("the request body must be at most %d bytes", route.MaxBody)
	}
	onlyWebSocket(x.r, route.Stream)
	return nil
}

// identify says who makes the request. A session cookie that is no longer good does not keep its owner from public pages;
// an API key that is not good is always refused, since whoever sent it meant to be someone.
func (x *exchange) identify() *denial {
	p, err := x.gate.authenticate(x.r)
	switch {
	case err == nil:
		x.principal = p
	case errors.Is(err, errAmbiguous):
		return denyAmbiguous
	case errors.Is(err, errBadCredential):
		return x.badCredential()
	default:
		return denyUnavailable.because(err)
	}
	if p != nil && p.Kind == kindSession {
		return x.checkOrigin()
	}
	return nil
}

// badCredential counts bad keys against the address. Sessions end by themselves all the time, and their owners must get to the
// login page however often they asked.
func (x *exchange) badCredential() *denial {
	switch {
	case len(x.r.Header["Authorization"]) > 0:
		if q, ok := x.gate.badCredentials.take(addressKey(x.client), x.gate.now()); !ok {
			return denyRate.after(q.wait)
		}
	case x.route.public:
		return nil
	}
	return denyCredential
}

// checkOrigin refuses what another site's page makes a browser do with its session. Opening a WebSocket is a GET, but what
// it can do afterwards is not.
func (x *exchange) checkOrigin() *denial {
	r := x.r
	if len(r.Header["Upgrade"]) > 0 {
		r = &http.Request{Method: http.MethodPost, Host: r.Host, Header: r.Header, URL: r.URL}
	}
	if err := x.gate.csrf.Check(r); err != nil {
		return denyCrossSite.because(err)
	}
	return nil
}

func (x *exchange) limitAccount() *denial {
	if x.principal == nil {
		return nil
	}
	now := x.gate.now()
	if d := x.count(x.gate.byAccount.take(x.principal.Subject, now)); d != nil {
		return d
	}
	if l := x.gate.routes.Load().limiters[x.route]; l != nil && x.route.Rate.By == byAccount {
		return x.count(l.take(x.principal.Subject, now))
	}
	return nil
}

func (x *exchange) authorise() *denial {
	switch {
	case x.principal == nil && x.route.public:
		return nil
	case x.principal == nil:
		return denyAnonymous
	case !x.route.public && !slices.ContainsFunc(x.route.Allow, func(role string) bool { return slices.Contains(x.principal.Roles, role) }):
		return denyRole
	case !x.principal.hasScopes(x.route.Scopes):
		return denyScope
	}
	return nil
}

func (x *exchange) sign() *denial {
	if x.principal == nil {
		return nil
	}
	token, err := x.gate.signer.identity(x.principal, x.route.upstream, x.id)
	if err != nil {
		return denyInternal.because(err)
	}
	x.token, x.id = token, token.request
	return nil
}

// forward passes the request on and returns when the answer has gone out.
func (x *exchange) forward() *denial {
	ctx, cancel := context.WithCancelCause(context.WithValue(x.r.Context(), exchangeKey{}, x))
	defer cancel(nil)
	timeout := time.Duration(x.route.Timeout)
	x.cancel = cancel
	x.timer = time.AfterFunc(timeout, func() { cancel(errUpstreamTimeout) })
	defer x.timer.Stop()
	defer func() {
		if x.stream != nil {
			x.gate.streams.remove(x.stream)
		}
	}()
	if x.r.Body != nil && x.r.Body != http.NoBody {
		x.body = newTimedBody(http.MaxBytesReader(x.w.ResponseWriter, x.r.Body, int64(x.route.MaxBody)), x.w.control, timeout)
		x.r.Body = x.body
		if d := x.readSmallBody(); d != nil {
			return d
		}
	}
	proxy := x.gate.routes.Load().plain
	if x.route.Stream {
		proxy = x.gate.routes.Load().streamed
	}
	proxy.ServeHTTP(x.w, x.r.WithContext(ctx))
	return nil
}

// smallBody is the size up to which a body is read before the upstream is asked. One packet to the upstream then does instead of two,
// which costs both sides less, and a client that sends slowly holds none of its connections.
const smallBody = 8 << 10

// readSmallBody reads a small body up to its end, so that one which is longer than it was said to be, as HTTP/2 allows to try, is
// refused before the upstream is asked. One that the upstream must first agree to get is not read ahead.
func (x *exchange) readSmallBody() *denial {
	if x.r.ContentLength < 0 || x.r.ContentLength > smallBody || len(x.r.Header["Expect"]) > 0 {
		return nil
	}
	whole := make([]byte, x.r.ContentLength)
	_, err := io.ReadFull(x.body, whole)
	if err == nil {
		err = atEnd(x.body)
	}
	if err != nil {
		if x.body.late() {
			return denySlow.because(err)
		}
		x.code = "client_gone"
		panic(http.ErrAbortHandler)
	}
	x.body.end()
	x.whole = whole
	return nil
}

var errLonger = errors.New("the body is longer than its length")

// atEnd returns an error unless the body ends here.
func atEnd(body io.Reader) error {
	var more [1]byte
	n, err := io.ReadFull(body, more[:])
	switch {
	case n > 0:
		return errLonger
	case errors.Is(err, io.EOF):
		return nil
	}
	return err
}

// refusalPatience is how long the rest of a refused request's body is waited for: net/http reads it before it answers, so that the
// connection can be used again.
const refusalPatience = 2 * time.Second

// deny answers with a denial, unless an answer is under way: then the connection is cut, so that the client cannot take half
// an answer for a whole one.
func (x *exchange) deny(d *denial) {
	x.code, x.cause = d.code, d.cause
	if x.w.status != 0 {
		panic(http.ErrAbortHandler)
	}
	if x.body == nil && x.r.Body != nil && x.r.Body != http.NoBody || x.body != nil && !x.body.whole.Load() && !x.body.late() {
		_ = x.w.control.SetReadDeadline(time.Now().Add(refusalPatience)) // servers without deadlines go without
	}
	x.quota.write(x.w.Header())
	x.w.Header().Set("X-Request-Id", x.id)
	x.writeDenial(d)
}

// report logs the request: ids and outcomes, nothing a client wrote beyond method and path.
func (x *exchange) report(started time.Time) {
	level := slog.LevelDebug
	switch {
	case x.code == "internal" || x.code == "unavailable" || strings.HasPrefix(x.code, "upstream_"):
		level = slog.LevelError
	case x.code != "":
		level = slog.LevelInfo
	}
	ctx := context.WithoutCancel(x.r.Context())
	if !x.gate.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("request_id", x.id), slog.String("method", x.r.Method), slog.String("path", x.path), slog.Int("status", x.w.status),
		slog.String("client", x.client.String()), slog.Duration("took", time.Since(started)),
	}
	if x.code != "" {
		attrs = append(attrs, slog.String("code", x.code))
	}
	if x.cause != nil {
		attrs = append(attrs, slog.String("cause", x.cause.Error()))
	}
	if x.principal != nil {
		attrs = append(attrs, slog.String("user", x.principal.Subject), slog.String("credential", x.principal.Credential))
	}
	x.gate.log.LogAttrs(ctx, level, "request", attrs...)
}

// clientOf returns the client's address and scheme. What a request says of them counts only when a trusted proxy sent it; of
// a chain of addresses, the last that is not a trusted proxy's is the client's.
func (g *Gate) clientOf(r *http.Request) (netip.Addr, string) {
	proto := "http"
	if r.TLS != nil {
		proto = "https"
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	peer, err := netip.ParseAddr(host)
	if err != nil {
		return netip.IPv6Unspecified(), proto
	}
	peer = peer.Unmap()
	if !g.trusts(peer) {
		return peer, proto
	}
	if p := r.Header.Values("X-Forwarded-Proto"); len(p) == 1 && (p[0] == "http" || p[0] == "https") {
		proto = p[0]
	}
	chain := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, text := range slices.Backward(chain) {
		addr, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			break
		}
		peer = addr.Unmap().WithZone("")
		if !g.trusts(peer) {
			break
		}
	}
	return peer, proto
}

func (g *Gate) trusts(a netip.Addr) bool {
	return slices.ContainsFunc(g.cfg.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(a) })
}
