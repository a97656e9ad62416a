package main

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// promised is how soon an open stream ends with its credential; how long these tests wait is three times that, since the
// machine may be busy.
const promised = 5 * time.Second

// stream opens an event stream, the last request of its connection, and returns that once the first event has come.
func (s *site) stream(t testing.TB, p *process, credential string) *wire {
	t.Helper()
	return s.opened(t, p, "data: first", request("GET", "/stream/events/"+s.id(), credential, "Connection: close"))
}

// socket opens a WebSocket and returns its connection once the first frame has come.
func (s *site) socket(t testing.TB, p *process, credential string) *wire {
	t.Helper()
	return s.opened(t, p, "\x81\x05first", request("GET", "/stream/socket/"+s.id(), credential, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
}

func (s *site) opened(t testing.TB, p *process, first, text string) *wire {
	t.Helper()
	w := s.dial(t, p, s.address())
	w.send(text)
	for got := ""; !strings.HasSuffix(got, first); {
		b, err := w.r.ReadByte()
		if err != nil {
			t.Fatalf("the stream did not begin (%v): %q", err, got)
		}
		got += string(b)
	}
	return w
}

// ends waits until the gate ends a stream and returns what it said last.
func (w *wire) ends(name string) string {
	w.Helper()
	_ = w.SetReadDeadline(time.Now().Add(3 * promised))
	var text strings.Builder
	for {
		b, err := w.r.ReadByte()
		switch {
		case isTimeout(err):
			w.Fatalf("%s is still open after %s", name, 3*promised)
		case err != nil:
			return text.String()
		}
		text.WriteByte(b)
	}
}

// goesOn fails if a stream has ended: nothing comes, and no end either, while another asks a few times.
func (s *site) goesOn(t testing.TB, p *process, w *wire, name string) {
	t.Helper()
	for range 5 {
		s.ask(t, p, s.address(), request("GET", "/open/"+s.id())).want(t, 200, "")
	}
	_ = w.SetReadDeadline(time.Now())
	if _, err := w.r.Peek(64); !isTimeout(err) {
		t.Errorf("%s has ended: %v", name, err)
	}
}

// open opens both kinds of stream on both gates.
func (s *site) openStreams(t testing.TB, credential func(*process) string) map[string]*wire {
	t.Helper()
	out := map[string]*wire{}
	for _, p := range s.gates() {
		out["an event stream of the "+p.name+" gate"] = s.stream(t, p, credential(p))
		out["a WebSocket of the "+p.name+" gate"] = s.socket(t, p, credential(p))
	}
	return out
}

// allEnd sees streams end as they should.
func allEnd(t testing.TB, streams map[string]*wire) {
	t.Helper()
	for name, w := range streams {
		last := w.ends(name)
		if strings.HasPrefix(name, "a WebSocket") && last != "\x88\x02\x03\xf0" { // 1008: policy violation
			t.Errorf("%s ends with %q", name, last)
		}
		if strings.HasPrefix(name, "an event stream") && !strings.HasSuffix(last, "0\r\n\r\n") {
			t.Errorf("%s is torn off: %q", name, last)
		}
	}
}

func streamsOfEndedSessions(t *testing.T, s *site) {
	all := atOnce{T: t}
	defer all.Wait()
	for name, end := range map[string]func(t *testing.T, p *process, email, session string){
		"logout": func(t *testing.T, p *process, _, session string) {
			s.ask(t, p, s.address(), post("/auth/logout", nil, p.cookie(session))).want(t, 303, "")
		},
		"sign out everywhere": func(t *testing.T, p *process, email, _ string) {
			elsewhere := s.login(t, p, email)
			s.ask(t, p, s.address(), post("/auth/sessions/end", nil, p.cookie(elsewhere))).want(t, 303, "")
		},
		"another login in the same browser": func(t *testing.T, p *process, email, session string) {
			answer := s.submit(t, p, s.address(), post("/auth/login", credentials(email, password), p.cookie(session)))
			answer.want(t, 303, "")
			s.keepSecret(answer.session(t, p))
		},
		"another role by command line": func(t *testing.T, _ *process, email, _ string) {
			s.execute(t, "user", "role", email, "operator")
		},
	} {
		all.run(name, func(t *testing.T) {
			for _, p := range s.gates() { // ended here, the news has to reach the other
				email, other := s.user(t, "customer"), s.user(t, "customer")
				session, bystander := s.login(t, p, email), s.login(t, p, other)
				open := s.openStreams(t, func(p *process) string { return p.cookie(session) })
				others := s.openStreams(t, func(p *process) string { return p.cookie(bystander) })
				end(t, p, email, session)
				allEnd(t, open)
				for _, p := range s.gates() {
					s.refused(t, p, p.cookie(session))
				}
				for name, w := range others {
					s.goesOn(t, p, w, name+", of somebody else,")
					w.Close()
				}
			}
		})
	}
}

func disabledUser(t *testing.T, s *site) {
	email := s.user(t, "customer")
	session, key := s.login(t, s.plain, email), s.key(t, email)
	bySession := s.openStreams(t, func(p *process) string { return p.cookie(session) })
	byKey := s.openStreams(t, func(*process) string { return bearer(key) })
	s.execute(t, "user", "disable", email)
	allEnd(t, bySession)
	allEnd(t, byKey)
	for _, p := range s.gates() {
		s.refused(t, p, p.cookie(session))
		s.refused(t, p, bearer(key))
		s.submit(t, p, s.address(), post("/auth/login", credentials(email, password))).want(t, 401, "bad_login")
	}
	s.execute(t, "user", "enable", email)
	s.ask(t, s.plain, s.address(), request("GET", "/guarded/"+s.id(), s.plain.cookie(session))).want(t, 401, "bad_credential") // what ended stays ended

	t.Run("a revoked key", func(t *testing.T) {
		key, kept := s.key(t, s.user(t, "customer")), s.key(t, s.user(t, "customer"))
		open := s.openStreams(t, func(*process) string { return bearer(key) })
		others := s.openStreams(t, func(*process) string { return bearer(kept) })
		s.execute(t, "key", "revoke", key[3:19])
		allEnd(t, open)
		for _, p := range s.gates() {
			s.refused(t, p, bearer(key))
		}
		for name, w := range others {
			s.goesOn(t, s.plain, w, name)
			w.Close()
		}
	})
}

// unheardRevocation ends credentials behind the gates' back, as when the news of it is lost: they must find out.
func unheardRevocation(t *testing.T, s *site) {
	email := s.user(t, "customer")
	session, key := s.login(t, s.plain, email), s.key(t, s.user(t, "customer"))
	bySession := s.openStreams(t, func(p *process) string { return p.cookie(session) })
	byKey := s.openStreams(t, func(*process) string { return bearer(key) })
	conn, err := pgx.Connect(t.Context(), s.db)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	if _, err := conn.Exec(t.Context(), `UPDATE gate.sessions SET revoked_at = now() FROM gate.users u WHERE u.id = user_id AND u.email = $1`, email); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), `UPDATE gate.api_keys SET expires_at = now() WHERE id = $1`, key[3:19]); err != nil {
		t.Fatal(err)
	}
	allEnd(t, bySession)
	allEnd(t, byKey)
	for _, p := range s.gates() {
		s.refused(t, p, p.cookie(session))
		s.refused(t, p, bearer(key))
	}
	s.ask(t, s.plain, s.address(), request("GET", "/stream/events/"+s.id(), bearer(key))).want(t, http.StatusUnauthorized, "bad_credential")
}

// newsOfRevocations sees that a gate which ends a session tells the others, and that who is told ends its streams without asking
// the database: told of a session that goes on there, a gate ends its streams all the same, which no search for ended ones would.
func newsOfRevocations(t *testing.T, s *site) {
	conn, err := pgx.Connect(t.Context(), s.db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `LISTEN gate_revocations`); err != nil {
		t.Fatal(err)
	}
	login := func(p *process) (session, id string) {
		email := s.user(t, "customer")
		session = s.login(t, p, email)
		if err := conn.QueryRow(t.Context(), `SELECT s.id::text FROM gate.sessions s JOIN gate.users u ON u.id = s.user_id WHERE u.email = $1`, email).Scan(&id); err != nil {
			t.Fatal(err)
		}
		return session, id
	}
	ended := map[string]bool{}
	for _, p := range s.gates() {
		session, id := login(p)
		ended[id] = true
		s.ask(t, p, s.address(), post("/auth/logout", nil, p.cookie(session))).want(t, 303, "")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for len(ended) > 0 {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			t.Fatalf("nobody was told of %d ended sessions: %v", len(ended), err)
		}
		for id := range ended {
			if strings.Contains(n.Payload, id) {
				delete(ended, id)
			}
		}
	}
	session, id := login(s.plain)
	open := s.openStreams(t, func(p *process) string { return p.cookie(session) })
	if _, err := conn.Exec(t.Context(), `SELECT pg_notify('gate_revocations', json_build_object('credential', $1::text)::text)`, id); err != nil {
		t.Fatal(err)
	}
	allEnd(t, open)
}
