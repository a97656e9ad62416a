package db

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/rivertype"

	"millrace/db/dbsqlc"
	"millrace/db/migrations"
)

// writes collects statements to be sent in one round trip. It stands where generated code expects a connection, so that the
// statements stay in db/query; only those that return no rows can be collected.
type writes struct{ batch pgx.Batch }

var errOnlyExec = errors.New("only statements without rows can be collected")

// queries gives the generated code over the collection.
func (w *writes) queries() *dbsqlc.Queries { return dbsqlc.New(w) }

// Exec collects a statement; its error comes from send.
func (w *writes) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	w.batch.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

// Query is there for the interface and always fails.
func (w *writes) Query(context.Context, string, ...any) (pgx.Rows, error) { return nil, errOnlyExec }

// QueryRow is there for the interface and always fails.
func (w *writes) QueryRow(context.Context, string, ...any) pgx.Row { return failedRow{} }

type failedRow struct{}

func (failedRow) Scan(...any) error { return errOnlyExec }

// jobs gives River's insert over the collection, with what announces the jobs or without.
func (w *writes) jobs(pool *pgxpool.Pool, announced bool) pgx.Tx {
	return jobWrites{writes: w, pool: pool, announced: announced}
}

// jobWrites is as much of a transaction as River's InsertManyFastTx asks for. Anything else would panic.
type jobWrites struct {
	pgx.Tx    // nil
	writes    *writes
	pool      *pgxpool.Pool
	announced bool
}

// Conn is asked for its settings; without one they are pgx's own.
func (j jobWrites) Conn() *pgx.Conn { return nil }

// Exec collects a statement: the announcement of new jobs.
func (j jobWrites) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if !j.announced {
		return pgconn.CommandTag{}, nil
	}
	return j.writes.Exec(ctx, sql, args...)
}

// QueryRow asks the server, once, what it is.
func (j jobWrites) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return j.pool.QueryRow(ctx, sql, args...)
}

// CopyFrom collects an insert of the jobs that River would copy in: a copy cannot share its round trip with other statements.
func (j jobWrites) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	if !slices.Equal(table, pgx.Identifier{migrations.RiverSchema, "river_job"}) {
		return 0, fmt.Errorf("a copy into %v, not into River's jobs", table)
	}
	var p dbsqlc.InsertJobsParams
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return 0, err
		}
		if err := addJob(&p, columns, values); err != nil {
			return 0, err
		}
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	return int64(len(p.Kinds)), j.writes.queries().InsertJobs(ctx, p)
}

// addJob adds a row of River's job table. What our jobs do not use must be as the table has it by default.
func addJob(p *dbsqlc.InsertJobsParams, columns []string, values []any) error {
	for i, column := range columns {
		v, usual := values[i], true
		switch column {
		case "args":
			p.Args, usual = appendAs(p.Args, v)
		case "kind":
			p.Kinds, usual = appendAs(p.Kinds, v)
		case "max_attempts":
			p.MaxAttempts, usual = appendAs(p.MaxAttempts, v)
		case "priority":
			p.Priorities, usual = appendAs(p.Priorities, v)
		case "queue":
			p.Queues, usual = appendAs(p.Queues, v)
		case "created_at", "scheduled_at": // of an available job: now
		case "state":
			usual = fmt.Sprint(v) == string(rivertype.JobStateAvailable)
		case "metadata":
			b, ok := v.([]byte)
			usual = ok && string(b) == "{}"
		case "tags":
			tags, ok := v.([]string)
			usual = ok && len(tags) == 0
		case "unique_key":
			b, ok := v.([]byte)
			usual = ok && b == nil
		case "unique_states":
			bits, ok := v.(pgtype.Bits)
			usual = ok && !bits.Valid
		default:
			usual = false
		}
		if !usual {
			return fmt.Errorf("a job's %s is %T %v, which is not collected", column, v, v)
		}
	}
	return nil
}

func appendAs[T any](to []T, value any) ([]T, bool) {
	v, ok := value.(T)
	return append(to, v), ok
}

// send runs what was collected, in its order.
func (w *writes) send(ctx context.Context, tx pgx.Tx) error {
	if w.batch.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, &w.batch).Close()
}

// commit runs what was collected as a transaction of its own, in one round trip: what is sent without a pause between is one
// transaction, which ends with the last of it.
func (w *writes) commit(ctx context.Context, pool *pgxpool.Pool) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return w.end(ctx, conn)
}

// end runs what was collected, with which the transaction on a connection ends. The outcome is errCommitUnknown where it was sent and
// not answered.
func (w *writes) end(ctx context.Context, c sender) error {
	err := c.SendBatch(ctx, &w.batch).Close()
	if err != nil && !isServerError(err) && !pgconn.SafeToRetry(err) {
		return fmt.Errorf("%w: %w", errCommitUnknown, err)
	}
	return err
}
