package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// judgeUpstream goes through all that reached the upstream, whatever attack it was part of.
func (s *site) judgeUpstream(t *testing.T) {
	s.upstream.mu.Lock()
	requests, faults := slices.Clone(s.upstream.requests), slices.Clone(s.upstream.faults)
	s.upstream.mu.Unlock()
	for _, f := range faults {
		t.Errorf("not HTTP by the letter: %s", f)
	}
	if len(requests) < 500 {
		t.Errorf("only %d requests came through: nothing was attacked", len(requests))
	}
	claims := s.reader(t)
	for _, r := range requests {
		text := r.line + "\n" + r.head + r.tail
		if strings.Contains(r.line, "smuggled") {
			t.Errorf("the upstream was asked %q", text)
		}
		for _, bad := range []string{"spoofed", "planted by another", "gate_session="} {
			if strings.Contains(text, bad) {
				t.Errorf("%q reached the upstream: %q", bad, text)
			}
		}
		for _, secret := range s.secrets {
			if strings.Contains(text, secret) {
				t.Errorf("a credential reached the upstream: %q", text)
			}
		}
		if r.tail != "" {
			t.Errorf("trailers reached the upstream: %q", r.tail)
		}
		if len(r.header("host")) != 1 || len(r.header("x-forwarded-for")) != 1 || len(r.header("x-forwarded-host")) != 1 || len(r.header("x-forwarded-proto")) != 1 || len(r.header("x-request-id")) != 1 ||
			len(r.header("gate-identity")) > 1 || r.header("authorization") != nil || r.header("forwarded") != nil {
			t.Errorf("what only the gate may say is missing or said twice: %q", text)
		}
		for _, path := range r.leadsTo() {
			need := map[string]string{"/operator": "operator", "/guarded": "", "/stream": "", "/reports": "customer"}
			for prefix, role := range need {
				if path != prefix && !strings.HasPrefix(path, prefix+"/") {
					continue
				}
				audience := "shop"
				if prefix == "/reports" {
					audience = "reports"
				}
				if c, err := claims(r, audience); err != nil || role != "" && !c.HasRole(role) || c.RequestID != r.header("x-request-id")[0] {
					t.Errorf("%s was reached by %+v (%v): %q", path, c, err, text)
				}
			}
		}
	}
}

// judgeLogs reads both logs: each line is one event of the gate's own, and nothing in them is a client's or a secret.
func (s *site) judgeLogs(t *testing.T) {
	for _, p := range s.gates() {
		text := p.log.all()
		if strings.Count(text, "\n") < 500 {
			t.Errorf("the %s gate logged next to nothing", p.name)
		}
		for line := range strings.Lines(text) {
			var event struct{ Level, Msg, Path string }
			if err := json.Unmarshal([]byte(line), &event); err != nil || event.Level == "" || event.Msg == "" {
				t.Errorf("not one event: %q", line)
			}
			if strings.Contains(event.Msg, "forged") || event.Level == "ERROR" && strings.Contains(line, "forged") || strings.ContainsAny(line, "\x1b\r\x00\x0b\u2028\u0085") {
				t.Errorf("a client wrote %q", line)
			}
			if strings.Contains(line, password) || strings.Contains(line, "a wrong password") {
				t.Errorf("a password was logged: %q", line)
			}
			for _, secret := range s.secrets {
				if strings.Contains(line, secret) {
					t.Errorf("a credential was logged: %q", line)
				}
			}
			if event.Msg == "panic" {
				t.Errorf("%s", line)
			}
		}
	}
}

func (s *site) judgeCertificate(t *testing.T) {
	first := s.certificates.serials()
	for until := time.Now().Add(patience + 30*time.Second); ; pause(t) {
		if got := s.secure.serial(t); got == first[1] {
			return
		} else if time.Now().After(until) {
			t.Fatalf("the gate still serves the certificate %s, and not %s", got, first[1])
		}
	}
}

func (s *site) judgeGates(t *testing.T) {
	for _, p := range s.gates() {
		select {
		case <-p.ended:
			t.Errorf("the %s gate ended: %v", p.name, p.err)
			continue
		default:
		}
		p.eventually(t, "/readyz", "ready")
		p.eventually(t, "/metrics", "gate_streams_open 0")
		s.ask(t, p, s.address(), request("GET", "/open/"+s.id())).want(t, 200, "")
		if n := p.metric(t, "go_goroutines"); n > 200 {
			t.Errorf("the %s gate is left with %v goroutines: %s", p.name, n, fmt.Sprint(p.addr))
		}
	}
}
