package gate

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Actors that are not users.
const (
	actorCommandLine = "command line"
	actorAnonymous   = "anonymous"
)

// actor is on whose behalf a change is made, and from where.
type actor struct{ name, address string }

type actorKey struct{}

func withActor(ctx context.Context, name, address string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor{name, address})
}

// audit notes an event: what was done or tried about a user, by whom, from where, with what result. Details hold ids, never a
// secret, nor an address of someone who has no account.
func (s *Store) audit(ctx context.Context, action, result, userID, detail string) error {
	a, ok := ctx.Value(actorKey{}).(actor)
	if !ok {
		a = actor{name: actorCommandLine}
	}
	var user *uuid.UUID
	if id, err := uuid.Parse(userID); err == nil {
		user = &id
	}
	if _, err := s.pool.Exec(ctx, `INSERT INTO gate.audit_log (action, result, user_id, actor, address, detail) VALUES ($1, $2, $3, $4, $5, $6)`,
		action, result, user, a.name, a.address, detail); err != nil {
		return fmt.Errorf("write the audit log: %w", err)
	}
	return nil
}

// note writes to the audit log on behalf of whoever makes a request.
func (x *exchange) note(action, result, userID, detail string) {
	name := actorAnonymous
	if x.principal != nil {
		name = x.principal.Subject
	}
	x.noteBy(name, action, result, userID, detail)
}

// noteBy is note where it is known otherwise who acts. That it cannot be written is an alarm, yet no reason to shut people out.
func (x *exchange) noteBy(name, action, result, userID, detail string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(x.r.Context()), 5*time.Second)
	defer cancel()
	if err := x.gate.store.audit(withActor(ctx, name, x.client.String()), action, result, userID, detail); err != nil {
		x.gate.metrics.audit.Inc()
		x.gate.log.Error("audit event lost", "action", action, "result", result, "user", userID, "request_id", x.id, "err", err)
	}
}

// Event is one line of the audit log.
type Event struct {
	At             time.Time
	Action, Result string
	UserID         string // empty: nobody that exists
	Actor, Address string
	Detail         string
}

// ListEvents returns the newest events of the audit log, at most limit, newest first; about one user if userID is not empty.
func (s *Store) ListEvents(ctx context.Context, userID string, limit int) ([]Event, error) {
	rows, err := s.pool.Query(ctx, `SELECT at, action, result, coalesce(user_id::text, ''), actor, address, detail FROM gate.audit_log
		WHERE $1 = '' OR user_id::text = $1 ORDER BY id DESC LIMIT $2`, userID, min(max(limit, 1), 1000))
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	defer rows.Close()
	var out []Event
	for rows.Next() {
		var e Event
		if err := rows.Scan(&e.At, &e.Action, &e.Result, &e.UserID, &e.Actor, &e.Address, &e.Detail); err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		out = append(out, e)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	return out, nil
}

// auditRetention is how long events are kept.
const auditRetention = 400 * 24 * time.Hour

// cleanUp removes what nobody needs any more.
func (s *Store) cleanUp(ctx context.Context) error {
	for _, statement := range []string{
		`DELETE FROM gate.sessions WHERE expires_at < now() - interval '1 day' OR revoked_at < now() - interval '1 day'`,
		`DELETE FROM gate.throttles WHERE last_at < now() - interval '2 days' AND (blocked_until IS NULL OR blocked_until < now())`,
		`DELETE FROM gate.mail_links WHERE expires_at < now()`,
		`DELETE FROM gate.outbox WHERE created_at < now() - interval '2 days'`,
	} {
		if _, err := s.pool.Exec(ctx, statement); err != nil {
			return fmt.Errorf("clean up: %w", err)
		}
	}
	if _, err := s.pool.Exec(ctx, `DELETE FROM gate.audit_log WHERE at < now() - $1::interval`, auditRetention); err != nil {
		return fmt.Errorf("clean up the audit log: %w", err)
	}
	return nil
}
