package jobs

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"millrace/db/migrations"
)

// driver is River's driver for Postgres, which takes word of new jobs, and jobs that were claimed for its workers, from this process too.
type driver struct {
	*riverpgxv5.Driver
	local    *Local
	cooldown time.Duration // between two looks in Postgres
}

// GetListener is part of River's interface of drivers.
func (d driver) GetListener(p *riverdriver.GetListenenerParams) riverdriver.Listener {
	return &listener{Listener: d.Driver.GetListener(p), local: d.local}
}

// GetExecutor is part of River's interface of drivers.
func (d driver) GetExecutor() riverdriver.Executor {
	return executor{Executor: d.Driver.GetExecutor(), local: d.local, cooldown: d.cooldown}
}

type executor struct {
	riverdriver.Executor
	local    *Local
	cooldown time.Duration
}

// JobGetAvailable is how River fetches. It brings the jobs that were handed to this process' workers at once, and looks in Postgres for
// others if there may be some, a cooldown after the last look.
func (e executor) JobGetAvailable(ctx context.Context, p *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	begin, look := e.local.take(p.Queue, p.ClientID, p.MaxToLock, e.cooldown)
	for look > 0 {
		if err := sleep(ctx, look); err != nil {
			return nil, err
		}
		begin, look = e.local.take(p.Queue, p.ClientID, p.MaxToLock, e.cooldown)
	}
	if look == lookNow {
		found, err := e.look(ctx, p)
		if err != nil && len(begin) == 0 { // what was handed over is nobody else's
			return nil, err
		}
		begin = append(found, begin...)
	}
	result := &riverdriver.JobGetAvailableResult{}
	for _, h := range begin {
		result.Jobs = append(result.Jobs, h.job)
		if h.decodeErr != nil {
			if result.DecodeErrors == nil {
				result.DecodeErrors = make(map[int64]error)
			}
			result.DecodeErrors[h.job.ID] = h.decodeErr
		}
	}
	return result, nil
}

// look looks in Postgres for jobs and returns those to begin now.
func (e executor) look(ctx context.Context, p *riverdriver.JobGetAvailableParams) ([]handed, error) {
	more := *p
	more.MaxToLock = e.local.want(p.Queue)
	result, err := e.Executor.JobGetAvailable(ctx, &more)
	if err != nil {
		e.local.looked(p.Queue, nil, false)
		return nil, err
	}
	slices.SortFunc(result.Jobs, inTurn)
	at := time.Now()
	found := make([]handed, len(result.Jobs))
	for i, j := range result.Jobs {
		found[i] = handed{job: j, at: at, decodeErr: result.DecodeErrors[j.ID]}
	}
	return e.local.looked(p.Queue, found, len(found) < more.MaxToLock), nil
}

// inTurn compares jobs as River orders them where it chooses those to fetch.
func inTurn(a, b *rivertype.JobRow) int {
	return cmp.Or(cmp.Compare(a.Priority, b.Priority), a.ScheduledAt.Compare(b.ScheduledAt), cmp.Compare(a.ID, b.ID))
}

// JobDeleteBefore is how River removes old jobs. It is planned at each call: the plan that our pools would keep for all calls reads jobs in the
// order of their ids, all of them where none is old enough.
func (e executor) JobDeleteBefore(ctx context.Context, p *riverdriver.JobDeleteBeforeParams) (deleted int, err error) {
	tx, err := e.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveBackTimeout)
			defer cancel()
			deleted, err = 0, errors.Join(err, tx.Rollback(end))
		}
	}()
	if err := tx.Exec(ctx, "SET LOCAL plan_cache_mode = force_custom_plan"); err != nil {
		return 0, err
	}
	if deleted, err = tx.JobDeleteBefore(ctx, p); err != nil {
		return 0, err
	}
	return deleted, tx.Commit(ctx)
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// giveBack makes jobs available that were handed to workers and that none of them has begun.
func giveBack(ctx context.Context, e riverdriver.Executor, jobs []*rivertype.JobRow) error {
	if len(jobs) == 0 {
		return nil
	}
	p := &riverdriver.JobSetStateIfRunningManyParams{Schema: migrations.RiverSchema}
	for _, j := range jobs {
		one := riverdriver.JobSetStateInterrupted(j.ID, j.ScheduledAt, j.Attempt-1, nil)
		p.ID = append(p.ID, one.ID)
		p.Attempt = append(p.Attempt, one.Attempt)
		p.ErrData = append(p.ErrData, one.ErrData)
		p.FinalizedAt = append(p.FinalizedAt, one.FinalizedAt)
		p.MetadataDoMerge = append(p.MetadataDoMerge, one.MetadataDoMerge)
		p.MetadataUpdates = append(p.MetadataUpdates, one.MetadataUpdates)
		p.ScheduledAt = append(p.ScheduledAt, one.ScheduledAt)
		p.State = append(p.State, one.State)
	}
	if _, err := e.JobSetStateIfRunningMany(ctx, p); err != nil {
		return fmt.Errorf("give back %d jobs: %w", len(jobs), err)
	}
	return nil
}

type listener struct {
	riverdriver.Listener
	local *Local
}

// topicInsert is where River tells which queues have new jobs.
const topicInsert = "river_insert"

// WaitForNotification is part of River's interface of listeners.
func (l *listener) WaitForNotification(ctx context.Context) (*riverdriver.Notification, error) {
	for {
		if n, err := l.wait(ctx); n != nil || err != nil {
			return n, err
		}
	}
}

// wait waits for a local announcement or for word from Postgres, and may return nothing.
func (l *listener) wait(ctx context.Context) (*riverdriver.Notification, error) {
	interruptible, interrupt := context.WithCancel(ctx)
	defer interrupt()
	if queue, ok := l.local.next(interrupt); ok {
		return &riverdriver.Notification{Topic: topicInsert, Payload: fmt.Sprintf(`{"queue": %q}`, queue)}, nil
	}
	n, err := l.Listener.WaitForNotification(interruptible)
	interrupted := err != nil && interruptible.Err() != nil && ctx.Err() == nil // if it broke meanwhile, the next wait finds it so
	known := err == nil && n.Topic == topicInsert && l.local.Own != nil && l.local.Own(n.Payload)
	if interrupted || known {
		return nil, nil //nolint:nilnil // wait again
	}
	l.expect(n)
	return n, err
}

// expect has the queue of which Postgres brings word, if it does, looked for in it.
func (l *listener) expect(n *riverdriver.Notification) {
	var word struct {
		Queue string `json:"queue"`
	}
	if n != nil && n.Topic == topicInsert && json.Unmarshal([]byte(n.Payload), &word) == nil && word.Queue != "" {
		l.local.expect(word.Queue)
	}
}
