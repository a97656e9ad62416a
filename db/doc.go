// Package db keeps orders in Postgres. It owns the schema, the SQL (query/, through sqlc), the transactions and their order of locks.
// Its Store's methods are the commands and questions of the business; the rules they apply are those of the root package.
//
// Commands look like one order each. Inside, callers that arrive while a flush is running share the next (package group): orders are
// locked and loaded together, each command is applied to its order in memory, and all that they noted is written set by set in one
// transaction, jobs included. After the commit the doorbell (package notify) rings for the orders that changed.
//
// Locks are taken in one order: the allocation counter, orders by id, inventory levels by SKU and location, the intake counter.
//
// It may import the root package, pgx, River's client for inserting jobs, and its own subpackages. It promises that a command which
// returned nil is durable; that one which returned an error of code "unknown" may have happened and can be repeated; and that any
// other error means that nothing was written.
package db
