package http

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"millrace"
)

// answer remembers what was answered. It passes flushes and deadlines on to the connection.
type answer struct {
	http.ResponseWriter
	status int // 0 before the answer has begun
}

func (a *answer) WriteHeader(status int) {
	if a.status == 0 && status >= http.StatusOK {
		a.status = status
	}
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return a.ResponseWriter.Write(b)
}

// Flush is for the streams, which look for it.
func (a *answer) Flush() {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	_ = http.NewResponseController(a.ResponseWriter).Flush() // a client that is gone is noticed by the next write
}

func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// observe measures and logs. It is outermost, so that it sees what all others answer.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		x := &exchange{id: requestID(r)}
		a := &answer{ResponseWriter: w}
		a.Header().Set("X-Request-Id", x.id)
		defer func() {
			took := time.Since(start)
			s.metrics.observe(x.route, a.status, took)
			s.log(r, x, a.status, took)
		}()
		next.ServeHTTP(a, withExchange(r, x))
	})
}

// log writes one line for a request that failed: our own failures as errors, with their cause; what clients get wrong only for those
// who debug.
func (s *Server) log(r *http.Request, x *exchange, status int, took time.Duration) {
	level := slog.LevelDebug
	switch {
	case millrace.ErrorCode(x.err) == millrace.CodeBusy: // who is overloaded has no time to say so each time; the metrics do
	case status == http.StatusServiceUnavailable:
		level = slog.LevelWarn
	case status >= http.StatusInternalServerError:
		level = slog.LevelError
	}
	ctx := r.Context()
	if !s.config.Logger.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{slog.String("request_id", x.id), slog.String("method", r.Method), slog.String("route", x.route),
		slog.Int("status", status), slog.Duration("took", took)}
	if x.principal != nil {
		attrs = append(attrs, slog.String("subject", x.principal.Subject))
	}
	if x.err != nil {
		attrs = append(attrs, slog.String("error", x.err.Error()))
	}
	s.config.Logger.LogAttrs(ctx, level, "request", attrs...)
}

// protect sets the headers that browsers heed, and turns a panic into a 500. http.ErrAbortHandler is a way to end a connection, and
// so is a panic once the answer has begun.
func protect(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			x := exchangeOf(r.Context())
			err := errors.Join(x.err, fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
			if a, ok := w.(*answer); ok && a.status != 0 {
				x.err = err
				panic(http.ErrAbortHandler)
			}
			x.err = nil
			WriteError(w, r, err)
		}()
		next.ServeHTTP(w, r)
	})
}

// hurry bounds the time that a body may take to arrive, also of a request that is refused without a look at it: before it answers,
// net/http waits for the rest of a small body. Once a body is there, net/http lifts the deadline.
func (s *Server) hurry(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// What cannot have a deadline has no connection.
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.config.BodyTimeout))
		}
		next.ServeHTTP(w, r)
	})
}

// canonical refuses what could be read in two ways: paths with empty or dot segments, queries that do not decode, and parameters given
// twice. What it lets through has one spelling.
func canonical(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := checkPath(r.URL); err != nil {
			WriteError(w, r, err)
			return
		}
		if r.URL.RawQuery != "" {
			query, err := checkQuery(r.URL.RawQuery)
			if err != nil {
				WriteError(w, r, err)
				return
			}
			u := *r.URL
			u.RawQuery = query.Encode()
			r2 := new(http.Request)
			*r2 = *r
			r2.URL = &u
			r = r2
		}
		next.ServeHTTP(w, r)
	})
}

func checkPath(u *url.URL) error {
	clean := path.Clean(u.Path)
	if clean != "/" && strings.HasSuffix(u.Path, "/") {
		clean += "/"
	}
	if u.Path != clean || !utf8.ValidString(u.Path) || strings.ContainsFunc(u.Path, func(r rune) bool { return r < ' ' || r == '\\' }) {
		return millrace.Errorf(millrace.CodeInvalid, "Write the path in UTF-8 and without empty or dot segments.")
	}
	return nil
}

func checkQuery(raw string) (url.Values, error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return nil, millrace.Errorf(millrace.CodeInvalid, "The query string cannot be decoded: percent-encode what is special in it.")
	}
	for name, values := range query {
		if !utf8.ValidString(name) || strings.ContainsRune(name, 0) {
			return nil, millrace.Errorf(millrace.CodeInvalid, "The name of a query parameter is not UTF-8 text.")
		}
		if len(values) > 1 {
			return nil, millrace.InvalidField("query."+name, "The query parameter %s is given more than once.", name)
		}
		if !utf8.ValidString(values[0]) || strings.ContainsRune(values[0], 0) {
			return nil, millrace.InvalidField("query."+name, "The query parameter %s is not UTF-8 text.", name)
		}
	}
	return query, nil
}

// authenticate finds out who is asking and whether the path is open to them. A public path takes anyone, known or not.
func (s *Server) authenticate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchangeOf(r.Context())
		who := s.audienceOf(r)
		principal, err := s.config.Identity(r)
		if err == nil {
			x.principal = &principal
		} else if who != public {
			WriteError(w, r, identityError(err))
			return
		}
		if err := who.admits(x.principal); err != nil {
			WriteError(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// identityError is 401, unless the identity could not be checked at all.
func identityError(err error) error {
	if code := millrace.ErrorCode(err); code == millrace.CodeUnavailable || code == millrace.CodeBusy {
		return err
	}
	return errUnauthorized(err)
}

// audience says who may ask.
type audience int

const (
	signedIn     audience = iota // anyone with an identity; a handler of its own says more
	public                       // anyone
	participants                 // customers and operators
	operators
)

// admits returns nil where p is part of the audience, p being nil for who has no identity.
func (who audience) admits(p *millrace.Principal) error {
	if who == public {
		return nil
	}
	switch {
	case p == nil:
		return errUnauthorized(nil)
	case who == operators && !p.Is(millrace.RoleOperator):
		return millrace.Errorf(millrace.CodeForbidden, "Only operators may do this.")
	case who == participants && !p.Is(millrace.RoleOperator) && !p.Is(millrace.RoleCustomer):
		return millrace.Errorf(millrace.CodeForbidden, "Only customers and operators may do this: ask for one of these roles.")
	}
	return nil
}

// bounded gives a request's work a deadline.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, handlerTimeout)
}

// handlerTimeout bounds an API call's work once its body is there; it is a little longer than the store's own limits.
const handlerTimeout = 30 * time.Second
