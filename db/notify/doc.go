// Package notify carries the news that an order changed from the process that changed it to every process with a watcher of it, and the
// news of jobs to River's workers.
//
// A [Doorbell] sends and a [Listener] receives, each on a Postgres connection of its own, by NOTIFY and LISTEN. Sending stands apart
// from the transactions that it speaks of, because a commit that notifies takes a lock which the whole database shares: a process
// rings at most once every few milliseconds, for all orders that changed meanwhile.
//
// A ring is a hint. It may come twice or late, it may name an order that nobody watches, and it is lost with a process that dies
// between its commit and its ring. Listeners are told whenever rings may have been missed, and whoever needs certainty reads
// order_events now and then.
//
// The package imports the root package and pgx. It promises that Ring never blocks, that memory is bounded, and that it starts no
// goroutine which Close or the end of Run does not wait for.
package notify
