package http

import (
	"context"
	"net/http"

	"github.com/google/uuid"

	"millrace"
)

// exchange is what is known of a request while it is answered. One goroutine at a time uses it.
type exchange struct {
	id        string // the request's id, as the gate or this process named it
	route     string // the pattern that matched
	principal *millrace.Principal
	err       error // why it failed
}

type exchangeKey struct{}

func withExchange(r *http.Request, x *exchange) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
}

// exchangeOf is the exchange of a request's context, an empty one outside of the server.
func exchangeOf(ctx context.Context) *exchange {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{}
}

// PrincipalFrom is who a request comes from, or CodeUnauthorized. It is for handlers that the Server mounts: they need not verify the
// identity again.
func PrincipalFrom(r *http.Request) (millrace.Principal, error) { return principalOf(r.Context()) }

func principalOf(ctx context.Context) (millrace.Principal, error) {
	if p := exchangeOf(ctx).principal; p != nil {
		return *p, nil
	}
	return millrace.Principal{}, errUnauthorized(nil)
}

func errUnauthorized(cause error) error {
	return millrace.WrapError(millrace.CodeUnauthorized, cause, "Log in, or send an API key: Authorization: Bearer mk_...")
}

// actorOf names who acts, for the events of an order.
func actorOf(p millrace.Principal) string {
	if p.Is(millrace.RoleOperator) {
		return "operator:" + p.Subject
	}
	return "customer:" + p.Subject
}

// requestID takes over the id that the gate gave, or makes one.
func requestID(r *http.Request) string {
	id := r.Header.Get("X-Request-Id")
	if isPrintable(id, 128) {
		return id
	}
	return uuid.NewString()
}

// isPrintable reports whether s is 1 to limit printable ASCII characters.
func isPrintable(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' && s[i] != ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
