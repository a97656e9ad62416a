package gate

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// sessionTokenLen is the length of a session cookie's value: 256 random bits in base64url.
const sessionTokenLen = 43

// startSession opens a session and returns the token for its cookie; only the token's hash is stored.
func (s *Store) startSession(ctx context.Context, userID string, lifetime time.Duration) (token, id string, err error) {
	var raw [32]byte
	rand.Read(raw[:])
	token = base64.RawURLEncoding.EncodeToString(raw[:])
	sid, err := uuid.NewRandom()
	if err != nil {
		return "", "", fmt.Errorf("make a session id: %w", err)
	}
	hash := sha256.Sum256([]byte(token))
	if _, err := s.pool.Exec(ctx, `INSERT INTO gate.sessions (id, token_hash, user_id, expires_at) VALUES ($1, $2, $3, now() + $4::interval)`,
		sid, hash[:], userID, lifetime); err != nil {
		return "", "", fmt.Errorf("insert a session: %w", err)
	}
	return token, sid.String(), nil
}

// endSession revokes one session.
func (s *Store) endSession(ctx context.Context, id string) error {
	if _, err := s.pool.Exec(ctx, `UPDATE gate.sessions SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL`, id); err != nil {
		return fmt.Errorf("revoke a session: %w", err)
	}
	return s.announce(ctx, revocation{Credential: id})
}

// endSessions revokes all sessions of a user but the one named except, which may be empty. The user's keys are loaded anew,
// since what the user may do has usually changed.
func (s *Store) endSessions(ctx context.Context, userID, except string) error {
	if _, err := s.pool.Exec(ctx, `UPDATE gate.sessions SET revoked_at = now() WHERE user_id = $1 AND revoked_at IS NULL AND id::text <> $2`,
		userID, except); err != nil {
		return fmt.Errorf("revoke a user's sessions: %w", err)
	}
	return s.announce(ctx, revocation{User: userID, Except: except})
}

// loadSession finds whose session a token's hash belongs to, and notes at most once a minute that it is in use.
func (s *Store) loadSession(idle time.Duration) func(context.Context, credentialHash) (*Principal, error) {
	return func(ctx context.Context, hash credentialHash) (*Principal, error) {
		p := &Principal{Kind: kindSession, Scopes: []string{allScopes}}
		var id, user uuid.UUID
		var seen time.Time
		err := s.pool.QueryRow(ctx, `SELECT s.id, s.expires_at, s.last_seen_at, u.id, u.email, u.name, u.roles
			FROM gate.sessions s JOIN gate.users u ON u.id = s.user_id
			WHERE s.token_hash = $1 AND s.revoked_at IS NULL AND s.expires_at > now()
			  AND s.last_seen_at > now() - $2::interval AND u.disabled_at IS NULL`,
			hash[:], idle).Scan(&id, &p.Expires, &seen, &user, &p.Email, &p.Name, &p.Roles)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, errBadCredential
		}
		if err != nil {
			return nil, fmt.Errorf("load a session: %w", err)
		}
		p.Credential, p.Subject = id.String(), user.String()
		if time.Since(seen) > min(time.Minute, idle/4) {
			if _, err := s.pool.Exec(ctx, `UPDATE gate.sessions SET last_seen_at = now() WHERE id = $1`, id); err != nil {
				return nil, fmt.Errorf("note a session's use: %w", err)
			}
		}
		return p, nil
	}
}

// cookieJar writes and reads the session cookie. Secure by default; its plain form is for HTTP on a loopback address, where
// browsers would drop a Secure cookie.
type cookieJar struct {
	plain bool
}

func (c cookieJar) name() string {
	if c.plain {
		return "gate_session"
	}
	return "__Host-gate_session"
}

func (c cookieJar) cookie(value string, maxAge int) *http.Cookie {
	return &http.Cookie{ //nolint:gosec // Secure is the default; Config.check confines its absence to loopback addresses
		Name: c.name(), Value: value, Path: "/", MaxAge: maxAge,
		Secure: !c.plain, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
}

func (c cookieJar) set(w http.ResponseWriter, token string, lifetime time.Duration) {
	http.SetCookie(w, c.cookie(token, int(lifetime.Seconds())))
}

func (c cookieJar) clear(w http.ResponseWriter) { http.SetCookie(w, c.cookie("", -1)) }

// isOurs reports whether a cookie of that name belongs to the gate and not to an upstream, in either of its forms.
func (cookieJar) isOurs(name string) bool {
	name = strings.ToLower(name)
	return strings.HasPrefix(strings.TrimPrefix(strings.TrimPrefix(name, "__host-"), "__secure-"), "gate_")
}

// count returns how many session cookies the request carries. More than one means that somebody tossed in another.
func (c cookieJar) count(r *http.Request) int {
	return len(r.CookiesNamed(c.name()))
}

// sessionAuthenticator accepts the session cookie.
type sessionAuthenticator struct {
	store   *Store
	cache   *credentialCache
	cookies cookieJar
	idle    time.Duration
}

func (a *sessionAuthenticator) authenticate(r *http.Request) (*Principal, error) {
	cookie, err := r.Cookie(a.cookies.name())
	if err != nil {
		return nil, nil //nolint:nilerr // without a cookie this is not the way that the request uses
	}
	if len(cookie.Value) != sessionTokenLen {
		return nil, errBadCredential
	}
	return a.cache.get(r.Context(), sha256.Sum256([]byte(cookie.Value)), a.store.loadSession(a.idle))
}
