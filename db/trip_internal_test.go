package db

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace/db/dbsqlc"
)

// Questions read their answers by place: one that reads another than it asked for must not get it.
func TestAnAnswerIsReadOnlyByItsQuestion(t *testing.T) {
	t.Parallel()
	ids := []uuid.UUID{uuid.New()}
	var asked asking
	require.ErrorIs(t, collectParts(t.Context(), &asked, ids, withLines|withShipment), errNotYet)
	require.Len(t, asked.sql, 2)
	answers := &answering{asked: asked.sql}
	_, err := dbsqlc.New(answers).Transactions(t.Context(), ids)
	require.ErrorIs(t, err, errNotAsked)
	_, err = dbsqlc.New(answers).LockAllocation(t.Context(), nil)
	require.ErrorIs(t, err, errNotAsked)
}

// What writes may not be asked as a question: nobody would read whether it went well.
func TestAQuestionThatWritesIsRefused(t *testing.T) {
	t.Parallel()
	err := ask(t.Context(), nil, nil, func(c dbsqlc.DBTX) error { return dbsqlc.New(c).SetAllocated(context.Background(), 1) })
	require.ErrorIs(t, err, errNotAsked)
}
