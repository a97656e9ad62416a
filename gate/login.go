package gate

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/jackc/pgx/v5"
)

func isBadCredential(err error) bool { return errors.Is(err, errBadCredential) }

func (g *Gate) loginPage(x *exchange) *denial {
	x.render(http.StatusOK, "login", g.loginForm(localTarget(x.r.URL.Query().Get("next"), "/"), "", ""))
	return nil
}

// loginForm is the page with all ways to log in.
func (g *Gate) loginForm(next, email, fault string) page {
	t := g.routes.Load().table
	return page{Title: "Log in", Next: next, Email: email, Error: fault, Data: map[string]any{
		"SignUp": g.cfg.Mail != nil && len(t.SignUp) > 0, "Reset": g.cfg.Mail != nil, "Providers": t.OIDC,
	}}
}

// login trades e-mail address and password, and a second factor where there is one, for a session cookie.
func (g *Gate) login(x *exchange) *denial {
	form, d := x.form()
	if d != nil {
		return d
	}
	email, next := form.Get("email"), localTarget(form.Get("next"), "/")
	user, d := g.provePassword(x, email, form.Get("password"), "login")
	if d != nil {
		return x.loginFailed(email, next, d)
	}
	return g.finishLogin(x, user, next, form.Get("code"), origin{Method: "password"})
}

// provePassword returns the user whom address and password belong to, within the limits on guessing.
func (g *Gate) provePassword(x *exchange, email, password, action string) (User, *denial) {
	if q, ok := g.logins.take(addressKey(x.client), g.now()); !ok {
		g.metrics.logins.WithLabelValues("rate_limited").Inc()
		return User{}, denyRate.after(q.wait).saying("too many attempts to log in: wait a little and try again")
	}
	ctx := x.r.Context()
	account := email
	if canonical, err := canonicalEmail(email); err == nil {
		account = canonical
	}
	guards := []guard{{throttleAddress, addressKey(x.client)}, {throttleAccount, account}}
	if d := g.guessing(ctx, guards); d != nil {
		g.metrics.logins.WithLabelValues("locked").Inc()
		locked, _ := g.store.FindUser(ctx, account) // none, where nobody has the address
		x.note(action, "locked", locked.ID, "")
		return User{}, d
	}
	user, err := g.store.checkPassword(ctx, email, password)
	switch {
	case errors.Is(err, errBusy):
		g.metrics.logins.WithLabelValues("busy").Inc()
		return User{}, g.settle(ctx, guards, g.store.refund, denyBusy.because(err))
	case isBadCredential(err):
		g.metrics.logins.WithLabelValues("refused").Inc()
		x.note(action, "refused", user.ID, "")
		return User{}, denyLogin
	case err != nil:
		return User{}, g.settle(ctx, guards, g.store.refund, denyUnavailable.because(err))
	}
	return user, g.settle(ctx, guards, g.store.forgive, nil)
}

// guard is one counter that an attempt is held against.
type guard struct {
	throttle throttle
	subject  string
}

// guessing counts an attempt on each counter and refuses it if one of them says to wait.
func (g *Gate) guessing(ctx context.Context, guards []guard) *denial {
	for i, c := range guards {
		wait, err := g.store.attempt(ctx, c.throttle, c.subject)
		if err != nil {
			return denyUnavailable.because(err)
		}
		if wait > 0 {
			d := denyRate.after(wait).saying("too many failed attempts: wait as long as Retry-After says")
			if c.throttle == throttleAccount {
				d = d.saying("%s, or set a new password", d.detail)
			}
			return g.settle(ctx, guards[:i], g.store.refund, d)
		}
	}
	return nil
}

// settle applies an outcome to the counters and returns d, or what went wrong in doing so.
func (g *Gate) settle(ctx context.Context, guards []guard, outcome func(context.Context, throttle, string) error, d *denial) *denial {
	ctx = context.WithoutCancel(ctx)
	for _, c := range guards {
		if err := outcome(ctx, c.throttle, c.subject); err != nil {
			return denyUnavailable.because(err)
		}
	}
	return d
}

// loginFailed says why, as a page to a person and as a problem to a program.
func (x *exchange) loginFailed(email, next string, d *denial) *denial {
	if !x.wantsPage() || d.status >= http.StatusInternalServerError && d.code != denyBusy.code {
		return d
	}
	x.code, x.cause = d.code, d.cause
	if d.retryAfter > 0 {
		x.w.Header().Set("Retry-After", fmt.Sprint(int(d.retryAfter.Seconds()+1)))
	}
	x.render(d.status, "login", x.gate.loginForm(next, email, d.detail))
	return nil
}

// pendingLogin is what stands between the right password and the second factor. It travels in the form, sealed; a change of the
// password voids it.
type pendingLogin struct {
	User    string    `json:"user"`
	Proof   string    `json:"proof"` // of the password hash it was given for
	Next    string    `json:"next"`
	Origin  origin    `json:"origin"`
	Expires time.Time `json:"expires"`
}

// origin is how someone logged in, and how to learn that a provider no longer stands by it.
type origin struct {
	Method   string `json:"method"`
	Provider string `json:"provider,omitempty"`
	Refresh  string `json:"refresh,omitempty"`
}

const (
	pendingPurpose = "pending login"
	pendingLife    = 5 * time.Minute
)

// finishLogin starts the session of someone who proved who they are, once the second factor was given where there is one.
func (g *Gate) finishLogin(x *exchange, user User, next, code string, from origin) *denial {
	ctx := x.r.Context()
	factor, err := g.store.hasFactor(ctx, user.ID)
	if err != nil {
		return denyUnavailable.because(err)
	}
	if factor {
		if code == "" {
			return g.askFactor(x, user, next, from, "")
		}
		if d := g.proveFactor(x, user.ID, code); d != nil {
			if d.code != denyFactor.code {
				return d
			}
			return g.askFactor(x, user, next, from, d.detail)
		}
		from.Method += "+factor"
	}
	if d := g.beginSession(x, user.ID); d != nil {
		return d
	}
	if err := g.followProvider(ctx, x.newSession, from); err != nil {
		return denyUnavailable.because(err)
	}
	g.metrics.logins.WithLabelValues("ok").Inc()
	x.noteBy(user.ID, "login", "ok", user.ID, from.Method)
	return x.redirect(next)
}

// askFactor shows the form for the second factor; a program is told to send the code along.
func (g *Gate) askFactor(x *exchange, user User, next string, from origin, fault string) *denial {
	if !x.wantsPage() {
		if fault != "" {
			return denyFactor
		}
		return denyFactorMissing
	}
	proof, err := g.store.passwordProof(x.r.Context(), user.ID)
	if err != nil {
		return denyUnavailable.because(err)
	}
	text, err := json.Marshal(pendingLogin{User: user.ID, Proof: proof, Next: next, Origin: from, Expires: g.now().Add(pendingLife)})
	if err != nil {
		return denyInternal.because(err)
	}
	status := http.StatusOK
	if fault != "" {
		status, x.code = http.StatusUnauthorized, denyFactor.code
	}
	x.render(status, "factor", page{Title: "Second factor", Error: fault, Data: base64.RawURLEncoding.EncodeToString(g.vault.seal(pendingPurpose, text))})
	return nil
}

// loginFactor takes the second factor of a login whose first is sealed in the form.
func (g *Gate) loginFactor(x *exchange) *denial {
	form, d := x.form()
	if d != nil {
		return d
	}
	stale := denyLogin.saying("the login took too long: start again")
	var pending pendingLogin
	box, err := base64.RawURLEncoding.DecodeString(form.Get("pending"))
	if err != nil {
		return x.loginFailed("", "/", stale)
	}
	text, err := g.vault.open(pendingPurpose, box)
	if err != nil || json.Unmarshal(text, &pending) != nil || !g.now().Before(pending.Expires) {
		return x.loginFailed("", "/", stale)
	}
	proof, err := g.store.passwordProof(x.r.Context(), pending.User)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return denyUnavailable.because(err)
	}
	if err != nil || proof != pending.Proof {
		return x.loginFailed("", "/", stale)
	}
	user, err := g.store.oneUser(x.r.Context(), `SELECT `+userColumns+` FROM gate.users WHERE id = $1 AND disabled_at IS NULL`, pending.User)
	if errors.Is(err, ErrNotFound) {
		return x.loginFailed("", "/", stale)
	}
	if err != nil {
		return denyUnavailable.because(err)
	}
	if form.Get("code") == "" {
		return g.askFactor(x, user, pending.Next, pending.Origin, denyFactor.detail)
	}
	return g.finishLogin(x, user, localTarget(pending.Next, "/"), form.Get("code"), pending.Origin)
}

// beginSession starts a session under a new id and ends the one that the browser had, so that an id known before the login
// is worth nothing after it.
func (g *Gate) beginSession(x *exchange, userID string) *denial {
	ctx := x.r.Context()
	old, d := x.findSession()
	if d != nil {
		return d
	}
	if old != nil {
		if err := g.store.endSession(ctx, old.Credential); err != nil {
			return denyUnavailable.because(err)
		}
		g.revoke(revocation{Credential: old.Credential})
	}
	token, id, err := g.store.startSession(ctx, userID, g.cfg.SessionLifetime)
	if err != nil {
		return denyUnavailable.because(err)
	}
	x.newSession = id
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
		x.note("logout", "ok", p.Subject, "")
	}
	g.cookies.clear(x.w)
	return x.redirect("/auth/logout")
}

// checkPassword returns the user whom address and password belong to, or errBadCredential. An unknown address, a disabled
// user and a wrong password cost the same and look the same; with errBadCredential the user's id is set if there is one.
func (s *Store) checkPassword(ctx context.Context, email, password string) (User, error) {
	var hash string
	var user User
	var disabled bool
	address, err := canonicalEmail(email)
	if err == nil {
		err = s.pool.QueryRow(ctx, `SELECT id::text, email, name, roles, coalesce(password_hash, ''), disabled_at IS NOT NULL FROM gate.users WHERE email = $1`,
			address).Scan(&user.ID, &user.Email, &user.Name, &user.Roles, &hash, &disabled)
	}
	if err != nil && !errors.Is(err, pgx.ErrNoRows) && !errors.Is(err, ErrInvalid) {
		return User{}, fmt.Errorf("look up a user: %w", err)
	}
	if disabled {
		hash = ""
	}
	if len(password) > maxPasswordBytes {
		password, hash = password[:maxPasswordBytes], ""
	}
	ok, err := s.hasher.verify(ctx, password, hash)
	if err != nil {
		return User{}, fmt.Errorf("check a password: %w", err)
	}
	if !ok {
		return User{ID: user.ID}, errBadCredential
	}
	if s.hasher.outdated(hash) {
		if fresh, err := s.hasher.hash(ctx, password); err == nil {
			// Another chance comes with the next login.
			_, _ = s.pool.Exec(ctx, `UPDATE gate.users SET password_hash = $2 WHERE id = $1 AND password_hash = $3`, user.ID, fresh, hash)
		}
	}
	return user, nil
}
