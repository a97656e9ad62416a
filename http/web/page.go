package web

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"

	"millrace"
)

//go:embed templates
var templateFiles embed.FS

// Content security policies. Pages load their own scripts and styles and nothing else. Swagger UI's style sheet holds its icons. River
// UI sets styles from its scripts, which is why its policy, and no other, allows inline styles. None allows an inline script.
const (
	strictPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	docsPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	riverPolicy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; " +
		"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

// secure sets the headers that every answer of this package carries.
func secure(h http.Header) {
	h.Set("Content-Security-Policy", strictPolicy)
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
	// With no-referrer a form would be sent with "Origin: null", which the gate takes for another site's.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
}

// access is who may open a page.
type access int

const (
	anyone   access = iota
	member          // whoever is logged in
	operator        // operators alone
)

// view is a page to be rendered: its template, what the frame shows around it, and what the template shows.
type view struct {
	Template string
	Title    string
	Section  string // the entry of the navigation that it belongs to
	Script   string // the module it loads, if any
	Policy   string // the content security policy, strictPolicy if empty
	Data     any

	// The rest is filled in by render.
	Principal *millrace.Principal // nil if nobody is logged in
	Here      string              // path and query, to come back to after login
}

// IsOperator reports whether an operator looks at the page.
func (v *view) IsOperator() bool { return v.Principal != nil && v.Principal.Is(millrace.RoleOperator) }

// Words are what the page's module shows states and events by.
func (v *view) Words() words { return wordsFor(v.IsOperator()) }

// parseTemplates parses each page's template together with the frame and the parts that pages share.
func parseTemplates(a *assets) (map[string]*template.Template, error) {
	files, err := templateFiles.ReadDir("templates")
	if err != nil {
		return nil, fmt.Errorf("read the templates: %w", err)
	}
	out := map[string]*template.Template{}
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), ".html")
		if !ok || name == "layout" || name == "parts" {
			continue
		}
		t, err := template.New(name).Funcs(functions).Funcs(template.FuncMap{"asset": a.path}).
			ParseFS(templateFiles, "templates/layout.html", "templates/parts.html", "templates/"+f.Name())
		if err != nil {
			return nil, fmt.Errorf("parse a page's template: %w", err)
		}
		out[name] = t
	}
	return out, nil
}

// page makes a handler of a function that looks up what a page shows. The principal is nil where anyone may look and nobody is logged in.
func (w *Web) page(a access, look func(*http.Request, *millrace.Principal) (*view, error)) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		p, err := w.admit(a, r)
		if err != nil {
			w.fail(rw, r, p, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), readTimeout)
		defer cancel()
		v, err := look(r.WithContext(ctx), p)
		if err != nil {
			w.fail(rw, r, p, err)
			return
		}
		w.render(rw, r, p, http.StatusOK, v)
	})
}

// admit is who asks, and an error if they may not.
func (w *Web) admit(a access, r *http.Request) (*millrace.Principal, error) {
	p, err := w.config.Identity(r)
	switch {
	case err == nil && (a != operator || p.Is(millrace.RoleOperator)):
		return &p, nil
	case err == nil:
		return &p, millrace.Errorf(millrace.CodeForbidden, "This page is for operators. Your account is not one.")
	case a == anyone && millrace.ErrorCode(err) == millrace.CodeUnauthorized:
		return nil, nil
	}
	return nil, err
}

// render writes the page. It is put together first, so that a failure never leaves half a page.
func (w *Web) render(rw http.ResponseWriter, r *http.Request, p *millrace.Principal, status int, v *view) {
	v.Principal, v.Here = p, r.URL.RequestURI()
	var b bytes.Buffer
	if err := w.templates[v.Template].ExecuteTemplate(&b, "layout", v); err != nil {
		if v.Template == "error" {
			http.Error(rw, "The page could not be put together.", http.StatusInternalServerError)
		} else {
			w.fail(rw, r, p, fmt.Errorf("put together the page %s: %w", v.Template, err))
		}
		return
	}
	h := rw.Header()
	if v.Policy != "" {
		h.Set("Content-Security-Policy", v.Policy)
	}
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	rw.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = rw.Write(b.Bytes()) // a client that went away cannot be told
	}
}

// fail answers for an error: with its public message alone, never its cause, which is logged where it is ours.
func (w *Web) fail(rw http.ResponseWriter, r *http.Request, p *millrace.Principal, err error) {
	code, message := millrace.ErrorCode(err), "Something went wrong on our side. It has been noted; try again in a moment."
	var e *millrace.Error
	if errors.As(err, &e) && code != millrace.CodeInternal {
		message = e.Message
	}
	status := statusOf(code)
	if status >= http.StatusInternalServerError && r.Context().Err() == nil {
		w.config.Logger.ErrorContext(r.Context(), "web: a page could not be served", "path", r.URL.Path, "error", err)
	}
	w.refuse(rw, r, p, status, string(code), message)
}

// statusOf is the status of a page that cannot be shown. Pages only read, so that they meet few codes; the API has a table of them all.
func statusOf(c millrace.Code) int {
	switch c {
	case millrace.CodeInvalid:
		return http.StatusBadRequest
	case millrace.CodeUnauthorized:
		return http.StatusUnauthorized
	case millrace.CodeForbidden:
		return http.StatusForbidden
	case millrace.CodeNotFound:
		return http.StatusNotFound
	case millrace.CodeBusy, millrace.CodeUnavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// refusal is what the error page shows.
type refusal struct {
	Status    int
	Message   string
	RequestID string // by which an operator finds it in the log
}

func (w *Web) refuse(rw http.ResponseWriter, r *http.Request, p *millrace.Principal, status int, code, message string) {
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		title := map[int]string{http.StatusUnauthorized: "Log in first", http.StatusForbidden: "Not for you", http.StatusNotFound: "Not found",
			http.StatusServiceUnavailable: "Back in a moment"}[status]
		if title == "" {
			title = "This did not work"
		}
		w.render(rw, r, p, status, &view{Template: "error", Title: title,
			Data: refusal{Status: status, Message: message, RequestID: r.Header.Get("X-Request-Id")}})
		return
	}
	rw.Header().Set("Content-Type", "application/problem+json")
	rw.Header().Set("Cache-Control", "no-store")
	rw.WriteHeader(status)
	// A client that went away cannot be told.
	_ = json.NewEncoder(rw).Encode(map[string]any{"title": http.StatusText(status), "status": status, "code": code, "detail": message})
}
