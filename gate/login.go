package gate

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/jackc/pgx/v5"
)

func isBadCredential(err error) bool { return errors.Is(err, errBadCredential) }

func (g *Gate) loginPage(x *exchange) *denial {
	x.render(http.StatusOK, "login", page{Title: "Log in", Next: localTarget(x.r.URL.Query().Get("next"), "/")})
	return nil
}

// login trades e-mail address and password for a session cookie.
func (g *Gate) login(x *exchange) *denial {
	if q, ok := g.logins.take(addressKey(x.client), g.now()); !ok {
		return x.loginFailed("", denyRate.after(q.wait).saying("too many attempts to log in: wait a little and try again"))
	}
	form, d := x.form()
	if d != nil {
		return d
	}
	email, next := form.Get("email"), localTarget(form.Get("next"), "/")
	user, err := g.store.checkPassword(x.r.Context(), email, form.Get("password"))
	switch {
	case errors.Is(err, errBusy):
		return x.loginFailed(email, denyBusy.because(err))
	case errors.Is(err, errBadCredential):
		return x.loginFailed(email, denyLogin)
	case err != nil:
		return denyUnavailable.because(err)
	}
	if d := g.beginSession(x, user.ID); d != nil {
		return d
	}
	return x.redirect(next)
}

// loginFailed says why, as a page to a person and as a problem to a program.
func (x *exchange) loginFailed(email string, d *denial) *denial {
	if !x.wantsPage() {
		// Nobody is sent from the login to the login, whatever the status.
		return d
	}
	x.code, x.cause = d.code, d.cause
	x.render(d.status, "login", page{Title: "Log in", Error: d.detail, Email: email, Next: localTarget(x.r.PostForm.Get("next"), "/")})
	return nil
}

// beginSession starts a session under a new id and ends the one that the browser had, so that an id known before the login
// is worth nothing after it.
func (g *Gate) beginSession(x *exchange, userID string) *denial {
	ctx := x.r.Context()
	old, d := x.session()
	if d != nil {
		return d
	}
	if old != nil {
		if err := g.store.endSession(ctx, old.Credential); err != nil {
			return denyUnavailable.because(err)
		}
		g.revoke(revocation{Credential: old.Credential})
	}
	token, _, err := g.store.startSession(ctx, userID, g.cfg.SessionLifetime)
	if err != nil {
		return denyUnavailable.because(err)
	}
	g.cookies.set(x.w, token, g.cfg.SessionLifetime)
	return nil
}

func (g *Gate) logoutPage(x *exchange) *denial {
	p, d := x.session()
	if d != nil {
		return d
	}
	x.render(http.StatusOK, "logout", page{Title: "Log out", User: p})
	return nil
}

// logout ends the session in the database, not in the browser alone, and with it the streams it opened.
func (g *Gate) logout(x *exchange) *denial {
	p, d := x.session()
	if d != nil {
		return d
	}
	if p != nil {
		if err := g.store.endSession(x.r.Context(), p.Credential); err != nil {
			return denyUnavailable.because(err)
		}
		g.revoke(revocation{Credential: p.Credential})
	}
	g.cookies.clear(x.w)
	return x.redirect("/auth/logout")
}

// checkPassword returns the user whom address and password belong to, or errBadCredential. An unknown address, a disabled
// user and a wrong password cost the same and look the same.
func (s *Store) checkPassword(ctx context.Context, email, password string) (User, error) {
	var hash string
	var user User
	address, err := canonicalEmail(email)
	if err == nil {
		err = s.pool.QueryRow(ctx, `SELECT id::text, email, name, roles, coalesce(password_hash, '') FROM gate.users WHERE email = $1 AND disabled_at IS NULL`,
			address).Scan(&user.ID, &user.Email, &user.Name, &user.Roles, &hash)
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) && !errors.Is(err, ErrInvalid) {
		return User{}, fmt.Errorf("look up a user: %w", err)
	}
	if len(password) > maxPasswordBytes {
		password, hash = password[:maxPasswordBytes], ""
	}
	ok, err := s.hasher.verify(ctx, password, hash)
	if err != nil {
		return User{}, fmt.Errorf("check a password: %w", err)
	}
	if !ok {
		return User{}, errBadCredential
	}
	if s.hasher.outdated(hash) {
		if fresh, err := s.hasher.hash(ctx, password); err == nil {
			// Another chance comes with the next login.
			_, _ = s.pool.Exec(ctx, `UPDATE gate.users SET password_hash = $2 WHERE id = $1 AND password_hash = $3`, user.ID, fresh, hash)
		}
	}
	return user, nil
}
