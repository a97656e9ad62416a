package db

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"millrace/db/dbsqlc"
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

// send runs what was collected, in its order.
func (w *writes) send(ctx context.Context, tx pgx.Tx) error {
	if w.batch.Len() == 0 {
		return nil
	}
	return tx.SendBatch(ctx, &w.batch).Close()
}
