package jobs

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/riverqueue/river/rivertype"
)

// Local connects what this process writes with its own workers: it brings them word of new jobs, for which they would otherwise wait
// until Postgres brings it back, and the jobs themselves where workers were claimed for them (it is the store's db.Workers). The zero
// value is ready to use; without a Runner nothing can be claimed.
type Local struct {
	// Own reports whether what Postgres brings is this process' own word, told already. Nil: nothing is.
	Own func(payload string) bool

	mu        sync.Mutex
	queues    []string           // with new jobs, not told yet
	interrupt context.CancelFunc // of the wait for Postgres; nil when there is none

	desks map[string]*desk // by queue
	by    string           // the name of River's client
	open  bool             // workers may be claimed
	ended chan struct{}    // closed when the last claim ends, if somebody waits for that
}

// desk is what is known of a queue's workers in this process.
type desk struct {
	free    int       // workers with nothing to do after the last fetch
	claimed int       // of them, or ahead of them, for jobs that are not committed yet
	fetched time.Time // when they last asked for jobs
	handed  []handed  // in the order in which they are to be begun

	looked  time.Time // when they last looked in Postgres
	drained bool      // and found no more than they could take
	due     bool      // word came of jobs in Postgres

	ahead int       // how many jobs may lie here while no worker is free: as many as are begun in paceWindow
	begun int       // since the time below
	since time.Time // when ahead was set
}

// paceWindow is how long jobs that lie at a desk may have to wait, if workers go on as they did.
const paceWindow = 200 * time.Millisecond

// handed is a job that a worker is to begin.
type handed struct {
	job       *rivertype.JobRow
	at        time.Time
	decodeErr error // of a job that Postgres has and nobody can read
}

// Workers that have not asked for jobs for so long have stopped or are paused: none is claimed. They look in Postgres at least as often.
const askAgain = time.Second / 2

// A job that was handed to workers which then did not ask for any is not begun after so long: it may be taken for lost, see rescueAfter. It is
// longer than a call to a provider takes at most, so that what lies at the desk while all workers wait for one is not lost.
const handedFor = jobTimeout

// desk is called with the lock held.
func (l *Local) desk(queue string) *desk {
	d := l.desks[queue]
	if d == nil {
		if l.desks == nil {
			l.desks = make(map[string]*desk)
		}
		d = &desk{}
		l.desks[queue] = d
	}
	return d
}

// Claim is part of db.Workers. It is for a worker that is free, or for one that soon will be. No worker is claimed where jobs wait in
// Postgres, whose turn it is first.
func (l *Local) Claim(queue string) (by string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.desk(queue)
	if !l.open || !d.drained || d.claimed+len(d.handed) >= d.free+d.ahead || time.Since(d.fetched) > askAgain {
		return "", false
	}
	d.claimed++
	return l.by, true
}

// Release is part of db.Workers.
func (l *Local) Release(queues []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range queues {
		l.endClaim(q)
	}
}

// endClaim is called with the lock held.
func (l *Local) endClaim(queue string) {
	l.desk(queue).claimed--
	if l.ended != nil && !l.claimed() {
		close(l.ended)
		l.ended = nil
	}
}

// claimed reports whether there are claims that have not ended. It is called with the lock held.
func (l *Local) claimed() bool {
	for _, d := range l.desks {
		if d.claimed > 0 {
			return true
		}
	}
	return false
}

// Hand is part of db.Workers. It never blocks.
func (l *Local) Hand(jobs []*rivertype.JobRow) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, j := range jobs {
		d := l.desk(j.Queue)
		d.handed = append(d.handed, handed{job: j, at: now})
		l.tell(j.Queue)
		l.endClaim(j.Queue)
	}
}

// Announce says that queues have new jobs in Postgres. It never blocks.
func (l *Local) Announce(queues ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range queues {
		l.desk(q).due = true
		l.tell(q)
	}
}

// tell is called with the lock held.
func (l *Local) tell(queue string) {
	if !slices.Contains(l.queues, queue) {
		l.queues = append(l.queues, queue)
	}
	if l.interrupt != nil {
		l.interrupt()
	}
}

// next is a queue with new jobs. Where there is none, the next Announce calls interrupt.
func (l *Local) next(interrupt context.CancelFunc) (queue string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queues) > 0 {
		l.interrupt = nil
		queue, l.queues = l.queues[0], l.queues[1:]
		return queue, true
	}
	l.interrupt = interrupt
	return "", false
}

// expect says that Postgres brought word of jobs in it.
func (l *Local) expect(queue string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.desk(queue).due = true
}

// What take says of a look in Postgres, unless it is when to take again.
const (
	lookNow time.Duration = 0
	lookNot time.Duration = -1
)

// take gives a queue's workers, of which some are free, the jobs at their desk, and says whether to look in Postgres for more. Where that is
// due and the last look not a cooldown ago, it says in how long to take again, or has the workers ask again if it gave them jobs.
func (l *Local) take(queue, by string, free int, cooldown time.Duration) (jobs []handed, look time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	d := l.desk(queue)
	d.handed = slices.DeleteFunc(d.handed, func(h handed) bool { return now.Sub(h.at) > handedFor })
	n := min(len(d.handed), free)
	jobs = slices.Clone(d.handed[:n])
	d.handed = slices.Delete(d.handed, 0, n)
	l.by, d.free, d.fetched = by, free-n, now
	d.begin(n, now)
	if d.free == 0 || n > 0 && !d.due && d.drained && now.Sub(d.looked) < askAgain {
		return jobs, lookNot
	}
	switch early := cooldown - now.Sub(d.looked); {
	case early <= 0:
		d.looked, d.due = now, false
		return jobs, lookNow
	case n > 0:
		d.due = true
		l.tell(queue)
		return jobs, lookNot
	default:
		return nil, early
	}
}

// begin counts jobs that are begun.
func (d *desk) begin(n int, now time.Time) {
	d.begun += n
	if passed := now.Sub(d.since); passed >= paceWindow {
		d.ahead = int(int64(d.begun) * int64(paceWindow) / int64(passed))
		d.begun, d.since = 0, now
	}
}

// want is how many jobs to ask Postgres for: one for each free worker, and those to lie at the desk. That is what makes looks few where
// many jobs wait: how many workers are free when the next ends is not known yet.
func (l *Local) want(queue string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.desk(queue)
	return d.free + d.ahead
}

// looked takes what a look in Postgres found, and whether these were all, and returns those to begin now.
func (l *Local) looked(queue string, found []handed, all bool) []handed {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.desk(queue)
	d.drained = all
	n := min(len(found), d.free)
	d.free -= n
	d.begin(n, time.Now())
	if n < len(found) {
		d.handed = append(slices.Clone(found[n:]), d.handed...) // they are older than what was handed over meanwhile
		l.tell(queue)
	}
	return found[:n]
}

// start lets workers be claimed.
func (l *Local) start() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = true
}

// stop lets no more workers be claimed.
func (l *Local) stop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = false
}

// leftovers waits for the claims under way and takes all that was handed to workers who have stopped.
func (l *Local) leftovers(ctx context.Context) []*rivertype.JobRow {
	l.mu.Lock()
	if l.claimed() {
		if l.ended == nil {
			l.ended = make(chan struct{})
		}
		ended := l.ended
		l.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
		}
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	var jobs []*rivertype.JobRow
	for _, d := range l.desks {
		for _, h := range d.handed {
			jobs = append(jobs, h.job)
		}
		d.handed, d.fetched = nil, time.Time{}
	}
	return jobs
}
