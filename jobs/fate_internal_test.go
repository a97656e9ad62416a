package jobs

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"github.com/stretchr/testify/require"

	"millrace"
)

func TestEveryCodeHasAFate(t *testing.T) {
	t.Parallel()
	for _, code := range millrace.Codes() {
		_, ok := fates[code]
		require.True(t, ok, "what becomes of a job that failed with %s?", code)
	}
	require.Len(t, fates, len(millrace.Codes()), "no fate is for a code that is gone")
}

func TestRetriesAreSpacedMoreAndMore(t *testing.T) {
	t.Parallel()
	var last, sum time.Duration
	for n := range 30 {
		before := time.Now()
		at := Backoff{}.NextRetry(&rivertype.JobRow{Errors: make([]rivertype.AttemptError, n)})
		wait := at.Sub(before).Truncate(100 * time.Millisecond)
		require.GreaterOrEqual(t, wait, last)
		require.GreaterOrEqual(t, wait, 500*time.Millisecond)
		require.LessOrEqual(t, wait, 5*time.Minute+time.Second)
		if last = wait; n < 20 {
			sum += wait
		}
	}
	require.InDelta(t, time.Hour.Minutes(), sum.Minutes(), 15, "twenty tries take about an hour")
}

// What the keeper makes of an error, where no order has to be held for it.
func TestTheKeeperTurnsErrorsIntoFates(t *testing.T) {
	t.Parallel()
	k := &keeper{config: Config{Logger: slog.New(slog.DiscardHandler)}}
	alive := t.Context()
	stopped, stop := context.WithCancelCause(t.Context())
	stop(errors.New("stop initiated"))
	canceled, cancel := context.WithCancelCause(t.Context())
	cancel(rivertype.ErrJobCancelledRemotely)
	late, end := context.WithTimeout(t.Context(), 0)
	defer end()
	boom := millrace.Errorf(millrace.CodeUnavailable, "boom")
	for _, c := range []struct {
		name    string
		ctx     context.Context
		attempt int
		err     error
		outcome string
		is      any // the kind of error that River is given
	}{
		{"done", alive, 1, nil, "done", nil},
		{"snoozed", alive, 20, river.JobSnooze(time.Second), "snoozed", &rivertype.JobSnoozeError{}},
		{"canceled", alive, 1, river.JobCancel(boom), "canceled", &rivertype.JobCancelError{}},
		{"worth another try", alive, 1, boom, "retried", boom},
		{"a defect", alive, 1, errors.New("boom"), "retried", nil},
		{"nothing to do", alive, 1, millrace.Errorf(millrace.CodeConflict, "gone"), "dropped", &rivertype.JobCancelError{}},
		{"the last try of a job without an order", alive, 20, boom, "discarded", &rivertype.JobCancelError{}},
		{"the process stops", stopped, 20, boom, "returned", &rivertype.JobSnoozeError{}},
		{"the process stops, but the job is done", stopped, 1, nil, "done", nil},
		{"canceled from outside", canceled, 1, boom, "retried", boom},
		{"out of time", late, 1, boom, "retried", boom},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			outcome, err := k.decide(c.ctx, &rivertype.JobRow{Attempt: c.attempt, MaxAttempts: 20, EncodedArgs: []byte("{}")}, c.err)
			require.Equal(t, c.outcome, outcome)
			switch c.is.(type) {
			case *rivertype.JobSnoozeError:
				var snooze *rivertype.JobSnoozeError
				require.ErrorAs(t, err, &snooze)
			case *rivertype.JobCancelError:
				var canceled *rivertype.JobCancelError
				require.ErrorAs(t, err, &canceled)
			default:
				require.Equal(t, c.err, err)
			}
		})
	}
}

func TestAJobSaysWhoseOrderItCarries(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	got, ok := OrderID(&rivertype.JobRow{EncodedArgs: []byte(`{"order_id":"` + id.String() + `","transaction":3}`)})
	require.True(t, ok)
	require.Equal(t, id, got)
	for _, args := range []string{`{}`, `{"order_id":"x"}`, ``, `[]`, `{"order_id":"00000000-0000-0000-0000-000000000000"}`} {
		_, ok := OrderID(&rivertype.JobRow{EncodedArgs: []byte(args)})
		require.False(t, ok, args)
	}
}

// A call to a provider must end before its job does, and a job before it counts as lost.
func TestTheTimesFitIntoEachOther(t *testing.T) {
	t.Parallel()
	require.Less(t, jobTimeout, rescueAfter)
	require.GreaterOrEqual(t, abandonAfter, 2*jobTimeout)
	const leaderLooksEvery, leaderElected = 30 * time.Second, 15 * time.Second
	require.LessOrEqual(t, rescueAfter+leaderLooksEvery+leaderElected, time.Minute, "the work of a killed process goes on within a minute")
	_, err := New(Config{CallTimeout: jobTimeout})
	require.ErrorContains(t, err, "is too long")
	_, err = New(Config{Queues: []string{"nonsense"}})
	require.ErrorContains(t, err, `there is no queue "nonsense"`)
}
