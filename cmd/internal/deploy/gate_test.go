package deploy

import (
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"millrace/gate"
)

func routes(t testing.TB) *gate.Routes {
	t.Helper()
	text, err := os.ReadFile("gate.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r, err := gate.ParseRoutes(text)
	if err != nil {
		t.Fatalf("gate.yaml: %v", err)
	}
	return r
}

func TestEachUpstreamOfTheGateIsAService(t *testing.T) {
	t.Parallel()
	p := project(t)
	for name, upstream := range routes(t).Upstreams {
		u, err := url.Parse(upstream.URL)
		if err != nil {
			t.Fatal(err)
		}
		listens := p.Services[u.Hostname()].Environment["MILLRACE_ADDR"]
		if listens == nil {
			t.Errorf("upstream %s is at %s, which is no service that listens", name, u.Hostname())
			continue
		}
		if _, port, err := net.SplitHostPort(*listens); err != nil || port != u.Port() {
			t.Errorf("upstream %s is at %s, its service listens at %s", name, u.Host, *listens)
		}
	}
	audience := routes(t).Upstreams["millrace"].Audience
	if audience != "millrace" {
		t.Errorf("identity tokens for Millrace are made out to %q, and it would refuse them", audience)
	}
}

func TestOnlyWhatIsMeantForAllIsPublic(t *testing.T) {
	t.Parallel()
	want := []string{
		"GET /assets/", "GET /docs", "GET /docs/", "GET /favicon.ico", "GET /openapi.json", "GET /openapi.yaml", "GET /v1/products", "GET /{$}",
	}
	var got []string
	for _, r := range routes(t).Routes {
		if slices.Contains(r.Allow, "public") {
			got = append(got, strings.Join(r.Methods, ",")+" "+r.Path)
		}
		if strings.HasPrefix(r.Path, "/admin/") && !slices.Equal(r.Allow, []string{"operator"}) {
			t.Errorf("%s is open to %v", r.Path, r.Allow)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("public are %v, want %v", got, want)
	}
}
