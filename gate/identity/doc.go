// Package identity is the upstream's side of the gate: it checks the signed token that the gate puts on every request it
// let through, and hands the claims to the service's own handlers.
//
// It owns the name of the header, the shape of the claims and their verification. It imports nothing else of this module,
// so any Go service can use it:
//
//	v, err := identity.NewVerifier(identity.Config{
//		JWKSURL:  "http://127.0.0.1:8080/.well-known/jwks.json",
//		Audience: "reports",
//	})
//	http.ListenAndServe("127.0.0.1:9000", v.Middleware(mux))
//
// It promises that no request reaches the wrapped handler without a token that was signed by one of the gate's published
// Ed25519 keys, for this audience and issuer, and that is neither expired nor valid for longer than a minute. It accepts no
// other algorithm, so a token signed with a public key as an HMAC secret, or not signed at all, is refused before any key
// is looked at.
package identity
