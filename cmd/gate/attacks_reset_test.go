package main

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

var resetLink = regexp.MustCompile(`(https?://[^/\s]+)(/auth/reset/confirm)\?token=(\w+)`)

// mailed returns the links of all the mails about a new password that an address got, once there are so many.
func (s *site) mailed(t testing.TB, email string, count int) (links [][]string) {
	t.Helper()
	for until := time.Now().Add(patience); ; pause(t) {
		links = nil
		for _, m := range s.mail.Messages() {
			text := strings.NewReplacer("=\r\n", "", "=3D", "=").Replace(m.MsgRequest())
			if found := resetLink.FindStringSubmatch(text); found != nil && strings.Contains(text, email) {
				links = append(links, found)
			}
		}
		if len(links) >= count {
			return links
		}
		if time.Now().After(until) {
			t.Fatalf("%d mails to %s, want %d", len(links), email, count)
		}
	}
}

func (s *site) askReset(t testing.TB, p *process, email string, headers ...string) {
	t.Helper()
	s.ask(t, p, s.address(), post("/auth/reset", url.Values{"email": {email}}, headers...)).want(t, 200, "")
}

func newPassword(token, password string) string {
	return post("/auth/reset/confirm", url.Values{"token": {token}, "password": {password}})
}

func resetReplay(t *testing.T, s *site) {
	email := s.user(t, "customer")
	session := s.login(t, s.secure, email)
	stream := s.stream(t, s.plain, s.plain.cookie(session))
	s.askReset(t, s.plain, email)
	old := s.mailed(t, email, 1)[0][3]
	s.askReset(t, s.secure, email)
	link := s.mailed(t, email, 2)[1][3]
	s.keepSecret(link)
	for _, p := range s.gates() {
		s.submit(t, p, s.address(), newPassword(old, "planted by another")).want(t, 401, "bad_credential") // another link has taken its place
		for _, bad := range []string{"", link[:len(link)-1], link + "A", strings.ToLower(link), "%00", "' OR '1'='1"} {
			s.submit(t, p, s.address(), newPassword(bad, "planted by another")).want(t, 401, "bad_credential")
		}
		// Programs that look into mails follow links; that uses none up. Nor does it open anything else, nor a bad password use it up.
		s.ask(t, p, s.address(), request("GET", "/auth/reset/confirm?token="+link)).want(t, 200, "")
		s.ask(t, p, s.address(), post("/auth/confirm", url.Values{"token": {link}})).want(t, 401, "bad_credential")
		s.ask(t, p, s.address(), post("/auth/signup/confirm", url.Values{"token": {link}, "password": {password}})).want(t, 401, "bad_credential")
		s.submit(t, p, s.address(), newPassword(link, "short")).want(t, 422, "invalid")
	}
	answers := s.storm(12, func(i int) reply {
		return s.submit(t, s.gates()[i%2], s.address(), newPassword(link, "chosen by the owner"))
	})
	if answers[http.StatusOK] != 1 || answers[http.StatusUnauthorized] != 11 {
		t.Errorf("used twelve times at once, it answers %v", answers)
	}
	for _, p := range s.gates() {
		s.submit(t, p, s.address(), newPassword(link, "planted by another")).want(t, 401, "bad_credential")
		s.refused(t, p, p.cookie(session)) // whoever was logged in no longer is
		s.submit(t, p, s.address(), post("/auth/login", credentials(email, password))).want(t, 401, "bad_login")
		s.submit(t, p, s.address(), post("/auth/login", credentials(email, "planted by another"))).want(t, 401, "bad_login")
		answer := s.submit(t, p, s.address(), post("/auth/login", credentials(email, "chosen by the owner")))
		answer.want(t, 303, "")
		s.keepSecret(answer.session(t, p))
	}
	stream.ends("a stream from before the reset")
}

func resetHost(t *testing.T, s *site) {
	s.each(t, func(t *testing.T, p *process) {
		email := s.user(t, "customer")
		text := post("/auth/reset", url.Values{"email": {email}}, "X-Forwarded-Host: evil.example", "Forwarded: host=evil.example", "X-Forwarded-Proto: ftp", "X-Host: evil.example", "Origin: http://evil.example")
		s.ask(t, p, s.address(), strings.Replace(text, "Host: "+host, "Host: evil.example", 1)).want(t, 200, "")
		// Either gate may send it, each under the name that it was given.
		if link := s.mailed(t, email, 1)[0]; link[1] != "http://127.0.0.1" && link[1] != "https://127.0.0.1" {
			t.Errorf("the mail leads to %s", link[1])
		}
	})
}
