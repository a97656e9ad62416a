package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func keyAndCookie(t *testing.T, s *site) {
	email := s.user(t, "customer")
	own, operators := s.key(t, email), s.key(t, s.user(t, "operator"))
	session := s.login(t, s.plain, email)
	s.each(t, func(t *testing.T, p *process) {
		from := s.address()
		for _, path := range []string{"/open/", "/guarded/", "/operator/", "/stream/"} {
			for _, key := range []string{own, operators, "mk_" + strings.Repeat("a", 16) + "_" + strings.Repeat("b", 52), "nonsense"} {
				id := s.id()
				s.ask(t, p, from, request("GET", path+id, p.cookie(session), bearer(key))).want(t, 400, "ambiguous_credentials")
				s.ask(t, p, from, request("GET", path+id, bearer(key), p.cookie("nonsense"))).want(t, 400, "ambiguous_credentials")
				if s.upstream.seen(id) != nil {
					t.Errorf("%s reached the upstream", path)
				}
			}
			id := s.id()
			s.ask(t, p, from, request("GET", path+id, bearer(own), bearer(operators))).want(t, 401, "bad_credential")
			s.ask(t, p, from, request("GET", path+id, p.cookie(session), "Authorization: Basic YTpi")).want(t, 400, "ambiguous_credentials")
			s.ask(t, p, from, request("GET", path+id, "Authorization: Basic YTpi")).want(t, 401, "bad_credential")
			if s.upstream.seen(id) != nil {
				t.Errorf("%s reached the upstream", path)
			}
		}
		for _, path := range []string{"/auth/session", "/auth/account", "/auth/password", "/auth/logout"} {
			s.ask(t, p, from, request("GET", path, p.cookie(session), bearer(own))).want(t, 400, "ambiguous_credentials")
		}
		s.ask(t, p, from, post("/auth/sessions/end", nil, p.cookie(session), bearer(own))).want(t, 400, "ambiguous_credentials")
		// Each by itself is fine.
		s.ask(t, p, from, request("GET", "/guarded/"+s.id(), p.cookie(session))).want(t, 200, "")
		s.ask(t, p, from, request("GET", "/guarded/"+s.id(), bearer(own))).want(t, 200, "")
		s.ask(t, p, from, request("GET", "/operator/"+s.id(), p.cookie(session))).want(t, 403, "forbidden")
	})
}

// expiredKeyInUse keeps a key busy until it ends: what a gate remembers of it must not outlive it. The key gets its end only once
// it is in use, so that a slow machine does not miss it.
func expiredKeyInUse(t *testing.T, s *site) {
	key := s.key(t, s.user(t, "customer"))
	streams := map[string]*wire{}
	for _, p := range s.gates() {
		streams[p.name] = s.stream(t, p, bearer(key))
		s.ask(t, p, s.address(), request("GET", "/guarded/"+s.id(), bearer(key))).want(t, 200, "")
	}
	const life = 6 * time.Second
	s.command(t, "key", "revoke", "--database-url="+s.db, strings.Split(key, "_")[1], "--after="+life.String())
	expired := time.Now().Add(life) // or a little earlier
	s.each(t, func(t *testing.T, p *process) {
		id := s.id()
		w := s.dial(t, p, s.address())
		w.send(request("GET", "/guarded/held/"+id, bearer(key))) // in flight when the key ends: it may finish, once
		for started := time.Now(); ; started = time.Now() {
			answer := s.ask(t, p, s.address(), request("GET", "/guarded/"+s.id(), bearer(key)))
			if answer.StatusCode == http.StatusUnauthorized {
				answer.want(t, 401, "bad_credential")
				break
			}
			if started.After(expired) {
				t.Fatalf("it was taken %s after its end", started.Sub(expired))
			}
			pause(t)
		}
		close(s.upstream.hold(id))
		if answer, ok := w.reply(); ok {
			answer.want(t, 200, "")
		}
		w.send(request("GET", "/guarded/"+s.id(), bearer(key))) // on the same connection
		if answer, ok := w.reply(); ok {
			answer.want(t, 401, "bad_credential")
		}
		streams[p.name].rest() // the stream ends by itself
	})
}

func fixation(t *testing.T, s *site) {
	s.each(t, func(t *testing.T, p *process) {
		attacker, victim := s.user(t, "operator"), s.user(t, "customer")
		planted := s.login(t, p, attacker)
		for _, old := range []string{planted, strings.Repeat("A", 43), "x", ""} {
			answer := s.submit(t, p, s.address(), post("/auth/login", credentials(victim, password), p.cookie(old)))
			got := answer.session(t, p)
			if answer.StatusCode != http.StatusSeeOther || got == "" || got == old {
				t.Fatalf("login with the session %q planted: %d, the session is %q", old, answer.StatusCode, got)
			}
			s.keepSecret(got)
			s.ask(t, p, s.address(), request("GET", "/guarded/"+s.id(), p.cookie(got))).want(t, 200, "")
			s.ask(t, p, s.address(), request("GET", "/operator/"+s.id(), p.cookie(got))).want(t, 403, "forbidden")
		}
		for _, other := range s.gates() { // the planted one is dead, here and there
			s.refused(t, other, other.cookie(planted))
		}
		first := s.login(t, p, victim)
		changed := s.submit(t, p, s.address(), post("/auth/password", url.Values{"password": {password}, "new_password": {password + "!"}}, p.cookie(first)))
		second := changed.session(t, p)
		if changed.StatusCode != 200 || second == "" || second == first {
			t.Fatalf("a changed password keeps the session: %d %s", changed.StatusCode, changed.text)
		}
		s.keepSecret(second)
		s.refused(t, p, p.cookie(first))
		s.ask(t, p, s.address(), request("GET", "/guarded/"+s.id(), p.cookie(second))).want(t, 200, "")
		s.submit(t, p, s.address(), post("/auth/password", url.Values{"password": {password + "!"}, "new_password": {password}}, p.cookie(second))).want(t, 200, "")
	})
}

// refused waits until a credential that ended is refused. On the other process, the news may still be on its way.
func (s *site) refused(t *testing.T, p *process, credential string) {
	t.Helper()
	from := s.address()
	var answer reply
	for until := time.Now().Add(patience); time.Now().Before(until); pause(t) {
		if answer = s.ask(t, p, from, request("GET", "/guarded/"+s.id(), credential)); answer.StatusCode == http.StatusUnauthorized {
			answer.want(t, 401, "bad_credential")
			return
		}
	}
	t.Fatalf("the %s gate still takes it: %d %s", p.name, answer.StatusCode, answer.text)
}

func cookieTossing(t *testing.T, s *site) {
	attacker, victim := s.login(t, s.plain, s.user(t, "operator")), s.login(t, s.plain, s.user(t, "customer"))
	s.each(t, func(t *testing.T, p *process) {
		claims := s.reader(t)
		from, name := s.address(), p.cookieName()
		for _, lines := range [][]string{
			{"Cookie: " + name + "=" + attacker + "; " + name + "=" + victim}, {"Cookie: " + name + "=" + victim + "; " + name + "=" + attacker}, {"Cookie: " + name + "=" + victim, "Cookie: " + name + "=" + attacker},
			{"Cookie: " + name + "=" + victim + "; " + name + "=" + victim}, {"Cookie: " + name + "=; " + name + "=" + victim}, {"cookie: " + name + "=" + victim + ";" + name + "=x"},
			{"Cookie: a=b; " + name + "=" + victim + "; c=d;" + name + "=\"" + attacker + "\""},
		} {
			for _, path := range []string{"/guarded/", "/open/", "/operator/"} {
				id := s.id()
				s.ask(t, p, from, request("GET", path+id, lines...)).want(t, 400, "ambiguous_credentials")
				if s.upstream.seen(id) != nil {
					t.Errorf("%q reached the upstream", lines)
				}
			}
			s.ask(t, p, from, request("GET", "/auth/account", lines...)).want(t, 400, "ambiguous_credentials")
			s.ask(t, p, from, request("GET", "/auth/session", lines...)).want(t, 400, "ambiguous_credentials")
		}
		// What a parent domain, a subdomain or a script can set is none of ours: the names that are not, in all spellings.
		for _, other := range []string{strings.ToUpper(name), strings.Replace(name, "session", "Session", 1), name + "x", "__Secure-gate_session", "__Host-gate_sessio\u0144", map[bool]string{true: "__Host-gate_session", false: "gate_session"}[p.tls == nil]} {
			if other == name {
				continue
			}
			id := s.id()
			s.ask(t, p, from, request("GET", "/guarded/"+id, "Cookie: "+other+"="+attacker)).want(t, 401, "unauthorized")
			s.ask(t, p, from, request("GET", "/guarded/"+id, "Cookie: "+other+"="+attacker+"; "+name+"="+victim)).want(t, 200, "")
			if c, err := claims(s.upstream.once(t, id), "shop"); err != nil || c.HasRole("operator") {
				t.Errorf("the cookie %s made the customer %+v (%v)", other, c, err)
			}
		}
		id := s.id()
		s.ask(t, p, from, request("GET", "/guarded/"+id, "Cookie: theme=dark; "+name+"="+victim+"; gate_other=x; lang=en")).want(t, 200, "")
		if got := strings.Join(s.upstream.once(t, id).header("cookie"), "|"); got != "theme=dark; lang=en" {
			t.Errorf("the upstream got the cookies %q", got)
		}
	})
}

func cookieAttributes(t *testing.T, s *site) {
	email := s.user(t, "customer")
	s.each(t, func(t *testing.T, p *process) {
		answer := s.submit(t, p, s.address(), post("/auth/login", credentials(email, password)))
		lines := answer.Header["Set-Cookie"]
		if len(lines) != 1 {
			t.Fatalf("cookies: %q", lines)
		}
		s.keepSecret(answer.session(t, p))
		c := answer.Cookies()[0]
		if c.Name != p.cookieName() || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" || c.Secure != (p.tls != nil) || strings.Contains(strings.ToLower(lines[0]), "domain") {
			t.Errorf("the cookie is %q", lines[0])
		}
		if hsts := answer.Header.Get("Strict-Transport-Security"); (hsts != "") != (p.tls != nil) {
			t.Errorf("Strict-Transport-Security: %q", hsts)
		}
		page := s.ask(t, p, s.address(), request("GET", "/auth/login", "Accept: text/html"))
		for name, want := range map[string]string{"Content-Security-Policy": "frame-ancestors 'none'", "X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"} {
			if got := page.Header.Get(name); !strings.Contains(got, want) {
				t.Errorf("%s: %q", name, got)
			}
		}
	})
}
