package gate

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// An API key reads mk_<id>_<secret>: the prefix lets scanners of leaked secrets find it, the id is public and indexes the
// row, the secret is 256 random bits. Only the hash of the whole is stored.
const (
	keyPrefix    = "mk_"
	keyIDLen     = 16
	keySecretLen = 52
	keyLen       = len(keyPrefix) + keyIDLen + 1 + keySecretLen
)

var keyAlphabet = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewKeyToken makes a random API key, unknown to any gate until EnsureKey registers it.
func NewKeyToken() string {
	var id [10]byte
	var secret [32]byte
	rand.Read(id[:])
	rand.Read(secret[:])
	return keyPrefix + keyAlphabet.EncodeToString(id[:]) + "_" + keyAlphabet.EncodeToString(secret[:])
}

// parseKeyToken returns a key's public id; it reports false for what cannot be a key, without asking the database.
func parseKeyToken(token string) (id string, ok bool) {
	if len(token) != keyLen || !strings.HasPrefix(token, keyPrefix) || token[len(keyPrefix)+keyIDLen] != '_' {
		return "", false
	}
	for i := len(keyPrefix); i < len(token); i++ {
		c := token[i]
		if (c < 'a' || c > 'z') && (c < '2' || c > '7') && i != len(keyPrefix)+keyIDLen {
			return "", false
		}
	}
	return token[len(keyPrefix) : len(keyPrefix)+keyIDLen], true
}

// Key is an API key as it is stored; its secret half is known to its owner alone.
type Key struct {
	ID         string
	UserID     string
	Name       string
	Scopes     []string // "*" is everything its user may do
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	RevokedAt  time.Time // zero: not revoked
	LastUsedAt time.Time // zero: never; exact to about a minute
}

// NewKey is what it takes to make a key.
type NewKey struct {
	Email     string // whose key it is
	Name      string // what it is for
	Scopes    []string
	ExpiresAt time.Time // zero: never
}

// CreateKey makes an API key for a user. The returned token is shown this once and cannot be read back.
func (s *Store) CreateKey(ctx context.Context, n NewKey) (Key, string, error) {
	token := NewKeyToken()
	key, err := s.EnsureKey(ctx, n, token)
	return key, token, err
}

// EnsureKey registers a key that was made by NewKeyToken, for seeding: run again, it changes nothing.
func (s *Store) EnsureKey(ctx context.Context, n NewKey, token string) (Key, error) {
	id, ok := parseKeyToken(token)
	if !ok {
		return Key{}, invalid("the key must have been made by NewKeyToken")
	}
	scopes := n.Scopes
	if len(scopes) == 0 {
		scopes = []string{allScopes}
	}
	for _, scope := range scopes {
		if scope != allScopes && !roleName(scope) {
			return Key{}, invalid("%q is not a scope: use '*', or 1 to 64 of a-z, 0-9, '_', '-', '.' and ':'", scope)
		}
	}
	if !n.ExpiresAt.IsZero() && !n.ExpiresAt.After(time.Now()) {
		return Key{}, invalid("the key's expiry must lie in the future")
	}
	name, err := canonicalName(n.Name)
	if err != nil {
		return Key{}, err
	}
	user, err := s.FindUser(ctx, n.Email)
	if err != nil {
		return Key{}, err
	}
	hash := sha256.Sum256([]byte(token))
	tag, err := s.pool.Exec(ctx, `INSERT INTO gate.api_keys (id, user_id, secret_hash, name, scopes, expires_at)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING`,
		id, user.ID, hash[:], name, nonNil(scopes), nullTime(n.ExpiresAt))
	if err != nil {
		return Key{}, fmt.Errorf("insert an API key: %w", err)
	}
	if tag.RowsAffected() == 1 {
		if err := s.audit(ctx, "create_key", "ok", user.ID, id); err != nil {
			return Key{}, err
		}
	}
	var stored []byte
	if err := s.pool.QueryRow(ctx, `SELECT secret_hash FROM gate.api_keys WHERE id = $1 AND user_id = $2`, id, user.ID).Scan(&stored); err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return Key{}, fmt.Errorf("read an API key: %w", err)
	}
	if !bytes.Equal(stored, hash[:]) {
		return Key{}, fmt.Errorf("API key %s: %w", id, ErrExists)
	}
	return s.FindKey(ctx, id)
}

const keyColumns = `id, user_id, name, scopes, created_at, expires_at, revoked_at, last_used_at`

func scanKey(row pgx.CollectableRow) (Key, error) {
	var k Key
	var user uuid.UUID
	var expires, revoked, used *time.Time
	err := row.Scan(&k.ID, &user, &k.Name, &k.Scopes, &k.CreatedAt, &expires, &revoked, &used)
	k.UserID = user.String()
	k.ExpiresAt, k.RevokedAt, k.LastUsedAt = orZero(expires), orZero(revoked), orZero(used)
	return k, err
}

// FindKey returns the key with the public id, or ErrNotFound.
func (s *Store) FindKey(ctx context.Context, id string) (Key, error) {
	rows, err := s.pool.Query(ctx, `SELECT `+keyColumns+` FROM gate.api_keys WHERE id = $1`, id)
	if err != nil {
		return Key{}, fmt.Errorf("query API keys: %w", err)
	}
	k, err := pgx.CollectExactlyOneRow(rows, scanKey)
	if errors.Is(err, pgx.ErrNoRows) {
		return Key{}, fmt.Errorf("API key: %w", ErrNotFound)
	}
	if err != nil {
		return Key{}, fmt.Errorf("query API keys: %w", err)
	}
	return k, nil
}

// ListKeys returns a user's keys, oldest first, revoked and expired ones included.
func (s *Store) ListKeys(ctx context.Context, email string) ([]Key, error) {
	user, err := s.FindUser(ctx, email)
	if err != nil {
		return nil, err
	}
	rows, err := s.pool.Query(ctx, `SELECT `+keyColumns+` FROM gate.api_keys WHERE user_id = $1 ORDER BY created_at, id`, user.ID)
	if err != nil {
		return nil, fmt.Errorf("query API keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, scanKey)
	if err != nil {
		return nil, fmt.Errorf("query API keys: %w", err)
	}
	return keys, nil
}

// RevokeKey ends a key at once, or after an overlap in which its successor can be rolled out. It accepts the public id.
func (s *Store) RevokeKey(ctx context.Context, id string, overlap time.Duration) error {
	var owner string
	err := s.pool.QueryRow(ctx, `UPDATE gate.api_keys SET
		revoked_at = CASE WHEN $2::interval <= interval '0' THEN coalesce(revoked_at, now()) ELSE revoked_at END,
		expires_at = CASE WHEN $2::interval > interval '0' THEN least(expires_at, now() + $2::interval) ELSE expires_at END
		WHERE id = $1 RETURNING user_id::text`, id, overlap).Scan(&owner)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("API key %q: %w", id, ErrNotFound)
	}
	if err != nil {
		return fmt.Errorf("revoke an API key: %w", err)
	}
	if err := s.announce(ctx, revocation{Credential: id}); err != nil {
		return err
	}
	detail := id
	if overlap > 0 {
		detail += " after " + overlap.String()
	}
	return s.audit(ctx, "revoke_key", "ok", owner, detail)
}

// keyAuthenticator accepts "Authorization: Bearer mk_...".
type keyAuthenticator struct {
	store *Store
	cache *credentialCache
}

func (a *keyAuthenticator) authenticate(r *http.Request) (*Principal, error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return nil, nil
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if len(values) > 1 || !strings.EqualFold(scheme, "Bearer") {
		return nil, errBadCredential
	}
	if _, ok := parseKeyToken(token); !ok {
		return nil, errBadCredential
	}
	return a.cache.get(r.Context(), sha256.Sum256([]byte(token)), a.store.loadKey)
}

// loadKey finds whom a key's hash belongs to. It returns errBadCredential for a key that is not, or no longer, good.
func (s *Store) loadKey(ctx context.Context, hash credentialHash) (*Principal, error) {
	p := &Principal{Kind: kindKey}
	var user uuid.UUID
	var expires, used *time.Time
	err := s.pool.QueryRow(ctx, `SELECT k.id, k.scopes, k.expires_at, k.last_used_at, u.id, u.email, u.name, u.roles
		FROM gate.api_keys k JOIN gate.users u ON u.id = k.user_id
		WHERE k.secret_hash = $1 AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()) AND u.disabled_at IS NULL`,
		hash[:]).Scan(&p.Credential, &p.Scopes, &expires, &used, &user, &p.Email, &p.Name, &p.Roles)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, errBadCredential
	}
	if err != nil {
		return nil, fmt.Errorf("load an API key: %w", err)
	}
	p.Subject, p.Expires = user.String(), orZero(expires)
	if used == nil || time.Since(*used) > time.Minute {
		if _, err := s.pool.Exec(ctx, `UPDATE gate.api_keys SET last_used_at = now() WHERE id = $1`, p.Credential); err != nil {
			return nil, fmt.Errorf("note an API key's use: %w", err)
		}
	}
	return p, nil
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}
