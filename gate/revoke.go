package gate

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// revocationChannel is where processes that share a database tell each other what stopped being valid.
const revocationChannel = "gate_revocations"

// revocation names what is no longer valid: one session or key, or all sessions of a user. Refresh says that anything may
// have been revoked while nobody listened: what is remembered must be asked for again.
type revocation struct {
	Refresh    bool   `json:"refresh,omitempty"`
	Credential string `json:"credential,omitempty"`
	User       string `json:"user,omitempty"`
	Except     string `json:"except,omitempty"` // the session of User that goes on
}

func (r revocation) concerns(p *Principal) bool {
	switch {
	case r.Refresh:
		return true
	case r.Credential != "":
		return p.Credential == r.Credential
	case r.User != "":
		return p.Subject == r.User && p.Credential != r.Except
	default:
		return false
	}
}

// announce tells every process, this one included, of a revocation that is committed already.
func (s *Store) announce(ctx context.Context, r revocation) error {
	payload, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a revocation: %w", err)
	}
	if _, err := s.pool.Exec(ctx, `SELECT pg_notify($1, $2)`, revocationChannel, string(payload)); err != nil {
		return fmt.Errorf("announce a revocation: %w", err)
	}
	return nil
}

// hear calls back for each revocation that any process announces, until the context ends or the connection is lost. It
// begins with a refresh, since nobody knows what was said before.
func (s *Store) hear(ctx context.Context, tell func(revocation)) error {
	conn, err := pgx.ConnectConfig(ctx, s.pool.Config().ConnConfig.Copy())
	if err != nil {
		return fmt.Errorf("connect to hear of revocations: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, `LISTEN `+revocationChannel); err != nil {
		return fmt.Errorf("listen for revocations: %w", err)
	}
	tell(revocation{Refresh: true})
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("wait for revocations: %w", err)
		}
		var r revocation
		if err := json.Unmarshal([]byte(n.Payload), &r); err != nil {
			r = revocation{Refresh: true}
		}
		tell(r)
	}
}
