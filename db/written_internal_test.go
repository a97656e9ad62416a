package db

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"millrace"
)

// What was just written is given once, to who asks soon, and is never older than what was written last.
func TestWhatWasJustWrittenIsGivenOnceAndSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j justWritten
		o := &millrace.Order{ID: uuid.New(), Version: 2}
		require.Nil(t, j.take(o.ID))
		j.put(o)
		j.put(&millrace.Order{ID: o.ID, Version: 1})
		o.Version = 3 // by somebody else, who has the same order
		require.EqualValues(t, 2, j.take(o.ID).Version)
		require.Nil(t, j.take(o.ID))

		j.put(o)
		j.forget(o.ID)
		require.Nil(t, j.take(o.ID))

		j.put(o)
		<-time.After(writtenFor)
		require.NotNil(t, j.take(o.ID))
		j.put(o)
		<-time.After(writtenFor + time.Millisecond)
		require.Nil(t, j.take(o.ID))

		for range 2*maxWritten + 1 {
			j.put(&millrace.Order{ID: uuid.New()})
			require.LessOrEqual(t, len(j.orders), maxWritten)
		}
	})
}
