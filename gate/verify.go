package gate

import (
	"net/http"
	"net/netip"

	"millrace/gate/identity"
)

const verifyPath = "/auth/verify"

// verify serves proxies that ask before they pass a request on (forward-auth): 200 with the signed identity, or the refusal.
// Which request is meant stands in X-Forwarded-Method, -Host and -Uri, so only trusted proxies may ask; to all others there is
// nothing here.
func (g *Gate) verify(x *exchange) *denial {
	peer, err := netip.ParseAddrPort(x.r.RemoteAddr)
	if err != nil || !g.trusts(peer.Addr().Unmap()) {
		return denyNoRoute
	}
	h := x.r.Header
	for _, name := range []string{"X-Forwarded-Method", "X-Forwarded-Host", "X-Forwarded-Uri"} {
		if len(h.Values(name)) != 1 {
			return denyInput.saying("a proxy that asks must send X-Forwarded-Method, X-Forwarded-Host and X-Forwarded-Uri, once each")
		}
	}
	meant := x.r.Clone(x.r.Context())
	meant.Method, meant.Host, meant.RequestURI = h.Get("X-Forwarded-Method"), h.Get("X-Forwarded-Host"), h.Get("X-Forwarded-Uri")
	meant.ContentLength = 0
	x.r = meant
	for _, step := range []func() *denial{x.canonicalise, x.findRoute, x.identify, x.limitAccount, x.authorise, x.sign} {
		if d := step(); d != nil {
			// The proxy passes the refusal on, or sends the browser to the login page itself; it never is a redirect.
			meant.Header.Del("Accept")
			return d
		}
	}
	if x.token.text != "" {
		x.w.Header().Set(identity.Header, x.token.text)
	}
	x.w.WriteHeader(http.StatusOK)
	return nil
}
