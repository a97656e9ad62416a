package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/oauth2"
)

// errNoAccount: a provider vouches for someone whom no account here may be given to.
var errNoAccount = errors.New("no account")

// linkExternal returns the user that someone at a provider is. One who comes for the first time is linked to the account with
// the same e-mail address if both sides have verified it, or else whoever typed in a stranger's address first would own what
// the stranger does later; with no such account one is made, if roles says what a newcomer gets.
func (s *Store) linkExternal(ctx context.Context, who external, roles []string) (User, error) {
	user, err := s.oneUser(ctx, `SELECT `+userColumns+` FROM gate.users
		WHERE id = (SELECT user_id FROM gate.external_identities WHERE issuer = $1 AND subject = $2)`, who.Issuer, who.Subject)
	if err == nil {
		return user, notDisabled(user)
	}
	if !errors.Is(err, ErrNotFound) {
		return User{}, err
	}
	if !who.EmailVerified || who.Email == "" {
		return User{}, fmt.Errorf("%w: the provider has not verified the e-mail address", errNoAccount)
	}
	email, err := canonicalEmail(who.Email)
	if err != nil {
		return User{}, fmt.Errorf("%w: the provider's e-mail address is not valid", errNoAccount)
	}
	user, err = s.FindUser(ctx, email)
	switch {
	case errors.Is(err, ErrNotFound):
		if len(roles) == 0 {
			return User{}, fmt.Errorf("%w: nobody can sign up", errNoAccount)
		}
		name, err := canonicalName(who.Name)
		if err != nil {
			name = ""
		}
		if user, err = s.AddUser(ctx, NewUser{Email: email, Name: name, Roles: roles, Verified: true}); err != nil {
			return User{}, err
		}
	case err != nil:
		return User{}, err
	case !user.Verified:
		return User{}, fmt.Errorf("%w: the account's e-mail address is not verified", errNoAccount)
	}
	if err := notDisabled(user); err != nil {
		return User{}, err
	}
	tag, err := s.pool.Exec(ctx, `INSERT INTO gate.external_identities (issuer, subject, user_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		who.Issuer, who.Subject, user.ID)
	if err != nil {
		return User{}, fmt.Errorf("link an external identity: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return user, nil
	}
	return user, s.audit(ctx, "link_identity", "ok", user.ID, "")
}

func notDisabled(u User) error {
	if u.Disabled {
		return fmt.Errorf("%w: it is disabled", errNoAccount)
	}
	return nil
}

const refreshPurpose = "refresh token"

// followProvider lets a session go on only as long as the provider renews it.
func (g *Gate) followProvider(ctx context.Context, session string, o origin) error {
	if o.Refresh == "" {
		return nil
	}
	client, d := g.oidcClient(ctx, o.Provider)
	if d != nil {
		return fmt.Errorf("follow provider %s: %s", o.Provider, d.code)
	}
	if _, err := g.store.pool.Exec(ctx, `INSERT INTO gate.oidc_sessions (session_id, provider, sealed_refresh, check_at) VALUES ($1, $2, $3, now() + $4::interval)`,
		session, o.Provider, g.vault.seal(refreshPurpose+session, []byte(o.Refresh)), time.Duration(client.config.Recheck)); err != nil {
		return fmt.Errorf("store a refresh token: %w", err)
	}
	return nil
}

// recheckProviders renews the sessions that are due at their providers, and ends those that a provider no longer renews. A
// provider that is down ends none.
func (g *Gate) recheckProviders(ctx context.Context) error {
	for {
		var session uuid.UUID
		var provider string
		var box []byte
		err := g.store.pool.QueryRow(ctx, `UPDATE gate.oidc_sessions SET check_at = now() + interval '1 minute'
			WHERE session_id = (SELECT o.session_id FROM gate.oidc_sessions o JOIN gate.sessions s ON s.id = o.session_id
				WHERE o.check_at <= now() AND s.revoked_at IS NULL AND s.expires_at > now() ORDER BY o.check_at LIMIT 1 FOR UPDATE OF o SKIP LOCKED)
			RETURNING session_id, provider, sealed_refresh`).Scan(&session, &provider, &box)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("claim a session to renew: %w", err)
		}
		if err := g.recheck(ctx, session.String(), provider, box); err != nil {
			g.log.WarnContext(ctx, "session not renewed at its provider; it will be tried again", "session", session, "provider", provider, "err", err)
		}
	}
}

func (g *Gate) recheck(ctx context.Context, session, provider string, box []byte) error {
	refresh, err := g.vault.open(refreshPurpose+session, box)
	if err != nil {
		return err
	}
	client, d := g.oidcClient(ctx, provider)
	if d != nil {
		return fmt.Errorf("provider %s: %s: %v", provider, d.code, d.cause) //nolint:errorlint // the cause may be nil
	}
	ctx = g.oidc.context(ctx)
	token, err := client.oauth.TokenSource(ctx, &oauth2.Token{RefreshToken: string(refresh)}).Token()
	var refused *oauth2.RetrieveError
	switch {
	case errors.As(err, &refused) && refused.Response.StatusCode < 500:
		if err := g.store.endSession(ctx, session); err != nil {
			return err
		}
		g.revoke(revocation{Credential: session})
		return g.store.audit(withActor(ctx, "provider "+provider, ""), "end_session", "ok", "", session)
	case err != nil:
		return fmt.Errorf("renew at the provider: %w", err)
	}
	if raw, ok := token.Extra("id_token").(string); ok {
		if _, err := client.verifier.Verify(ctx, raw); err != nil {
			return fmt.Errorf("verify the renewed ID token: %w", err)
		}
	}
	if _, err := g.store.pool.Exec(ctx, `UPDATE gate.oidc_sessions SET sealed_refresh = $2, check_at = now() + $3::interval WHERE session_id = $1`,
		session, g.vault.seal(refreshPurpose+session, []byte(token.RefreshToken)), time.Duration(client.config.Recheck)); err != nil {
		return fmt.Errorf("store a refresh token: %w", err)
	}
	return nil
}
