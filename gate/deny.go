package gate

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// denial is why a request ends at the gate. Its code is stable: it stands in the answer, the log and the metrics.
type denial struct {
	status     int
	code       string
	detail     string        // for the client: what to change, never a cause
	cause      error         // for the log
	retryAfter time.Duration // when it makes sense to try again; zero: not by waiting
	allow      []string      // methods, for 405
}

func (d *denial) because(err error) *denial {
	out := *d
	out.cause = err
	return &out
}

func (d *denial) after(wait time.Duration) *denial {
	out := *d
	out.retryAfter = max(wait, time.Second)
	return &out
}

func (d *denial) saying(format string, args ...any) *denial {
	out := *d
	out.detail = fmt.Sprintf(format, args...)
	return &out
}

// Every reason to refuse a request.
var (
	denyPath          = &denial{status: 400, code: "bad_path", detail: "the path is not acceptable"}
	denyHost          = &denial{status: 400, code: "bad_host", detail: "the Host header is not acceptable"}
	denyBodyBroken    = &denial{status: 400, code: "bad_body", detail: "the request body cannot be read as it is framed"}
	denyHostUnknown   = &denial{status: 421, code: "unknown_host", detail: "no site of this name is served here"}
	denyAmbiguous     = &denial{status: 400, code: "ambiguous_credentials", detail: "send either an API key or one session cookie, not both and not several"}
	denyAnonymous     = &denial{status: 401, code: "unauthorized", detail: "log in, or send an API key as 'Authorization: Bearer mk_...'"}
	denyCredential    = &denial{status: 401, code: "bad_credential", detail: "the API key or session is unknown, expired or revoked: log in again or use another key"}
	denyLogin         = &denial{status: 401, code: "bad_login", detail: "e-mail address or password is wrong"}
	denyFactor        = &denial{status: 401, code: "bad_factor", detail: "the code is wrong, or was used already"}
	denyFactorMissing = &denial{status: 401, code: "factor_required", detail: "this account has a second factor: send its code as the form field code"}
	denyRole          = &denial{status: 403, code: "forbidden", detail: "your account may not do this"}
	denyScope         = &denial{status: 403, code: "insufficient_scope", detail: "the API key lacks a scope that this needs"}
	denyCrossSite     = &denial{status: 403, code: "cross_site", detail: "a page of another site may not do this in your name"}
	denyNoRoute       = &denial{status: 404, code: "not_found", detail: "there is nothing at this address"}
	denyMethod        = &denial{status: 405, code: "method_not_allowed", detail: "this address does not support the method"}
	denySlow          = &denial{status: 408, code: "body_too_slow", detail: "the request body took too long to arrive"}
	denyBody          = &denial{status: 413, code: "body_too_large", detail: "the request body is too large"}
	denyInput         = &denial{status: 422, code: "invalid", detail: "the form is not filled in properly"}
	denyRate          = &denial{status: 429, code: "rate_limited", detail: "too many requests: wait as long as Retry-After says"}
	denyInternal      = &denial{status: 500, code: "internal", detail: "something went wrong on our side"}
	denyUpstream      = &denial{status: 502, code: "upstream_failed", detail: "the service behind the gate did not answer properly; try again"}
	denyBusy          = &denial{status: 503, code: "busy", detail: "too many requests at the moment; try again", retryAfter: 2 * time.Second}
	denyUnavailable   = &denial{status: 503, code: "unavailable", detail: "the request cannot be checked at the moment; try again", retryAfter: 2 * time.Second}
	denyTimeout       = &denial{status: 504, code: "upstream_timeout", detail: "the service behind the gate took too long; try again"}
)

// writeDenial answers with the denial: a browser that merely opened a page is sent to the login page where that helps, and is shown a page
// otherwise; anything else gets problem+json (RFC 9457).
func (x *exchange) writeDenial(d *denial) {
	h := x.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if d.retryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(d.retryAfter.Seconds()))))
	}
	if len(d.allow) > 0 {
		h.Set("Allow", strings.Join(d.allow, ", "))
	}
	if d.status == http.StatusUnauthorized {
		if x.wantsPage() && x.r.Method == http.MethodGet {
			h.Set("Location", "/auth/login?next="+url.QueryEscape(localTarget(x.r.URL.RequestURI(), "/")))
			x.w.WriteHeader(http.StatusSeeOther)
			return
		}
		h.Set("WWW-Authenticate", `Bearer realm="gate"`)
	}
	if x.wantsPage() {
		x.renderDenial(d)
		return
	}
	h.Set("Content-Type", "application/problem+json")
	x.w.WriteHeader(d.status)
	// A client that went away cannot be told anything.
	_ = json.NewEncoder(x.w).Encode(map[string]any{
		"title": http.StatusText(d.status), "status": d.status, "code": d.code, "detail": d.detail, "request_id": x.id,
	})
}

// renderDenial shows a person why they cannot go on.
func (x *exchange) renderDenial(d *denial) {
	p := page{Title: http.StatusText(d.status), Error: d.detail, Data: x.id}
	if d == denyAnonymous || d == denyCredential {
		p.Title, p.Error = "Log in again", "you are not logged in, or no longer"
	}
	x.render(d.status, "denied", p)
}
