package gate

import (
	"errors"
	"net/http"

	"github.com/google/uuid"
)

// signUpPage and signUp let a newcomer ask for an account. It is made when the link in the mail is followed, so an address that
// someone else typed in stays free, and the answer is the same whether or not it has an account already.
func (g *Gate) signUpPage(x *exchange) *denial {
	x.render(http.StatusOK, "signup", page{Title: "Sign up"})
	return nil
}

func (g *Gate) signUp(x *exchange) *denial {
	form, d := x.form()
	if d != nil {
		return d
	}
	again := func(message string) *denial {
		return x.formFault("signup", page{Title: "Sign up", Email: form.Get("email"), Error: message, Data: form.Get("name")})
	}
	email, err := canonicalEmail(form.Get("email"))
	if err != nil {
		return again(err.Error())
	}
	name, err := canonicalName(form.Get("name"))
	if err != nil {
		return again(err.Error())
	}
	if err := checkNewPassword(form.Get("password")); err != nil {
		return again(err.Error())
	}
	if d := g.allowMail(x, email); d != nil {
		return d
	}
	hash, err := g.store.hasher.hash(x.r.Context(), form.Get("password"))
	if err != nil {
		return denyBusy.because(err)
	}
	if err := g.queueMail(x.r.Context(), mailSignUp, email, mailPayload{Name: name, PasswordHash: hash}); err != nil {
		return denyUnavailable.because(err)
	}
	x.note("sign_up", "requested", "", "")
	return x.message("Check your mail", "We have sent a mail to "+email+". Follow the link in it within one hour.")
}

// allowMail bounds how much mail strangers can have sent to an address.
func (g *Gate) allowMail(x *exchange, email string) *denial {
	if q, ok := g.logins.take(addressKey(x.client), g.now()); !ok {
		return denyRate.after(q.wait)
	}
	wait, err := g.store.attempt(x.r.Context(), throttleMail, email)
	if err != nil {
		return denyUnavailable.because(err)
	}
	if wait > 0 {
		return denyRate.after(wait).saying("too many mails to this address were asked for: look for the last one, or try later")
	}
	return nil
}

// confirmPage shows a button, since programs that look for malware follow links in mails and must not use them up.
func (g *Gate) confirmPage(x *exchange) *denial {
	x.render(http.StatusOK, "confirm", page{Title: "Confirm your address", Data: x.r.URL.Query().Get("token")})
	return nil
}

// confirm proves a user's address.
func (g *Gate) confirm(x *exchange) *denial {
	form, d := x.form()
	if d != nil {
		return d
	}
	ctx := x.r.Context()
	email, _, err := g.useLink(ctx, form.Get("token"), mailVerify)
	if err != nil {
		return x.linkFault(err, "/auth/account")
	}
	u, err := g.store.oneUser(ctx, `UPDATE gate.users SET email_verified_at = coalesce(email_verified_at, now()) WHERE email = $1 RETURNING `+userColumns, email)
	if err != nil {
		return denyUnavailable.because(err)
	}
	x.note("verify_email", "ok", u.ID, "")
	return x.message("Thank you", "Your e-mail address is confirmed.")
}

func (g *Gate) signUpConfirmPage(x *exchange) *denial {
	x.render(http.StatusOK, "signupconfirm", page{Title: "Confirm your address", Data: x.r.URL.Query().Get("token")})
	return nil
}

// signUpConfirm makes a newcomer a user. It asks for the password once more: else somebody could sign up with another's address,
// wait for them to follow the link, and share the account.
func (g *Gate) signUpConfirm(x *exchange) *denial {
	form, d := x.form()
	if d != nil {
		return d
	}
	ctx, token := x.r.Context(), form.Get("token")
	email, hash, err := g.signUpOf(ctx, token)
	if err != nil {
		return x.linkFault(err, "/auth/signup")
	}
	guards := []guard{{throttleAddress, addressKey(x.client)}, {throttleAccount, email}}
	if d := g.guessing(ctx, guards); d != nil {
		return d
	}
	ok, err := g.store.hasher.verify(ctx, form.Get("password")[:min(len(form.Get("password")), maxPasswordBytes)], hash)
	if err != nil {
		return g.settle(ctx, guards, g.store.refund, denyBusy.because(err))
	}
	if !ok {
		x.note("sign_up", "refused", "", "")
		return x.formFault("signupconfirm", page{Title: "Confirm your address", Error: "that is not the password that was chosen at sign-up", Data: token})
	}
	if d := g.settle(ctx, guards, g.store.forgive, nil); d != nil {
		return d
	}
	_, p, err := g.useLink(ctx, token, mailSignUp)
	if err != nil {
		return x.linkFault(err, "/auth/signup")
	}
	id, err := uuid.NewV7()
	if err != nil {
		return denyInternal.because(err)
	}
	u, err := g.store.oneUser(ctx, `INSERT INTO gate.users (id, email, name, password_hash, roles, email_verified_at) VALUES ($1, $2, $3, $4, $5, now()) RETURNING `+userColumns,
		id, email, p.Name, p.PasswordHash, nonNil(g.routes.Load().table.SignUp))
	if errors.Is(err, ErrExists) { // made meanwhile, in another way
		x.note("sign_up", "refused", "", "exists")
		return x.message("You have an account already", "It was made in another way since you asked for one, and its password is as it was.")
	}
	if err != nil {
		return denyUnavailable.because(err)
	}
	x.noteBy(u.ID, "sign_up", "ok", u.ID, "")
	return x.message("Welcome", "Your account is ready. You can log in now.")
}

func (g *Gate) resetPage(x *exchange) *denial {
	x.render(http.StatusOK, "reset", page{Title: "Set a new password"})
	return nil
}

// reset mails a link to set a new password. Its answer is the same whether or not the address has an account.
func (g *Gate) reset(x *exchange) *denial {
	form, d := x.form()
	if d != nil {
		return d
	}
	email, err := canonicalEmail(form.Get("email"))
	if err != nil {
		return x.formFault("reset", page{Title: "Set a new password", Email: form.Get("email"), Error: err.Error()})
	}
	if d := g.allowMail(x, email); d != nil {
		return d
	}
	if err := g.queueMail(x.r.Context(), mailReset, email, mailPayload{}); err != nil {
		return denyUnavailable.because(err)
	}
	x.note("reset_password", "requested", "", "")
	return x.message("Check your mail", "If "+email+" has an account, a mail is on its way. Follow the link in it within one hour.")
}

func (g *Gate) resetConfirmPage(x *exchange) *denial {
	x.render(http.StatusOK, "newpassword", page{Title: "Set a new password", Data: x.r.URL.Query().Get("token")})
	return nil
}

func (g *Gate) resetConfirm(x *exchange) *denial {
	form, d := x.form()
	if d != nil {
		return d
	}
	if err := checkNewPassword(form.Get("password")); err != nil {
		return x.formFault("newpassword", page{Title: "Set a new password", Error: err.Error(), Data: form.Get("token")})
	}
	ctx := x.r.Context()
	email, _, err := g.useLink(ctx, form.Get("token"), mailReset)
	if err != nil {
		return x.linkFault(err, "/auth/reset")
	}
	if err := g.store.SetPassword(withActor(ctx, actorAnonymous, x.client.String()), email, form.Get("password")); err != nil {
		return denyUnavailable.because(err)
	}
	// Whoever reads the mail of an address owns it.
	u, err := g.store.oneUser(ctx, `UPDATE gate.users SET email_verified_at = coalesce(email_verified_at, now()) WHERE email = $1 RETURNING `+userColumns, email)
	if err != nil {
		return denyUnavailable.because(err)
	}
	if err := g.store.forgive(ctx, throttleAccount, email); err != nil {
		return denyUnavailable.because(err)
	}
	x.note("reset_password", "ok", u.ID, "")
	g.notice(x, email, "a new password was set for your account, by a link that we mailed.")
	return x.message("Done", "Your new password is set, and all devices are logged out. You can log in now.")
}

// linkFault answers for a link that does not work.
func (x *exchange) linkFault(err error, retry string) *denial {
	switch {
	case isBadCredential(err):
		x.note("use_link", "refused", "", "")
		if !x.wantsPage() {
			return denyCredential.saying("the link was used already, or is too old: ask for another at %s", retry)
		}
		x.code = denyCredential.code
		x.render(http.StatusUnauthorized, "message", page{Title: "This link does not work", Error: "It was used already, or is too old.", Next: retry})
		return nil
	default:
		return denyUnavailable.because(err)
	}
}

// accountPage shows a user their account.
func (g *Gate) accountPage(x *exchange) *denial {
	p, d := x.needSession()
	if d != nil {
		return d
	}
	user, err := g.store.FindUser(x.r.Context(), p.Email)
	if err != nil {
		return denyUnavailable.because(err)
	}
	factor, err := g.store.hasFactor(x.r.Context(), user.ID)
	if err != nil {
		return denyUnavailable.because(err)
	}
	x.render(http.StatusOK, "account", page{Title: "Your account", User: p, Data: map[string]any{
		"Verified": user.Verified, "Mail": g.cfg.Mail != nil, "Factor": factor,
	}})
	return nil
}

func (g *Gate) passwordPage(x *exchange) *denial {
	p, d := x.needSession()
	if d != nil {
		return d
	}
	has, err := g.store.hasPassword(x.r.Context(), p.Subject)
	switch {
	case err != nil:
		return denyUnavailable.because(err)
	case !has:
		return g.missPassword(x)
	}
	x.render(http.StatusOK, "password", page{Title: "Change your password"})
	return nil
}

// missPassword tells someone who logs in at a provider how to get a password, without which nothing can be changed.
func (g *Gate) missPassword(x *exchange) *denial {
	x.render(http.StatusOK, "password", page{Title: "You have no password yet", Data: map[string]bool{"Mail": g.cfg.Mail != nil}})
	return nil
}

// changePassword needs the old one, ends all other sessions, and gives this one a new id.
func (g *Gate) changePassword(x *exchange) *denial {
	p, d := x.needSession()
	if d != nil {
		return d
	}
	form, d := x.form()
	if d != nil {
		return d
	}
	again := func(message string) *denial {
		return x.formFault("password", page{Title: "Change your password", Error: message})
	}
	if err := checkNewPassword(form.Get("new_password")); err != nil {
		return again(err.Error())
	}
	user, d := g.provePassword(x, p.Email, form.Get("password"), "change_password")
	if d != nil {
		if d.code == denyLogin.code {
			return again("the old password is wrong")
		}
		return d
	}
	if err := g.store.SetPassword(withActor(x.r.Context(), p.Subject, x.client.String()), p.Email, form.Get("new_password")); err != nil {
		return denyUnavailable.because(err)
	}
	g.revoke(revocation{User: user.ID})
	if d := g.beginSession(x, user.ID); d != nil {
		return d
	}
	x.note("change_password", "ok", user.ID, "")
	g.notice(x, p.Email, "the password of your account was changed.")
	return x.message("Done", "Your new password is set. Your other devices are logged out.")
}

// notice mails a user about a change to their account, if mail is configured.
func (g *Gate) notice(x *exchange, email, text string) {
	if g.cfg.Mail == nil {
		return
	}
	if err := g.queueMail(x.r.Context(), mailNotice, email, mailPayload{Text: text}); err != nil {
		g.log.Error("no mail about a changed account", "request_id", x.id, "err", err)
	}
}

// endAllSessions signs a user out everywhere, here included.
func (g *Gate) endAllSessions(x *exchange) *denial {
	p, d := x.needSession()
	if d != nil {
		return d
	}
	if err := g.store.endSessions(x.r.Context(), p.Subject, ""); err != nil {
		return denyUnavailable.because(err)
	}
	g.revoke(revocation{User: p.Subject})
	g.cookies.clear(x.w)
	x.note("end_all_sessions", "ok", p.Subject, "")
	return x.redirect("/auth/logout")
}

// sendVerification mails a link that proves a user's address.
func (g *Gate) sendVerification(x *exchange) *denial {
	p, d := x.needSession()
	if d != nil {
		return d
	}
	if d := g.allowMail(x, p.Email); d != nil {
		return d
	}
	if err := g.queueMail(x.r.Context(), mailVerify, p.Email, mailPayload{}); err != nil {
		return denyUnavailable.because(err)
	}
	return x.message("Check your mail", "We have sent a mail to "+p.Email+". Follow the link in it within one hour.")
}

// needSession is session for pages that only make sense to who is logged in.
func (x *exchange) needSession() (*Principal, *denial) {
	p, d := x.session()
	if d == nil && p == nil {
		d = denyAnonymous
	}
	return p, d
}

// message shows a page that says one thing.
func (x *exchange) message(title, text string) *denial {
	x.render(http.StatusOK, "message", page{Title: title, Notice: text})
	return nil
}

// formFault shows a form again with what is wrong with it; a program gets a problem.
func (x *exchange) formFault(name string, p page) *denial {
	if !x.wantsPage() {
		return denyInput.saying("%s", p.Error)
	}
	x.code = denyInput.code
	x.render(http.StatusUnprocessableEntity, name, p)
	return nil
}
