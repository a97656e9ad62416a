// Package simulated is a payment gateway, a carrier and a warehouse to try Millrace with: no money moves and no parcel leaves, but
// they hold callers to the rules that real ones do, and can be slow, fail and lose answers.
//
// It owns the Postgres schema "simulated": idempotency keys with their first answers, charges, labels, requests to fulfill, and a
// log of every call. It writes them on a connection pool of its own, in transactions of its own, as an outside system would; so
// what it says it did can be held against what Millrace believes ([Ledger]). It keeps no personal data.
//
// It may import the root package, pgx and goose. It promises that all rules hold for any number of processes on one database:
// keys, counters, locks and clock are Postgres'. Each call is one transaction of one statement.
//
// # What the gateway does
//
// The payment method decides what [millrace.Gateway.Authorize] does. The other calls always act at once.
//
//	pm_ok           approves
//	pm_declined     declines, code insufficient_funds
//	pm_flaky        answers retry to the first two calls under a key, then approves
//	pm_slow         approves, and answers after Config.SlowBy
//	pm_lost_answer  approves, and does not answer before the caller's context ends; Get tells what happened
//	pm_3ds          requires action: the buyer confirms or declines at ActionURL, or by POST to it + /confirm or /decline
//
// Any other method is declined, code unknown_payment_method. A key that comes with other parameters than before is declined, code
// idempotency_mismatch. Captures are whole or partial, one for each payment; a void is of everything; refunds sum to at most what
// was captured.
//
// # What carrier and warehouse do
//
// The carrier sells a label to any country but XX (code no_rate). The parcel is in transit Config.TransitAfter after that, can then
// no longer be canceled, and is delivered after Config.DeliverAfter. The warehouse picks any SKU but those starting with NOPICK-
// (code not_pickable). A declined label or request leaves nothing behind that binds: the same key may be tried again.
package simulated
