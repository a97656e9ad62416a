package http

import (
	"cmp"
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"millrace"
	"millrace/db"
	"millrace/http/live"
)

// Limits of a request's body, unless Config says otherwise.
const (
	DefaultMaxBody     = 64 << 10 // bytes
	DefaultBodyTimeout = 10 * time.Second
)

// Config is what a Server is made of. Store, Hub and Identity are required.
type Config struct {
	Store *db.Store
	Hub   *live.Hub

	// Identity says who a request comes from, or why nobody can be recognized: any error is answered with 401, but for a
	// millrace.Error that says CodeUnavailable or CodeBusy. It is called once for every request, also to public paths.
	Identity func(*http.Request) (millrace.Principal, error)

	// Web serves the pages: everything that neither the API nor Extra has. "/", "/assets/" and "/docs" are public, "/admin" is for
	// operators, the rest for who is logged in. It learns who that is from PrincipalFrom. Nil for none.
	Web http.Handler

	// Extra handlers by ServeMux pattern, such as "/simulated/" or "POST /v1/webhooks/{provider}". They are public: each does its own
	// checks, and bounds the bodies it reads.
	Extra map[string]http.Handler

	Logger      *slog.Logger          // default slog.Default()
	Metrics     prometheus.Registerer // nil to keep none
	MaxBody     int64                 // of a call's body, in bytes; default DefaultMaxBody
	BodyTimeout time.Duration         // how long a call's body may take to arrive; default DefaultBodyTimeout
	Version     string                // of the API's implementation, for the OpenAPI document
}

// Server is the HTTP API. It is safe for concurrent use and holds no goroutines of its own.
type Server struct {
	config  Config
	mux     *http.ServeMux
	api     huma.API
	metrics *metrics
	handler http.Handler
	extra   *http.ServeMux // Config.Extra alone
	spec    spec
}

// NewServer makes a Server.
func NewServer(c Config) (*Server, error) {
	if c.Store == nil || c.Hub == nil || c.Identity == nil {
		return nil, errors.New("http.Config needs Store, Hub and Identity")
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	c.MaxBody = cmp.Or(c.MaxBody, DefaultMaxBody)
	c.BodyTimeout = cmp.Or(c.BodyTimeout, DefaultBodyTimeout)
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Server{config: c, mux: http.NewServeMux(), metrics: m, extra: http.NewServeMux()}
	s.api = newAPI(routes{s}, c.Version)
	s.registerOrders()
	s.registerCommands()
	s.registerEvents()
	s.registerStreams()
	s.registerProducts()
	s.registerInventory()
	s.registerCustomers()
	if s.spec, err = makeSpec(s.api.OpenAPI()); err != nil {
		return nil, err
	}
	s.spec.register(s.mux)
	for pattern, h := range c.Extra {
		s.mux.Handle(pattern, named(pattern, h))
		s.extra.Handle(pattern, h)
	}
	s.mux.HandleFunc("/", s.fallback)
	s.handler = s.observe(protect(s.hurry(canonical(s.authenticate(http.HandlerFunc(s.route))))))
	return s, nil
}

// Handler is all of the server: API, streams, documents and pages.
func (s *Server) Handler() http.Handler { return s.handler }

// OpenAPI is the document that describes the API, as JSON.
func (s *Server) OpenAPI() []byte { return slices.Clone(s.spec.json) }

// routes is the mux as Huma sees it.
type routes struct{ *Server }

// HandleFunc registers a handler of Huma's.
func (r routes) HandleFunc(pattern string, handler func(http.ResponseWriter, *http.Request)) {
	if pattern == "POST /v1/orders" {
		handler = r.express(handler)
	}
	r.mux.HandleFunc(pattern, handler)
}

// ServeHTTP is for the interface: requests come by Server.route.
func (r routes) ServeHTTP(w http.ResponseWriter, req *http.Request) { r.mux.ServeHTTP(w, req) }

// route hands a request to what its path names.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r.Context())
	defer func() { x.route = cmp.Or(x.route, r.Pattern) }() // deferred, so that a panic has its route
	s.mux.ServeHTTP(w, r)
}

// named makes h the handler of a pattern that is its route, whatever patterns a mux of its own finds below it.
func named(pattern string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		exchangeOf(r.Context()).route = pattern
		h.ServeHTTP(w, r)
	})
}

// fallback takes what no pattern names: the pages' paths, and what is nowhere. ServeMux would answer the latter in plain text.
func (s *Server) fallback(w http.ResponseWriter, r *http.Request) {
	allowed := s.methodsOf(r)
	below := strings.HasPrefix(r.URL.Path, "/v1/")
	if s.config.Web != nil && !below && len(allowed) == 0 {
		named("/", s.config.Web).ServeHTTP(w, r)
		return
	}
	exchangeOf(r.Context()).route = "none"
	if len(allowed) == 0 {
		WriteError(w, r, millrace.Errorf(millrace.CodeNotFound, "There is nothing at this path: see /openapi.json for what there is."))
		return
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	WriteError(w, r, millrace.Errorf(codeNotAllowed, "%s is not possible here: use %s.", r.Method, strings.Join(allowed, " or ")))
}

// methodsOf are the methods by which a path has a pattern of its own.
func (s *Server) methodsOf(r *http.Request) []string {
	var allowed []string
	probe := *r
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		probe.Method = method
		if _, pattern := s.mux.Handler(&probe); strings.HasPrefix(pattern, method+" ") {
			allowed = append(allowed, method)
		}
	}
	return allowed
}

// rule opens paths to an audience. The first that matches counts.
type rule struct {
	method, path string // any method if ""; a path that ends in "*" stands for all below it
	who          audience
}

// access is the table of who may reach what, before any handler runs. Operations narrow it; nothing widens it.
var access = []rule{
	{"GET", "/", public},
	{"GET", "/v1/products", public},
	{"GET", "/openapi.json", public},
	{"GET", "/openapi.yaml", public},
	{"GET", "/docs", public},
	{"GET", "/docs/*", public},
	{"GET", "/assets/*", public},
	{"GET", "/favicon.ico", public},
	{"", "/v1/*", participants},
	{"", "/orders", participants},
	{"", "/orders/*", participants},
	{"", "/admin", operators},
	{"", "/admin/*", operators},
}

// audienceOf is whom a request's path is open to. What no rule names needs an identity.
func (s *Server) audienceOf(r *http.Request) audience {
	if _, pattern := s.extra.Handler(r); pattern != "" {
		return public
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for _, rule := range access {
		root, below := strings.CutSuffix(rule.path, "*")
		if rule.method != "" && rule.method != method {
			continue
		}
		if r.URL.Path == rule.path || below && strings.HasPrefix(r.URL.Path, root) {
			return rule.who
		}
	}
	return signedIn
}
