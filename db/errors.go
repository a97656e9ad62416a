package db

import (
	"context"
	"errors"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"millrace"
	"millrace/db/group"
)

// errCommitUnknown marks a commit that was sent and not answered.
var errCommitUnknown = errors.New("the outcome of the commit is not known")

// translate gives an error of the database or of a group a code and a public message. It is the one place that looks at SQLSTATE.
func translate(err error) error {
	var known *millrace.Error
	var pg *pgconn.PgError
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, errCommitUnknown), errors.Is(err, group.ErrAbandoned):
		return millrace.WrapError(millrace.CodeUnknown, err, "It is not known whether this was done: send the same request again, under the same Idempotency-Key where it has one.")
	case errors.Is(err, group.ErrBusy):
		return millrace.WrapError(millrace.CodeBusy, err, "Too much is going on right now: try again shortly.")
	case errors.Is(err, group.ErrClosed):
		return millrace.WrapError(millrace.CodeUnavailable, err, "The server is shutting down: try again.")
	case errors.Is(err, group.ErrPanic):
		return millrace.WrapError(millrace.CodeInternal, err, "Something is wrong on our side.")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return millrace.WrapError(millrace.CodeUnavailable, err, "It took too long and nothing was done: try again.")
	case errors.As(err, &pg):
		return translateState(pg, err)
	case errors.Is(err, pgx.ErrNoRows):
		return millrace.WrapError(millrace.CodeNotFound, err, "There is no such thing.")
	}
	// What is left are connections that cannot be had or were lost before the commit.
	return millrace.WrapError(millrace.CodeUnavailable, err, "The database cannot be reached right now: try again.")
}

func translateState(pg *pgconn.PgError, err error) error {
	switch {
	case pgerrcode.IsConnectionException(pg.Code), pgerrcode.IsInsufficientResources(pg.Code), pgerrcode.IsOperatorIntervention(pg.Code),
		pgerrcode.IsTransactionRollback(pg.Code), pg.Code == pgerrcode.LockNotAvailable, pg.Code == pgerrcode.IdleInTransactionSessionTimeout:
		return millrace.WrapError(millrace.CodeUnavailable, err, "The database cannot do this right now: try again.")
	}
	return millrace.WrapError(millrace.CodeInternal, err, "Something is wrong on our side.")
}

// isRequestsFault reports whether an error may come from one request's data, or from a chance meeting with another transaction, so
// that the other requests of the group deserve a try of their own.
func isRequestsFault(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || errors.Is(err, errCommitUnknown) {
		return false
	}
	return pgerrcode.IsIntegrityConstraintViolation(pg.Code) || pgerrcode.IsDataException(pg.Code) || pgerrcode.IsTransactionRollback(pg.Code)
}

func isUniqueViolation(err error, constraint string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == pgerrcode.UniqueViolation && pg.ConstraintName == constraint
}

// isMissing reports whether a column was given no value that must have one.
func isMissing(err error, table, column string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == pgerrcode.NotNullViolation && pg.TableName == table && pg.ColumnName == column
}

// isServerError reports whether the server itself said so, as opposed to a connection that was lost.
func isServerError(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) || errors.Is(err, pgx.ErrTxCommitRollback)
}
