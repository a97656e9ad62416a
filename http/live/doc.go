// Package live sends orders' events to whoever watches, as Server-Sent Events, within milliseconds of their commit and without a
// hole.
//
// A [Hub] knows the open streams: those of one order and those of many (a customer's, or all). News of a change comes as a ring
// (Hub.Rung), which only says where to look. The hub then reads, in one query for all orders that were rung for, the events past
// what each order's watchers have, encodes each once and hands it to all of them. Everything else is a reason to look as well: a
// stream that has just opened, a LISTEN connection that is back (Hub.Reset), the sweep that covers rings lost to a crash. So there
// is one way for an event to reach a client, and the database alone says what there is.
//
// A stream of one order carries versions from 1, or from the one after Last-Event-ID, each once, in order. A stream of many orders
// carries, under ids that are opaque cursors, every event since it was opened or since its Last-Event-ID at least once; versions of
// one order come in order, and (order_id, version) tells a repeat.
//
// Each connection has a private r3labs/sse stream, which frames the events. It holds a window of them; the rest wait in a bounded
// queue, and a connection that lets it overflow, or does not read for the length of a write deadline, is closed and may resume. No
// reader is waited for by another.
//
// A connection over HTTP/1.1 is taken over from net/http while its stream lasts, which frees the request's memory, and goes back to its
// server afterwards; over other protocols, a stream stays within its request. An idle stream costs four goroutines: r3labs' two, the
// one that it serves in, and one that waits for the client to hang up.
//
// The package imports the root package, r3labs/sse and the standard library. Callers authorize first.
package live
