package main

import (
	"html"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// origins are what a browser says of the page that a request comes from.
func origins(scheme string) map[string]struct {
	headers []string
	allowed bool
} {
	own := scheme + "://" + host
	type said = struct {
		headers []string
		allowed bool
	}
	return map[string]said{
		"our page":                      {[]string{"Sec-Fetch-Site: same-origin", "Origin: " + own}, true},
		"our page, old browser":         {[]string{"Origin: " + own}, true},
		"typed in by the user":          {[]string{"Sec-Fetch-Site: none"}, true},
		"no browser":                    {nil, true},
		"another site":                  {[]string{"Sec-Fetch-Site: cross-site", "Origin: https://evil.example"}, false},
		"another site, our origin":      {[]string{"Sec-Fetch-Site: cross-site", "Origin: " + own}, false},
		"another site, no origin":       {[]string{"Sec-Fetch-Site: cross-site"}, false},
		"the same site, another host":   {[]string{"Sec-Fetch-Site: same-site", "Origin: " + scheme + "://blog." + host}, false},
		"the same site, no origin":      {[]string{"Sec-Fetch-Site: same-site"}, false},
		"a null origin":                 {[]string{"Origin: null"}, false},
		"a null origin, cross-site":     {[]string{"Sec-Fetch-Site: cross-site", "Origin: null"}, false},
		"a foreign origin, old browser": {[]string{"Origin: https://evil.example"}, false},
		"a parent domain":               {[]string{"Origin: " + scheme + "://example"}, false},
		"our host as a prefix":          {[]string{"Origin: " + own + ".evil.example"}, false},
		"our host as a suffix":          {[]string{"Origin: " + scheme + "://evil" + host}, false},
		"our host as user":              {[]string{"Origin: " + own + "@evil.example"}, false},
		"another port":                  {[]string{"Origin: " + own + ":8443"}, false},
		"an opaque origin":              {[]string{"Origin: file://"}, false},
		"a word that no browser says":   {[]string{"Sec-Fetch-Site: same-origin, cross-site"}, false},
		"two words":                     {[]string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-origin"}, false},
		"a forged forwarded host":       {[]string{"Origin: https://evil.example", "X-Forwarded-Host: evil.example", "Forwarded: host=evil.example"}, false},
	}
}

func crossSite(t *testing.T, s *site) {
	email, operator := s.user(t, "customer"), s.user(t, "operator")
	key := s.key(t, email)
	s.each(t, func(t *testing.T, p *process) {
		session := s.login(t, p, email)
		for name, said := range origins(map[bool]string{true: "https", false: "http"}[p.tls != nil]) {
			t.Run(name, func(t *testing.T) {
				from := s.address()
				for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "PURGE"} {
					id := s.id()
					answer := s.ask(t, p, from, payload(method, "/guarded/"+id, "{}", append([]string{p.cookie(session)}, said.headers...)...))
					if said.allowed {
						answer.want(t, 200, "")
					} else {
						answer.want(t, 403, "cross_site")
					}
					if reached := s.upstream.seen(id) != nil; reached != said.allowed {
						t.Errorf("%s reached the upstream: %t", method, reached)
					}
				}
				// A link from elsewhere may be followed, a key is not sent by a browser of itself.
				s.ask(t, p, from, request("GET", "/guarded/"+s.id(), append([]string{p.cookie(session)}, said.headers...)...)).want(t, 200, "")
				s.ask(t, p, from, payload("POST", "/guarded/"+s.id(), "{}", append([]string{bearer(key)}, said.headers...)...)).want(t, 200, "")
				// A WebSocket is opened by GET, and is no mere reading.
				w := s.dial(t, p, from)
				w.send(request("GET", "/stream/socket/"+s.id(), append([]string{p.cookie(session), "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}, said.headers...)...))
				line, _ := w.r.ReadString('\n')
				w.Close()
				if want := map[bool]string{true: "HTTP/1.1 101 ", false: "HTTP/1.1 403 "}[said.allowed]; !strings.HasPrefix(line, want) {
					t.Errorf("a WebSocket: %q, want %q", line, want)
				}
				// The gate's own pages: nobody is logged in or out, nor their password changed.
				for path, form := range map[string]url.Values{
					"/auth/login": credentials(operator, password), "/auth/sessions/end": {}, "/auth/password": {"password": {password}, "new_password": {"planted by another"}}, "/auth/reset": {"email": {email}}, "/auth/signup": {"email": {"x@example.com"}},
				} {
					if said.allowed {
						continue
					}
					answer := s.ask(t, p, from, post(path, form, append([]string{p.cookie(session)}, said.headers...)...))
					if answer.want(t, 403, "cross_site"); answer.Header["Set-Cookie"] != nil {
						t.Errorf("%s set %q", path, answer.Header["Set-Cookie"])
					}
				}
			})
		}
		s.ask(t, p, s.address(), request("GET", "/guarded/"+s.id(), p.cookie(session))).want(t, 200, "") // it lives
	})
}

// elsewhere are targets that some browser takes for another site, or for two lines of a header.
var elsewhere = []string{
	"//evil.example", "///evil.example", "////evil.example", `/\evil.example`, `\/evil.example`, `\\evil.example`, `/\/evil.example`, "https://evil.example", "http:evil.example", "https:/evil.example", "HTTPS:evil.example",
	"//evil.example@" + host, "https://" + host + "@evil.example", "https://" + host + ".evil.example", "//" + host + ":443@evil.example/", "javascript:alert(1)", "JaVaScRiPt:alert(1)//", "data:text/html,evil.example", "vbscript:evil.example",
	"/\t/evil.example", "\t//evil.example", " //evil.example", "/\n/evil.example", "/\r/evil.example", "/%09/evil.example", "/%0a/evil.example", "/%2f/evil.example", "/%2fevil.example", "/%2f%2fevil.example", "/%5cevil.example", "/%5c%5cevil.example",
	"/%252fevil.example", "/%255cevil.example", "/.//evil.example", "/..//evil.example", "/x/..//evil.example", "/./\\evil.example", "/%2e%2fevil.example", "/;//evil.example", "/\u3002evil.example//evil.example",
	"/%0d%0aLocation:%20https://evil.example", "/\r\nSet-Cookie: gate_session=evil.example", "/x?a=b\r\nX-Evil: evil.example", "/x?a=%0d%0aX: y\r\n", "/x\x00evil.example", "/x?\x00evil.example", "/%00//evil.example", "/\x1b[31mevil.example", "/x#//evil.example",
	"?//evil.example", "#evil.example", "evil.example", ".evil.example", "@evil.example", ":evil.example", "", "/\xc0\xaf/evil.example", "/%c0%af/evil.example", "/\u2028/evil.example\\", "〱evil.example", "//evil%E3%80%82example", "//[::1]/", "//0x7f000001/",
}

func openRedirect(t *testing.T, s *site) {
	email := s.user(t, "customer")
	s.each(t, func(t *testing.T, p *process) {
		for _, next := range elsewhere {
			from := s.address()
			page := s.ask(t, p, from, request("GET", "/auth/login?next="+url.QueryEscape(next), "Accept: text/html"))
			if page.StatusCode != 200 || strings.Contains(html.UnescapeString(page.text), "evil.example") || strings.Contains(page.text, "alert(1)") {
				t.Errorf("%q stands in the login page, or %d", next, page.StatusCode)
			}
		}
		// Logging in costs the gate a hash, so the worst of them go that far.
		for _, next := range []string{"//evil.example", `/\evil.example`, "/%0d%0aLocation:%20https://evil.example", "/\r\nSet-Cookie: gate_session=evil.example", "https://" + host + "@evil.example", "/\t/evil.example", "/%2f%2fevil.example", "javascript:alert(1)", "/x?a=b\r\nX-Evil: evil.example"} {
			form := credentials(email, password)
			form.Set("next", next)
			answer := s.submit(t, p, s.address(), post("/auth/login", form))
			if got := answer.Header["Location"]; answer.StatusCode != http.StatusSeeOther || len(got) != 1 || got[0] != "/" || answer.Header["X-Evil"] != nil || len(answer.Header["Set-Cookie"]) != 1 {
				t.Errorf("%q leads to %q: %d, %v", next, got, answer.StatusCode, answer.Header)
			}
			s.keepSecret(answer.session(t, p))
		}
		// A way back within the site works, or there would be nothing to attack.
		form := credentials(email, password)
		form.Set("next", "/guarded/x?a=b&c=%2F%2Fevil")
		answer := s.submit(t, p, s.address(), post("/auth/login", form))
		s.keepSecret(answer.session(t, p))
		if got := answer.Header.Get("Location"); got != "/guarded/x?a=b&c=%2F%2Fevil" {
			t.Errorf("a way back leads to %q", got)
		}
		// A page that needs a login names itself as the way back, and only itself.
		for _, target := range []string{"/guarded/x", "/guarded/x?u=https://evil.example", "/guarded/x?a=%0d%0aX:y", "/guarded/x?" + `\evil.example`, "/operator/x?next=//evil.example"} {
			answer := s.ask(t, p, s.address(), request("GET", target, "Accept: text/html", "X-Forwarded-Host: evil.example"))
			got := answer.Header.Get("Location")
			back, err := url.Parse(got)
			if err != nil || answer.StatusCode != http.StatusSeeOther || back.Host != "" || back.Path != "/auth/login" || strings.HasPrefix(back.Query().Get("next"), "//") || !strings.HasPrefix(back.Query().Get("next"), "/") {
				t.Errorf("%s leads to %q: %d", target, got, answer.StatusCode)
			}
		}
	})
}
