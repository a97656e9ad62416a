package gate

import (
	"context"
	"errors"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/text/unicode/norm"
)

// Store is the gate's memory: users, keys and sessions in the schema "gate". Its methods are what one can do with them; each
// is safe to call concurrently and from several processes.
type Store struct {
	pool   *pgxpool.Pool
	hasher *hasher
}

// OpenStore connects to a database that Migrate has prepared. Close it when done.
func OpenStore(ctx context.Context, databaseURL string) (*Store, error) {
	if err := checkSchema(ctx, databaseURL); err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		return nil, fmt.Errorf("read the gate's database URL: %w", err)
	}
	if !strings.Contains(databaseURL, "pool_max_conns") {
		cfg.MaxConns = 8
	}
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to the gate's database: %w", err)
	}
	return &Store{pool: pool, hasher: newHasher(defaultArgon)}, nil
}

// Close waits for running queries and closes the connections. No password may be under way.
func (s *Store) Close() {
	s.pool.Close()
	if s.hasher.helpers != nil {
		s.hasher.helpers.close()
	}
}

// Ping reports whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.pool.Ping(ctx); err != nil {
		return fmt.Errorf("ping the gate's database: %w", err)
	}
	return nil
}

// User is a person, or a machine that a person answers for.
type User struct {
	ID        string // UUID
	Email     string // lower case
	Name      string
	Roles     []string
	Verified  bool // the e-mail address was proven to be theirs
	Disabled  bool
	CreatedAt time.Time
}

// NewUser is what it takes to add a user. Email is required; without a Password the user cannot log in by one.
type NewUser struct {
	Email, Name, Password string
	Roles                 []string
	Verified              bool
}

const userColumns = `id, email, name, roles, email_verified_at IS NOT NULL, disabled_at IS NOT NULL, created_at`

func scanUser(row pgx.CollectableRow) (User, error) {
	var u User
	var id uuid.UUID
	err := row.Scan(&id, &u.Email, &u.Name, &u.Roles, &u.Verified, &u.Disabled, &u.CreatedAt)
	u.ID = id.String()
	return u, err
}

func (s *Store) oneUser(ctx context.Context, query string, args ...any) (User, error) {
	rows, err := s.pool.Query(ctx, query, args...)
	if err != nil {
		return User{}, fmt.Errorf("query users: %w", err)
	}
	u, err := pgx.CollectExactlyOneRow(rows, scanUser)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return User{}, fmt.Errorf("user: %w", ErrNotFound)
	case isUniqueViolation(err):
		return User{}, fmt.Errorf("user: %w", ErrExists)
	case err != nil:
		return User{}, fmt.Errorf("query users: %w", err)
	}
	return u, nil
}

// AddUser adds a user. It fails with ErrExists when the address is taken.
func (s *Store) AddUser(ctx context.Context, n NewUser) (User, error) {
	email, err := canonicalEmail(n.Email)
	if err != nil {
		return User{}, err
	}
	if err := checkRoles(n.Roles); err != nil {
		return User{}, err
	}
	name, err := canonicalName(n.Name)
	if err != nil {
		return User{}, err
	}
	hash, err := s.newHash(ctx, n.Password)
	if err != nil {
		return User{}, err
	}
	id, err := uuid.NewV7()
	if err != nil {
		return User{}, fmt.Errorf("make a user id: %w", err)
	}
	u, err := s.oneUser(ctx, `INSERT INTO gate.users (id, email, name, password_hash, roles, email_verified_at)
		VALUES ($1, $2, $3, $4, $5, CASE WHEN $6 THEN now() END) RETURNING `+userColumns,
		id, email, name, hash, nonNil(n.Roles), n.Verified)
	if err != nil {
		return User{}, err
	}
	return u, s.audit(ctx, "add_user", "ok", u.ID, strings.Join(u.Roles, ","))
}

func (s *Store) newHash(ctx context.Context, password string) (*string, error) {
	if password == "" {
		return nil, nil
	}
	if err := checkNewPassword(password); err != nil {
		return nil, err
	}
	hash, err := s.hasher.hash(ctx, password)
	if err != nil {
		return nil, fmt.Errorf("hash a password: %w", err)
	}
	return &hash, nil
}

// EnsureUser is AddUser for seeding: run again, it leaves one user with the given name, roles and password, and the same id.
// A password that is right already is not hashed anew, so sessions and the row stay as they are.
func (s *Store) EnsureUser(ctx context.Context, n NewUser) (User, error) {
	u, err := s.AddUser(ctx, n)
	if !errors.Is(err, ErrExists) {
		return u, err
	}
	email, err := canonicalEmail(n.Email)
	if err != nil {
		return User{}, err
	}
	name, err := canonicalName(n.Name)
	if err != nil {
		return User{}, err
	}
	var hash *string
	if err := s.pool.QueryRow(ctx, `SELECT password_hash FROM gate.users WHERE email = $1`, email).Scan(&hash); err != nil {
		return User{}, fmt.Errorf("read a user's password hash: %w", err)
	}
	if n.Password != "" {
		ok, err := s.hasher.verify(ctx, n.Password, deref(hash))
		if err != nil {
			return User{}, fmt.Errorf("compare a password: %w", err)
		}
		if !ok {
			if hash, err = s.newHash(ctx, n.Password); err != nil {
				return User{}, err
			}
		}
	}
	return s.oneUser(ctx, `UPDATE gate.users SET name = $2, roles = $3, password_hash = $4, disabled_at = NULL, updated_at = now(),
		email_verified_at = CASE WHEN $5 THEN coalesce(email_verified_at, now()) ELSE email_verified_at END
		WHERE email = $1 RETURNING `+userColumns, email, name, nonNil(n.Roles), hash, n.Verified)
}

// FindUser returns the user with the e-mail address, or ErrNotFound.
func (s *Store) FindUser(ctx context.Context, email string) (User, error) {
	email, err := canonicalEmail(email)
	if err != nil {
		return User{}, err
	}
	return s.oneUser(ctx, `SELECT `+userColumns+` FROM gate.users WHERE email = $1`, email)
}

// SetRoles replaces a user's roles and ends the user's sessions, so that the next login starts one with a new id.
func (s *Store) SetRoles(ctx context.Context, email string, roles []string) (User, error) {
	if err := checkRoles(roles); err != nil {
		return User{}, err
	}
	return s.changeUser(ctx, "set_roles", email, `UPDATE gate.users SET roles = $2, updated_at = now() WHERE email = $1 RETURNING `+userColumns, nonNil(roles))
}

// DisableUser shuts a user out at once: sessions end, keys stop working. EnableUser lets them log in again.
func (s *Store) DisableUser(ctx context.Context, email string) (User, error) {
	return s.changeUser(ctx, "disable_user", email, `UPDATE gate.users SET disabled_at = coalesce(disabled_at, now()), updated_at = now() WHERE email = $1 RETURNING `+userColumns)
}

// EnableUser undoes DisableUser. Sessions that it ended stay ended; keys work again.
func (s *Store) EnableUser(ctx context.Context, email string) (User, error) {
	return s.changeUser(ctx, "enable_user", email, `UPDATE gate.users SET disabled_at = NULL, updated_at = now() WHERE email = $1 RETURNING `+userColumns)
}

// changeUser updates a user, ends the user's sessions and notes it in the audit log.
func (s *Store) changeUser(ctx context.Context, action, email, update string, args ...any) (User, error) {
	email, err := canonicalEmail(email)
	if err != nil {
		return User{}, err
	}
	u, err := s.oneUser(ctx, update, append([]any{email}, args...)...)
	if err != nil {
		return User{}, err
	}
	if err := s.endSessions(ctx, u.ID, ""); err != nil {
		return User{}, err
	}
	return u, s.audit(ctx, action, "ok", u.ID, strings.Join(u.Roles, ","))
}

// SetPassword replaces a user's password and ends the user's sessions.
func (s *Store) SetPassword(ctx context.Context, email, password string) error {
	if password == "" {
		return invalid("the password must not be empty")
	}
	hash, err := s.newHash(ctx, password)
	if err != nil {
		return err
	}
	_, err = s.changeUser(ctx, "set_password", email, `UPDATE gate.users SET password_hash = $2, updated_at = now() WHERE email = $1 RETURNING `+userColumns, hash)
	return err
}

// canonicalEmail trims, lower-cases and checks an address.
func canonicalEmail(s string) (string, error) {
	s = strings.ToLower(norm.NFC.String(strings.TrimSpace(s)))
	if a, err := mail.ParseAddress(s); err != nil || a.Address != s || len(s) > 254 || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unprintable(r) }) {
		return "", invalid("the e-mail address is not valid: it must look like name@example.com")
	}
	return s, nil
}

func canonicalName(s string) (string, error) {
	s = norm.NFC.String(strings.TrimSpace(s))
	if !utf8.ValidString(s) || utf8.RuneCountInString(s) > 200 || strings.ContainsFunc(s, unprintable) {
		return "", invalid("the name must be at most 200 printable characters")
	}
	return s, nil
}

// unprintable reports what ends a line, or turns the reading direction of what follows in a list of names.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || unicode.In(r, unicode.Zl, unicode.Zp, unicode.Bidi_Control)
}

// checkRoles keeps role and scope names to a form that fits a token's space-separated list and a log line.
func checkRoles(names []string) error {
	for _, n := range names {
		if !roleName(n) {
			return invalid("%q is not a role: use 1 to 64 of a-z, 0-9, '_', '-', '.' and ':'", n)
		}
		if n == public {
			return invalid("%q cannot be given to a user: it stands for everyone", public)
		}
	}
	return nil
}

func roleName(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("_-.:", r)
	})
}

func isUniqueViolation(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == pgerrcode.UniqueViolation
}

func nonNil(s []string) []string {
	if s == nil {
		return []string{}
	}
	return slices.Compact(slices.Sorted(slices.Values(s)))
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
