// Package gate is an authenticating reverse proxy: it stands in front of any number of upstream services, knows who may
// pass, and tells the upstream who it is by a short-lived signed token.
//
// It owns the database schema "gate" (users, API keys, sessions, signing keys) and the paths /auth/ and
// /.well-known/jwks.json. It imports nothing else of this module and knows nothing of what the upstreams do; an upstream
// written in Go checks the token with the package gate/identity, any other with the published key set.
//
// A request passes these steps in this order, each in a file of its own; the first that refuses ends it with a stable code:
//
//	canonical path (path.go) -> route (routes.go) -> limits (limit.go) -> who (authn.go, apikey.go, session.go)
//	  -> may they (pipeline.go) -> signed identity (signer.go) -> upstream (proxy.go)
//
// It promises that a request on a guarded route reaches its upstream only with a valid credential of someone who holds one
// of the route's roles; that no identity or forwarding header of a client ever does, in whatever spelling; that passwords,
// keys and session tokens are stored as hashes only; and that a revoked session or key stops working, on open streams too,
// within 5 s on every process that shares the database.
package gate
