package db

import (
	"bytes"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
)

// Groups that write the same orders without having locked them lock them in one order, and so wait for each other instead of deadlocking.
func TestOrdersAreWrittenInTheOrderOfTheirIDs(t *testing.T) {
	t.Parallel()
	var w changeSet
	for range 50 {
		w.add(&millrace.Order{ID: uuid.New()}, millrace.Changes{})
	}
	p := headers(w.orders)
	require.Len(t, p.Ids, 50)
	require.True(t, slices.IsSortedFunc(p.Ids, func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) }))
}
