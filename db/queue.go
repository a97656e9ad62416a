package db

import (
	"cmp"
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

// Workers are the workers of this process. A job that one of them waits for is added as one that it has fetched already, and handed to it
// after the commit: that spares a fetch, which is a transaction, and the dead version of the job that a fetch leaves behind.
type Workers interface {
	// Claim takes a free worker of a queue for a job, and says in whose name the job is to run. Each claim ends with Hand or Release.
	Claim(queue string) (by string, ok bool)
	// Hand gives workers that were claimed their jobs, which are committed.
	Hand(jobs []*rivertype.JobRow)
	// Release gives up the claim to a worker of each queue.
	Release(queues []string)
}

// writes collects statements to be sent in one round trip. It stands where generated code expects a connection, so that the
// statements stay in db/query. Whoever collects jobs must settle.
type writes struct {
	batch pgx.Batch
	last  *pgx.QueuedQuery

	workers   Workers             // nil: jobs wait to be fetched
	claims    []string            // the queue of each claimed worker
	claimed   []*rivertype.JobRow // their jobs, once sent
	unclaimed []string            // queues with jobs to be fetched
}

// queries gives the generated code over the collection.
func (w *writes) queries() *dbsqlc.Queries { return dbsqlc.New(w) }

// Exec collects a statement; its error comes from send.
func (w *writes) Exec(_ context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	w.last = w.batch.Queue(sql, args...)
	return pgconn.CommandTag{}, nil
}

// Query collects a statement whose answer is read later, see ask.
func (w *writes) Query(_ context.Context, sql string, args ...any) (pgx.Rows, error) {
	w.last = w.batch.Queue(sql, args...)
	return nil, errNotYet
}

// QueryRow is there for the interface and always fails.
func (w *writes) QueryRow(context.Context, string, ...any) pgx.Row { return noRow{errNotAsked} }

// ask collects a statement with rows, which q then reads once it was sent.
func (w *writes) ask(q question) error {
	if err := q(w); !errors.Is(err, errNotYet) {
		return fmt.Errorf("collect a question: %w", cmp.Or(err, errNotAsked))
	}
	w.last.Query(func(rows pgx.Rows) error { return q(answered{rows}) })
	return nil
}

// answered stands where generated code expects a connection and gives it the answer to the one question that it asks.
type answered struct{ rows pgx.Rows }

func (a answered) Query(context.Context, string, ...any) (pgx.Rows, error) { return a.rows, nil }

// QueryRow is there for the interface and always fails.
func (a answered) QueryRow(context.Context, string, ...any) pgx.Row { return noRow{errNotAsked} }

// Exec is there for the interface and always fails.
func (a answered) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, errNotAsked
}

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
	var all dbsqlc.InsertJobsParams
	for rows.Next() {
		values, err := rows.Values()
		if err != nil {
			return 0, err
		}
		if err := addJob(&all, columns, values); err != nil {
			return 0, err
		}
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	return int64(len(all.Kinds)), j.writes.addJobs(ctx, all)
}

// addJobs collects jobs: those that a worker can be claimed for as running, the others as available.
func (w *writes) addJobs(ctx context.Context, all dbsqlc.InsertJobsParams) error {
	var available dbsqlc.InsertJobsParams
	var running dbsqlc.InsertClaimedJobsParams
	for i, queue := range all.Queues {
		if by, ok := w.claim(queue); ok {
			running.ClaimedBy = by
			running.Args = append(running.Args, all.Args[i])
			running.Kinds = append(running.Kinds, all.Kinds[i])
			running.MaxAttempts = append(running.MaxAttempts, all.MaxAttempts[i])
			running.Priorities = append(running.Priorities, all.Priorities[i])
			running.Queues = append(running.Queues, queue)
			continue
		}
		if !slices.Contains(w.unclaimed, queue) {
			w.unclaimed = append(w.unclaimed, queue)
		}
		available.Args = append(available.Args, all.Args[i])
		available.Kinds = append(available.Kinds, all.Kinds[i])
		available.MaxAttempts = append(available.MaxAttempts, all.MaxAttempts[i])
		available.Priorities = append(available.Priorities, all.Priorities[i])
		available.Queues = append(available.Queues, queue)
	}
	var err error
	if len(available.Kinds) > 0 {
		err = w.queries().InsertJobs(ctx, available)
	}
	if len(running.Kinds) > 0 {
		err = errors.Join(err, w.ask(func(c dbsqlc.DBTX) error {
			rows, err := dbsqlc.New(c).InsertClaimedJobs(ctx, running)
			for _, r := range rows {
				w.claimed = append(w.claimed, claimedJob(r, running.ClaimedBy))
			}
			return err
		}))
	}
	return err
}

func (w *writes) claim(queue string) (by string, ok bool) {
	if w.workers == nil {
		return "", false
	}
	if by, ok = w.workers.Claim(queue); ok {
		w.claims = append(w.claims, queue)
	}
	return by, ok
}

// claimedJob is the job as River's fetch would give it.
func claimedJob(r dbsqlc.InsertClaimedJobsRow, by string) *rivertype.JobRow {
	return &rivertype.JobRow{ID: r.ID, Attempt: 1, AttemptedAt: &r.CreatedAt, AttemptedBy: []string{by}, CreatedAt: r.CreatedAt,
		EncodedArgs: r.Args, Kind: r.Kind, MaxAttempts: int(r.MaxAttempts), Metadata: []byte("{}"), Priority: int(r.Priority), Queue: r.Queue,
		ScheduledAt: r.CreatedAt, State: rivertype.JobStateRunning, Tags: []string{}}
}

// settle ends the claims: the workers get their jobs where these are committed and are released where they are not, or may not be. It
// does nothing the second time.
func (w *writes) settle(committed bool) {
	switch {
	case len(w.claims) == 0:
	case committed:
		w.workers.Hand(w.claimed)
	default:
		w.workers.Release(w.claims)
	}
	w.claims = nil
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
	if w.batch.Len() == 0 {
		return nil
	}
	err := c.SendBatch(ctx, &w.batch).Close()
	if err != nil && !isServerError(err) && !pgconn.SafeToRetry(err) {
		return fmt.Errorf("%w: %w", errCommitUnknown, err)
	}
	return err
}
