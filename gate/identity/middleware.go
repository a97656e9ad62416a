package identity

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
)

// Middleware lets a request through to next only with a valid token, and puts its claims in the request's context.
// Anything else is answered with 401, or 503 while the gate's keys cannot be had, as application/problem+json.
func (v *Verifier) Middleware(next http.Handler) http.Handler { return v.wrap(next, false) }

// Optional is Middleware for services that also serve the public: a request without any token goes on without claims.
// One with a token that is not valid is refused all the same.
func (v *Verifier) Optional(next http.Handler) http.Handler { return v.wrap(next, true) }

func (v *Verifier) wrap(next http.Handler, anonymous bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		values := r.Header.Values(Header)
		if len(values) == 0 && anonymous {
			next.ServeHTTP(w, r)
			return
		}
		token := ""
		if len(values) == 1 {
			token = values[0]
		}
		claims, err := v.Verify(r.Context(), token)
		if len(values) > 1 {
			err = ErrInvalid
		}
		if err != nil {
			refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(NewContext(r.Context(), claims)))
	})
}

func refuse(w http.ResponseWriter, r *http.Request, err error) {
	status, code, detail := http.StatusUnauthorized, "unauthorized", ErrInvalid.Error()
	switch {
	case errors.Is(err, ErrMissing):
		detail = ErrMissing.Error()
	case errors.Is(err, ErrUnavailable):
		status, code, detail = http.StatusServiceUnavailable, "unavailable", "identities cannot be checked at the moment; try again"
		w.Header().Set("Retry-After", "2")
	}
	slog.WarnContext(r.Context(), "request refused", "reason", err.Error(), "method", r.Method)
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// A client that went away cannot be told anything.
	_ = json.NewEncoder(w).Encode(map[string]any{
		"title": http.StatusText(status), "status": status, "code": code, "detail": detail,
	})
}
