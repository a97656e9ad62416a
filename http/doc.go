// Package http is Millrace's HTTP API: its operations, one file for each resource, the one table of error codes and statuses, the
// OpenAPI document, and the handler of the operations' own listener. Callers import it as orderhttp and see one [Server].
//
// It may import the root package, db, http/live and http/web's handler as an http.Handler; never jobs, a provider or the gate: who
// is asking is told by Config.Identity.
//
// # What it promises
//
// Every request but those to public paths carries a valid identity, or gets 401; customers see their own orders alone, and another's
// is not found like one that does not exist. A body is at most 64 KiB of valid UTF-8 JSON with known fields, checked before anything
// is written. Every error is an RFC 9457 problem with a stable code and a message that says what to do; causes go to the log.
// A repeated order is answered as the first time, byte for byte by the same build; other calls that are repeated change nothing more and show what is.
//
// # What a request passes through
//
//	observe      status and duration are measured, failures are logged with their cause and the request's id
//	protect      headers that browsers heed; a panic becomes a 500
//	hurry        a body that does not arrive in time is given up
//	canonical    a path or a query that could be read in two ways is refused
//	authenticate the identity, and whether this path is open to it
//	route        what the path names; 404 and 405 as problems
//	operation    (API only) role, deadline, body, then Huma's validation against the OpenAPI document, then the handler
package http
