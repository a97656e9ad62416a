package gate

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// throttle says how failures of one kind are answered: so many are free, then each one more doubles the wait, up to a limit;
// after a quiet time all is forgotten.
type throttle struct {
	kind        string
	free        int
	first, most time.Duration
	forget      time.Duration
}

// Guessing a password of one account, from anywhere; of any accounts, from one address; a second factor; and asking for mail.
var (
	throttleAccount = throttle{kind: "account", free: 5, first: 2 * time.Second, most: 15 * time.Minute, forget: 24 * time.Hour}
	throttleAddress = throttle{kind: "address", free: 50, first: 2 * time.Second, most: 15 * time.Minute, forget: 24 * time.Hour}
	throttleFactor  = throttle{kind: "factor", free: 5, first: 30 * time.Second, most: time.Hour, forget: 24 * time.Hour}
	throttleMail    = throttle{kind: "mail", free: 4, first: 5 * time.Minute, most: 6 * time.Hour, forget: 24 * time.Hour}
)

// attempt counts a failure in advance and returns how long the subject must wait before it may try; zero: it may try now. To
// count first is what stops a hundred guesses that come at the same moment. A success takes the failure back.
func (s *Store) attempt(ctx context.Context, t throttle, subject string) (wait time.Duration, err error) {
	key := sha256.Sum256([]byte(subject))
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO gate.throttles (kind, subject, failures) VALUES ($1, $2, 0) ON CONFLICT DO NOTHING`, t.kind, key[:]); err != nil {
			return err
		}
		var failures int
		var now, last time.Time
		var until *time.Time
		if err := tx.QueryRow(ctx, `SELECT failures, clock_timestamp(), last_at, blocked_until FROM gate.throttles WHERE kind = $1 AND subject = $2 FOR UPDATE`,
			t.kind, key[:]).Scan(&failures, &now, &last, &until); err != nil {
			return err
		}
		if until != nil && until.After(now) {
			wait = until.Sub(now)
			return nil
		}
		if now.Sub(last) > t.forget {
			failures = 0
		}
		failures++
		_, err := tx.Exec(ctx, `UPDATE gate.throttles SET failures = $3, last_at = clock_timestamp(), blocked_until = clock_timestamp() + $4::interval
			WHERE kind = $1 AND subject = $2`, t.kind, key[:], failures, t.penalty(failures))
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count an attempt: %w", err)
	}
	return wait, nil
}

// penalty is how long the next attempt must wait after so many failures; nil: not at all.
func (t throttle) penalty(failures int) *time.Duration {
	over := failures - t.free
	if over <= 0 {
		return nil
	}
	wait := t.most
	if over < 20 {
		wait = min(t.first<<(over-1), t.most)
	}
	return &wait
}

// forgive takes an attempt back that succeeded. An account starts afresh; an address only gets its one attempt back, or whoever
// has an account of their own could guess at others forever.
func (s *Store) forgive(ctx context.Context, t throttle, subject string) error {
	if t.kind == throttleAddress.kind {
		return s.refund(ctx, t, subject)
	}
	key := sha256.Sum256([]byte(subject))
	if _, err := s.pool.Exec(ctx, `DELETE FROM gate.throttles WHERE kind = $1 AND subject = $2`, t.kind, key[:]); err != nil {
		return fmt.Errorf("forgive an attempt: %w", err)
	}
	return nil
}

// refund takes back one attempt that was not judged at all.
func (s *Store) refund(ctx context.Context, t throttle, subject string) error {
	key := sha256.Sum256([]byte(subject))
	if _, err := s.pool.Exec(ctx, `UPDATE gate.throttles SET failures = greatest(failures - 1, 0), blocked_until = NULL WHERE kind = $1 AND subject = $2`,
		t.kind, key[:]); err != nil {
		return fmt.Errorf("refund an attempt: %w", err)
	}
	return nil
}
