package gate

import (
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

const (
	maxForm      = 64 << 10
	formPatience = 10 * time.Second
)

// ownHandler serves what lies under /auth/, and the key set.
func (g *Gate) ownHandler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, serve func(*exchange) *denial) {
		mux.HandleFunc(pattern, func(_ http.ResponseWriter, r *http.Request) {
			x := exchangeOf(r.Context())
			x.r = r
			if d := serve(x); d != nil {
				x.deny(d)
			}
		})
	}
	mux.HandleFunc("GET "+jwksPath, g.signer.serveJWKS)
	mux.HandleFunc("GET /auth/style.css", serveStyle)
	handle("GET /auth/login", g.loginPage)
	handle("POST /auth/login", g.login)
	handle("GET /auth/logout", g.logoutPage)
	handle("POST /auth/logout", g.logout)
	handle("GET /auth/session", g.showSession)
	handle("POST /auth/login/factor", g.loginFactor)
	handle("GET /auth/account", g.accountPage)
	handle("GET /auth/password", g.passwordPage)
	handle("POST /auth/password", g.changePassword)
	handle("GET /auth/factor", g.factorPage)
	handle("POST /auth/factor", g.factorOn)
	handle("POST /auth/factor/off", g.factorOff)
	handle("POST /auth/sessions/end", g.endAllSessions)
	handle("GET /auth/oidc/{provider}", g.oidcStart)
	handle("GET /auth/oidc/{provider}/callback", g.oidcCallback)
	if g.cfg.ForwardAuth {
		handle(verifyPath, g.verify)
	}
	if g.cfg.Mail != nil {
		handle("GET /auth/signup", g.whereSignUp(g.signUpPage))
		handle("POST /auth/signup", g.whereSignUp(g.signUp))
		handle("GET /auth/signup/confirm", g.whereSignUp(g.signUpConfirmPage))
		handle("POST /auth/signup/confirm", g.whereSignUp(g.signUpConfirm))
		handle("GET /auth/confirm", g.confirmPage)
		handle("POST /auth/confirm", g.confirm)
		handle("GET /auth/reset", g.resetPage)
		handle("POST /auth/reset", g.reset)
		handle("GET /auth/reset/confirm", g.resetConfirmPage)
		handle("POST /auth/reset/confirm", g.resetConfirm)
		handle("POST /auth/email", g.sendVerification)
	}
	return g.guardOwn(mux)
}

// guardOwn applies to all of the gate's own pages: nothing is cached or framed, writes come from this site, forms are small.
func (g *Gate) guardOwn(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchangeOf(r.Context())
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Request-Id", x.id)
		if x.proto == "https" {
			h.Set("Strict-Transport-Security", "max-age=31536000")
		}
		if err := g.csrf.Check(r); err != nil {
			x.deny(denyCrossSite.because(err))
			return
		}
		if r.Body != nil && r.ContentLength != 0 {
			x.body = newTimedBody(http.MaxBytesReader(w, r.Body, maxForm), x.w.control, formPatience)
			r.Body = x.body
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			x.deny(denyNoRoute)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// form reads the posted form.
func (x *exchange) form() (url.Values, *denial) {
	if err := x.r.ParseForm(); err != nil {
		if x.body.late() {
			return nil, denySlow.because(err)
		}
		return nil, denyInput.saying("the form cannot be read: send it as application/x-www-form-urlencoded of at most %d bytes", maxForm)
	}
	return x.r.PostForm, nil
}

// session returns who is logged in by cookie, or nil, and takes them for who makes the request.
func (x *exchange) session() (*Principal, *denial) {
	p, d := x.findSession()
	if d == nil {
		x.principal = p
	}
	return p, d
}

func (x *exchange) findSession() (*Principal, *denial) {
	if x.gate.ambiguous(x.r) {
		return nil, denyAmbiguous
	}
	for _, a := range x.gate.authenticators {
		s, ok := a.(*sessionAuthenticator)
		if !ok {
			continue
		}
		p, err := s.authenticate(x.r)
		if err != nil && !isBadCredential(err) {
			return nil, denyUnavailable.because(err)
		}
		return p, nil
	}
	return nil, nil
}

// redirect sends the browser to a path on this site.
func (x *exchange) redirect(target string) *denial {
	x.w.Header().Set("Location", target)
	x.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// showSession tells a page's script who is logged in.
func (g *Gate) showSession(x *exchange) *denial {
	p, d := x.session()
	if d != nil {
		return d
	}
	if p == nil {
		return denyAnonymous
	}
	x.w.Header().Set("Content-Type", "application/json")
	// A client that went away cannot be told anything.
	_ = json.NewEncoder(x.w).Encode(map[string]any{
		"subject": p.Subject, "email": p.Email, "name": p.Name, "roles": p.Roles, "expires_at": p.Expires.UTC(),
	})
	return nil
}

// whereSignUp serves a page only where the routes file lets newcomers sign up.
func (g *Gate) whereSignUp(serve func(*exchange) *denial) func(*exchange) *denial {
	return func(x *exchange) *denial {
		if len(g.routes.Load().table.SignUp) == 0 {
			return denyNoRoute
		}
		return serve(x)
	}
}

// siteName is what the gate calls the site it guards.
func (g *Gate) siteName() string {
	u, err := url.Parse(g.cfg.PublicURL)
	if err != nil {
		return "gate"
	}
	return u.Hostname()
}
