// Package jobs works orders off. It owns the River workers, one file for each step, and the one table that says what becomes of a job
// that fails. A worker reads as the step does: load, decide, call the provider, record; the record names the next job.
//
// Every step is guarded by the order's own state and every provider call carries a stored idempotency key, so a job that runs twice,
// after a crash or beside itself, does nothing the second time. No transaction is open while a provider is called.
//
// It may import the root package and db. It promises that a job which is given up leaves its order on hold with the reason: at once
// where the job itself gives up, and by the sweep where the job was killed, canceled or deleted from outside.
package jobs
