package gate

import (
	"testing"
	"time"
)

// forgetAll makes the gate ask the database again.
func (b *bundle) forgetAll() { b.gate.cache.forget(revocation{Refresh: true}) }

func (b *bundle) exec(statement string) {
	b.Helper()
	if _, err := b.gate.store.pool.Exec(b.Context(), statement); err != nil {
		b.Fatal(err)
	}
	b.forgetAll()
}

func TestSessionsEndWhenTheyIdleAndWhenTheyAreOld(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.SessionIdle, c.SessionLifetime = time.Hour, 24*time.Hour })
	c := b.loggedIn(customerEmail, customerPassword)
	b.exec(`UPDATE gate.sessions SET last_seen_at = now() - interval '59 minutes'`)
	b.do(c, "GET", "/v1/a", "").want(t, 200, "")
	b.forgetAll()
	b.do(c, "GET", "/v1/a", "").want(t, 200, "") // that use counted: it would be 59 minutes again
	b.exec(`UPDATE gate.sessions SET last_seen_at = now() - interval '61 minutes'`)
	b.do(c, "GET", "/v1/a", "").want(t, 401, "bad_credential")

	c = b.loggedIn(customerEmail, customerPassword)
	var left time.Duration
	if err := b.gate.store.pool.QueryRow(t.Context(), `SELECT max(expires_at) - now() FROM gate.sessions`).Scan(&left); err != nil || left > 24*time.Hour || left < 23*time.Hour {
		t.Errorf("a session lives for %s, %v", left, err)
	}
	b.exec(`UPDATE gate.sessions SET expires_at = now() - interval '1 second'`)
	b.do(c, "GET", "/v1/a", "").want(t, 401, "bad_credential")
	b.do(c, "GET", "/auth/account", "", "Accept", "text/html").want(t, 303, "")
}

func TestKeysRotateWithOverlapAndShowTheirUse(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.gate.Store()
	id, _ := parseKeyToken(b.customerKey)
	if k, err := s.FindKey(t.Context(), id); err != nil || !k.LastUsedAt.IsZero() {
		t.Errorf("%+v %v", k, err)
	}
	b.get("/v1/a", "Authorization", bearer(b.customerKey)).want(t, 200, "")
	if k, err := s.FindKey(t.Context(), id); err != nil || time.Since(k.LastUsedAt) > time.Minute {
		t.Errorf("%+v %v", k, err)
	}
	next := b.newKey(NewKey{Email: customerEmail})
	if err := s.RevokeKey(t.Context(), id, time.Hour); err != nil {
		t.Fatal(err)
	}
	b.forgetAll()
	for _, key := range []string{b.customerKey, next} {
		b.get("/v1/a", "Authorization", bearer(key)).want(t, 200, "")
	}
	// A second, longer overlap does not prolong the first.
	if err := s.RevokeKey(t.Context(), id, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	if k, err := s.FindKey(t.Context(), id); err != nil || time.Until(k.ExpiresAt) > time.Hour {
		t.Errorf("%+v %v", k, err)
	}
	b.exec(`UPDATE gate.api_keys SET expires_at = now() - interval '1 second' WHERE id = '` + id + `'`)
	b.get("/v1/a", "Authorization", bearer(b.customerKey)).want(t, 401, "bad_credential")
	b.get("/v1/a", "Authorization", bearer(next)).want(t, 200, "")
}
