package http

import (
	"errors"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"

	"millrace"
	"millrace/db"
	"millrace/http/live"
)

// DefaultMaxBody is how many bytes a request's body may have, unless Config.MaxBody says otherwise.
const DefaultMaxBody = 64 << 10

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

	Logger  *slog.Logger          // default slog.Default()
	Metrics prometheus.Registerer // nil to keep none
	MaxBody int64                 // of a call's body, in bytes; default DefaultMaxBody
	Version string                // of the API's implementation, for the OpenAPI document
}

// Server is the HTTP API. It is safe for concurrent use and holds no goroutines of its own.
type Server struct {
	config  Config
	mux     *http.ServeMux
	api     huma.API
	metrics *metrics
	handler http.Handler
	access  []rule
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
	if c.MaxBody == 0 {
		c.MaxBody = DefaultMaxBody
	}
	m, err := newMetrics(c.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Server{config: c, mux: http.NewServeMux(), metrics: m, access: accessRules(c.Extra)}
	s.api = newAPI(s.mux, c.Version)
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
		s.mux.Handle(pattern, h)
	}
	if c.Web != nil {
		s.mux.Handle("/", c.Web)
	}
	s.handler = s.observe(protect(canonical(s.authenticate(http.HandlerFunc(s.route)))))
	return s, nil
}

// Handler is all of the server: API, streams, documents and pages.
func (s *Server) Handler() http.Handler { return s.handler }

// OpenAPI is the document that describes the API, as JSON.
func (s *Server) OpenAPI() []byte { return slices.Clone(s.spec.json) }

// route hands a request to what its path names. What ServeMux would answer in plain text is a problem.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r.Context())
	h, pattern := s.mux.Handler(r)
	if pattern == "" || strings.HasPrefix(r.URL.Path, "/v1/") && pattern == "/" {
		s.unrouted(w, r, h, pattern)
		return
	}
	defer func() { x.route = pattern }() // deferred, since a handler's own mux sets r.Pattern, not the route
	s.mux.ServeHTTP(w, r)
}

// unrouted answers what no pattern names: 405 where another method would do, else 404.
func (s *Server) unrouted(w http.ResponseWriter, r *http.Request, h http.Handler, pattern string) {
	said := &said{header: make(http.Header)}
	if pattern == "" {
		h.ServeHTTP(said, r)
	} else if allowed := s.methodsOf(r); len(allowed) > 0 {
		said.status = http.StatusMethodNotAllowed
		said.header.Set("Allow", strings.Join(allowed, ", "))
	}
	if said.status == http.StatusMethodNotAllowed {
		allowed := said.header.Get("Allow")
		w.Header().Set("Allow", allowed)
		WriteError(w, r, millrace.Errorf(codeNotAllowed, "%s is not possible here: use %s.", r.Method, allowed))
		return
	}
	WriteError(w, r, millrace.Errorf(millrace.CodeNotFound, "There is nothing at this path: see /openapi.json for what there is."))
}

// methodsOf are the methods that the API has for a path. ServeMux does not say where the pages' pattern, which takes all paths and
// methods, takes this one.
func (s *Server) methodsOf(r *http.Request) []string {
	var allowed []string
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := s.mux.Handler(other); strings.HasPrefix(pattern, method+" ") {
			allowed = append(allowed, method)
		}
	}
	return allowed
}

// said is an answer that goes nowhere.
type said struct {
	header http.Header
	status int
}

func (s *said) Header() http.Header         { return s.header }
func (s *said) Write(b []byte) (int, error) { return len(b), nil }
func (s *said) WriteHeader(status int)      { s.status = status }

// rule opens paths to an audience. The first that matches counts.
type rule struct {
	method, path string // any method if ""; a path that ends in "/" stands for all below it
	who          audience
}

// accessRules is the table of who may reach what, before any handler runs. Operations narrow it; nothing widens it.
func accessRules(extra map[string]http.Handler) []rule {
	var rules []rule
	for pattern := range extra {
		method, path, found := strings.Cut(pattern, " ")
		if !found {
			method, path = "", pattern
		}
		if i := strings.IndexByte(path, '{'); i >= 0 {
			path = path[:i]
		}
		rules = append(rules, rule{method, path, public})
	}
	return append(rules,
		rule{"GET", "/v1/products", public},
		rule{"GET", "/openapi.json", public},
		rule{"GET", "/openapi.yaml", public},
		rule{"GET", "/docs", public},
		rule{"GET", "/docs/", public},
		rule{"GET", "/assets/", public},
		rule{"GET", "/favicon.ico", public},
		rule{"", "/v1/", participants},
		rule{"", "/orders/", participants},
		rule{"", "/admin", operators},
		rule{"", "/admin/", operators},
	)
}

// audienceOf is whom a request's path is open to. The front page is public; what no rule names needs an identity.
func (s *Server) audienceOf(r *http.Request) audience {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	for _, rule := range s.access {
		below := strings.HasSuffix(rule.path, "/") && strings.HasPrefix(r.URL.Path, rule.path)
		if (rule.method == "" || rule.method == method) && (below || r.URL.Path == rule.path) {
			return rule.who
		}
	}
	if r.URL.Path == "/" && method == http.MethodGet {
		return public
	}
	return signedIn
}
