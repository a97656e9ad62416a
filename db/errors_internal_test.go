package db

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"millrace"
	"millrace/db/group"
)

func TestErrorsOfTheDatabaseGetACode(t *testing.T) {
	t.Parallel()
	state := func(code string) error { return &pgconn.PgError{Code: code, Message: "secret detail"} }
	for _, c := range []struct {
		name   string
		err    error
		code   millrace.Code
		divide bool // an error of one request, or of chance: its neighbours deserve a try of their own
	}{
		{"none", nil, "", false},
		{"the domain's own", millrace.Errorf(millrace.CodeConflict, "no"), millrace.CodeConflict, false},
		{"a commit without an answer", fmt.Errorf("%w: %w", errCommitUnknown, errors.New("EOF")), millrace.CodeUnknown, false},
		{"a commit whose answer came too late", fmt.Errorf("%w: %w", errCommitUnknown, context.DeadlineExceeded), millrace.CodeUnknown, false},
		{"a caller who left", fmt.Errorf("%w: %w", group.ErrAbandoned, context.Canceled), millrace.CodeUnknown, false},
		{"a caller who left in time", context.Canceled, millrace.CodeUnavailable, false},
		{"too late", context.DeadlineExceeded, millrace.CodeUnavailable, false},
		{"a full queue", group.ErrBusy, millrace.CodeBusy, false},
		{"a closed queue", group.ErrClosed, millrace.CodeUnavailable, false},
		{"a panic", group.ErrPanic, millrace.CodeInternal, false},
		{"no rows", pgx.ErrNoRows, millrace.CodeNotFound, false},
		{"a lost connection", errors.New("unexpected EOF"), millrace.CodeUnavailable, false},
		{"a deadlock", state(pgerrcode.DeadlockDetected), millrace.CodeUnavailable, true},
		{"too many connections", state(pgerrcode.TooManyConnections), millrace.CodeUnavailable, false},
		{"a server that shuts down", state(pgerrcode.AdminShutdown), millrace.CodeUnavailable, false},
		{"a statement that took too long", state(pgerrcode.QueryCanceled), millrace.CodeUnavailable, false},
		{"a lock that was not to be had", state(pgerrcode.LockNotAvailable), millrace.CodeUnavailable, false},
		{"a session that idled too long", state(pgerrcode.IdleInTransactionSessionTimeout), millrace.CodeUnavailable, false},
		{"a broken rule of the schema", state(pgerrcode.CheckViolation), millrace.CodeInternal, true},
		{"a key used twice", state(pgerrcode.UniqueViolation), millrace.CodeInternal, true},
		{"text that cannot be stored", state(pgerrcode.CharacterNotInRepertoire), millrace.CodeInternal, true},
		{"a mistake in SQL", state(pgerrcode.UndefinedColumn), millrace.CodeInternal, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := translate(c.err)
			require.Equal(t, c.code, millrace.ErrorCode(err))
			require.Equal(t, c.divide, isRequestsFault(c.err))
			wrapped := fmt.Errorf("take in 3 orders: %w", c.err)
			if c.err == nil {
				return
			}
			require.Equal(t, c.code, millrace.ErrorCode(translate(wrapped)), "wrapped")
			require.ErrorIs(t, err, c.err, "the log has the cause")
			var public *millrace.Error
			require.ErrorAs(t, err, &public)
			require.NotContains(t, public.Message, "secret", "the client has not")
		})
	}
}

// A cache that forgets must not mix up what it keeps.
func TestACacheIsBoundedAndKeepsWhatIsInUse(t *testing.T) {
	t.Parallel()
	var c cache[string, [16]byte]
	ids := make(map[string][16]byte)
	for i := range 3 * maxCached {
		subject := fmt.Sprint("customer ", i)
		id := [16]byte{byte(i), byte(i >> 8), byte(i >> 16)}
		ids[subject] = id
		c.put(subject, id)
		c.get("customer 0") // in use, and so kept
	}
	require.LessOrEqual(t, len(c.young)+len(c.previous), 2*maxCached)
	kept, ok := c.get("customer 0")
	require.True(t, ok)
	require.EqualValues(t, ids["customer 0"], kept)
	for subject, id := range ids {
		if got, ok := c.get(subject); ok {
			require.EqualValues(t, id, got)
		}
	}
}
