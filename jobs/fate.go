package jobs

import (
	"time"

	"github.com/riverqueue/river/rivertype"

	"millrace"
)

// fate is what becomes of a job that failed.
type fate int

const (
	retry fate = iota // try again later; after the last try the order is held
	hold              // trying again cannot help: the order is held for an operator, the job ends
	drop              // there is nothing to do any more: the job ends
)

// fates says, for each code, what becomes of a job that failed with it.
var fates = map[millrace.Code]fate{
	millrace.CodeInvalid:      hold,
	millrace.CodeUnauthorized: hold,
	millrace.CodeForbidden:    hold,
	millrace.CodeNotFound:     drop,
	millrace.CodeConflict:     drop,
	millrace.CodeKeyReused:    hold,
	millrace.CodeInFlight:     retry,
	millrace.CodeTooLarge:     hold,
	millrace.CodeOutOfStock:   hold,
	millrace.CodeDeclined:     hold,
	millrace.CodeBusy:         retry,
	millrace.CodeUnavailable:  retry,
	millrace.CodeUnknown:      retry,
	millrace.CodeInternal:     retry,
}

// Backoff spaces the tries of a job: half a second, doubled each time, up to five minutes. Twenty tries take about an hour.
type Backoff struct{}

// NextRetry is when a job that failed is tried again.
func (Backoff) NextRetry(job *rivertype.JobRow) time.Time {
	const first, longest = 500 * time.Millisecond, 5 * time.Minute
	wait := longest
	if n := len(job.Errors); n < 10 {
		wait = min(first<<n, longest)
	}
	return time.Now().Add(wait)
}
