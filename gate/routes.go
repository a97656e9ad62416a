package gate

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// public is the word in a route's allow list that lets everybody pass.
const public = "public"

const maxRoutesFile = 1 << 20

// Routes says which requests go to which upstream, and who may make them. It is read from YAML and never changed.
type Routes struct {
	Hosts     []string            `yaml:"hosts"` // names that this site is asked by; default: any
	Upstreams map[string]Upstream `yaml:"upstreams"`
	Routes    []Route             `yaml:"routes"`
	SignUp    []string            `yaml:"sign_up"` // roles of who signs up; default: nobody can
	OIDC      []OIDCProvider      `yaml:"oidc"`    // where else people can log in

	hosts map[string][]*place // by host, "" for any; each list longest path first
}

// Upstream is a service behind the gate.
type Upstream struct {
	URL      string `yaml:"url"`      // http or https, without a path
	Audience string `yaml:"audience"` // whom identity tokens are for; default: the upstream's name
	// ReuseTokens is for how long requests of the same credential share a token, which then does not name them. Default: each
	// request has its own. At most maxReuse.
	ReuseTokens Duration `yaml:"reuse_tokens"`

	name   string
	target *url.URL
}

// Route is one entry. Only path, upstream and allow are required.
type Route struct {
	Host     string   `yaml:"host"`     // default: any
	Path     string   `yaml:"path"`     // "/a/": all below it; "/a": itself alone; "/a/{$}": "/a/" alone
	Methods  []string `yaml:"methods"`  // default: any; GET includes HEAD
	Upstream string   `yaml:"upstream"` // name of an entry in upstreams, or a URL
	Allow    []string `yaml:"allow"`    // roles, any of which will do; or public
	Scopes   []string `yaml:"scopes"`   // scopes, all of which an API key must have
	MaxBody  ByteSize `yaml:"max_body"` // default 1MiB
	Timeout  Duration `yaml:"timeout"`  // for the whole answer, default 30s; streams have none once they began
	Stream   bool     `yaml:"stream"`   // event streams and WebSockets may pass
	Rate     *Rate    `yaml:"rate"`     // default: the gate's own limits alone

	upstream *Upstream
	public   bool
	exact    bool
	prefix   string
}

// Rate limits how often one client may use a route.
type Rate struct {
	Requests int      `yaml:"requests"` // how many
	Per      Duration `yaml:"per"`      // in how long
	Burst    int      `yaml:"burst"`    // how many at once; default: Requests
	By       string   `yaml:"by"`       // address (default) or account
}

// place is all routes of one host and path; they differ by method.
type place struct {
	path   string
	exact  bool
	routes []*Route
}

// ParseRoutes reads a routes file and checks it as a whole. The error lists every fault, each with what to change.
func ParseRoutes(text []byte) (*Routes, error) {
	if len(text) > maxRoutesFile {
		return nil, invalid("the routes file must be at most %d bytes long", maxRoutesFile)
	}
	var t Routes
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&t); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, invalid("the routes file is empty: it must list at least one route")
		}
		return nil, invalid("the routes file is not valid: %s", err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, invalid("the routes file must hold a single YAML document")
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	return &t, nil
}

func (t *Routes) check() error {
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, invalid(format, args...)) }
	for name, u := range t.Upstreams {
		if !roleName(name) {
			fault("upstream %q: the name must be 1 to 64 of a-z, 0-9, '_', '-', '.' and ':'", name)
		}
		if err := u.resolve(name); err != nil {
			fault("upstream %q: %s", name, err)
		}
		t.Upstreams[name] = u
	}
	if len(t.Routes) == 0 {
		fault("the routes file must list at least one route")
	}
	if err := checkRoles(t.SignUp); err != nil {
		fault("sign_up: %s", err)
	}
	for i := range t.OIDC {
		if err := t.OIDC[i].check(t.OIDC[:i]); err != nil {
			fault("oidc provider %d (%s): %s", i+1, t.OIDC[i].Name, err)
		}
	}
	for i, host := range t.Hosts {
		if t.Hosts[i] = canonicalHost(host); t.Hosts[i] == "" || strings.ContainsAny(host, badInHost+"*") {
			fault("hosts: %q is not the name of a host", host)
		}
	}
	t.hosts = map[string][]*place{}
	for i := range t.Routes {
		r := &t.Routes[i]
		found := r.resolve(t.Upstreams)
		if len(found) == 0 {
			if err := t.add(r); err != nil {
				found = append(found, err)
			}
		}
		for _, err := range found {
			fault("route %d (%s): %s", i+1, r.Path, err)
		}
	}
	for _, places := range t.hosts {
		slices.SortStableFunc(places, func(a, b *place) int {
			if c := cmp.Compare(len(b.path), len(a.path)); c != 0 {
				return c
			}
			if a.exact != b.exact && a.exact {
				return -1
			}
			return 1
		})
	}
	return errors.Join(faults...)
}

func (u *Upstream) resolve(name string) error {
	target, err := url.Parse(u.URL)
	switch {
	case err != nil || target.Host == "" || target.Scheme != "http" && target.Scheme != "https":
		return invalid("url %q must look like http://127.0.0.1:9000", u.URL)
	case target.Path != "" && target.Path != "/" || target.RawQuery != "" || target.Fragment != "" || target.User != nil:
		return invalid("url %q must name scheme, host and port only", u.URL)
	}
	if u.ReuseTokens < 0 || u.ReuseTokens > Duration(maxReuse) {
		return invalid("reuse_tokens must be between 0s and %s", maxReuse)
	}
	target.Path = ""
	u.target, u.name = target, name
	u.Audience = cmp.Or(u.Audience, name)
	return nil
}

func (r *Route) resolve(upstreams map[string]Upstream) (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, invalid(format, args...)) }

	r.prefix, r.exact = strings.CutSuffix(r.Path, "{$}")
	r.exact = r.exact || !strings.HasSuffix(r.prefix, "/")
	if canonical, err := canonicalPath(r.prefix); err != nil {
		fault("path: %s", err)
	} else if canonical != r.prefix || strings.ContainsAny(r.prefix, "{}*?") {
		fault("path must be a plain path, not encoded and without wildcards; it ends in '/' for all that is below it")
	}
	if isOwnPath(r.prefix) {
		fault("paths below /auth/ and the key set's own belong to the gate")
	}
	r.Host = canonicalHost(r.Host)
	if u, ok := upstreams[r.Upstream]; ok {
		r.upstream = &u
	} else if strings.Contains(r.Upstream, "://") {
		u := Upstream{URL: r.Upstream}
		if err := u.resolve(strings.ToLower(strings.TrimSuffix(r.Upstream[strings.Index(r.Upstream, "://")+3:], "/"))); err != nil {
			fault("upstream: %s", err)
		}
		r.upstream = &u
	} else {
		fault("upstream %q is neither listed under upstreams nor a URL", r.Upstream)
	}
	r.public = slices.Contains(r.Allow, public)
	switch {
	case len(r.Allow) == 0:
		fault("allow must list the roles that may pass, or public")
	case r.public && len(r.Allow) > 1:
		fault("allow lists public, which includes everyone: name nothing else")
	case !r.public && checkRoles(r.Allow) != nil:
		fault("allow: %s", checkRoles(r.Allow))
	}
	if err := checkRoles(r.Scopes); err != nil {
		fault("scopes: %s", err)
	}
	for i, m := range r.Methods {
		r.Methods[i] = strings.ToUpper(m)
		if m == "" || strings.ContainsFunc(m, func(c rune) bool { return c < 'A' || c > 'z' || c > 'Z' && c < 'a' }) || m == http.MethodConnect || m == http.MethodTrace {
			fault("methods: %q cannot be allowed", m)
		}
	}
	if r.MaxBody == 0 {
		r.MaxBody = 1 << 20
	}
	if r.Timeout == 0 {
		r.Timeout = Duration(30 * time.Second)
	}
	if r.Rate != nil {
		r.Rate.By = cmp.Or(r.Rate.By, byAddress)
		r.Rate.Burst = cmp.Or(r.Rate.Burst, r.Rate.Requests)
		if r.Rate.Requests < 1 || r.Rate.Per < Duration(time.Millisecond) || r.Rate.Burst < 1 || r.Rate.By != byAddress && r.Rate.By != byAccount {
			fault("rate needs requests (1 or more) and per (such as 1s); by is %s or %s", byAddress, byAccount)
		}
	}
	return faults
}

// add files a route under its place, and refuses one that another there hides.
func (t *Routes) add(r *Route) error {
	places := t.hosts[r.Host]
	at := slices.IndexFunc(places, func(p *place) bool { return p.path == r.prefix && p.exact == r.exact })
	if at < 0 {
		t.hosts[r.Host] = append(places, &place{path: r.prefix, exact: r.exact, routes: []*Route{r}})
		return nil
	}
	for _, other := range places[at].routes {
		if len(r.Methods) == 0 && len(other.Methods) == 0 {
			return invalid("another route has the same host and path: tell them apart by methods")
		}
		for _, m := range r.Methods {
			if slices.Contains(other.Methods, m) {
				return invalid("another route has the same host, path and method %s", m)
			}
		}
	}
	places[at].routes = append(places[at].routes, r)
	return nil
}

// answersTo reports whether this site is asked by the name in a Host header: one of those listed, or one that a route names.
func (t *Routes) answersTo(host string) bool {
	if len(t.Hosts) == 0 {
		return true
	}
	host = canonicalHost(host)
	return slices.Contains(t.Hosts, host) || host != "" && t.hosts[host] != nil
}

// match returns the route for a canonical path. The longest path of the host wins, an exact one before a prefix, and only then
// do methods count: a method that the longest does not list is refused, never passed to a shorter and laxer one.
func (t *Routes) match(host, path, method string) (route *Route, allowed []string) {
	host = canonicalHost(host)
	p := findPlace(t.hosts[host], path)
	if p == nil && host != "" {
		p = findPlace(t.hosts[""], path)
	}
	if p == nil {
		return nil, nil
	}
	var rest *Route
	for _, r := range p.routes {
		if len(r.Methods) == 0 {
			rest = r
		}
		if slices.Contains(r.Methods, method) || method == http.MethodHead && slices.Contains(r.Methods, http.MethodGet) {
			return r, nil
		}
		allowed = append(allowed, r.Methods...)
	}
	return rest, allowed
}

func findPlace(places []*place, path string) *place {
	for _, p := range places {
		if p.path == path || !p.exact && strings.HasPrefix(path, p.path) {
			return p
		}
	}
	return nil
}

// canonicalHost lower-cases a host and drops port and root dot.
func canonicalHost(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

func isOwnPath(path string) bool {
	return path == "/auth" || strings.HasPrefix(path, "/auth/") || path == jwksPath
}

// String describes the route in one line, for `gate routes`.
func (r *Route) String() string {
	return fmt.Sprintf("%s%s %s -> %s (%s)", r.Host, r.Path, cmp.Or(strings.Join(r.Methods, ","), "any method"), r.upstream.URL, strings.Join(r.Allow, ", "))
}

// Sorted returns the routes in the order in which they are tried: by host, those for any host last, and longest path first.
func (t *Routes) Sorted() []*Route {
	hosts := slices.Sorted(maps.Keys(t.hosts))
	slices.Reverse(hosts)
	var out []*Route
	for _, host := range hosts {
		for _, p := range t.hosts[host] {
			out = append(out, p.routes...)
		}
	}
	return out
}
