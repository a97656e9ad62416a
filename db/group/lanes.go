package group

import (
	"slices"
	"sync"
	"time"
)

// Lanes are what the flushes of several Committers run on. Make them with NewLanes.
type Lanes struct {
	flushes  int
	further  int
	patience time.Duration

	mu         sync.Mutex
	committers []lane
	running    []time.Time // when the flushes that run started, the last one last
	late       *time.Timer // for who waits while a flush takes long; nil: not set
}

// lane is a Committer. Its methods are called with the lock held.
type lane interface {
	waiting() (n int, since time.Time)
	start(now time.Time) bool
}

// NewLanes makes lanes for so many flushes at a time. A flush starts beside those that run only once further requests wait for it, or each of
// them has taken patience: several small ones cost more than one that is larger. Zero of either: at once.
func NewLanes(flushes, further int, patience time.Duration) *Lanes {
	return &Lanes{flushes: flushes, further: further, patience: patience}
}

func (l *Lanes) join(c lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.committers = append(l.committers, c)
}

// end ends a flush that started at a time, and starts what waited for its place.
func (l *Lanes) end(started time.Time, running *int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*running--
	i := slices.Index(l.running, started)
	l.running = slices.Delete(l.running, i, i+1)
	l.dispatch()
}

// dispatch starts the flushes that can start now. It is called with the lock held.
func (l *Lanes) dispatch() {
	for len(l.running) < l.flushes {
		next := l.next()
		if next == nil {
			break
		}
		if now := time.Now(); next.start(now) {
			l.running = append(l.running, now)
		}
	}
	l.wake()
}

// next is the Committer of the flush that is to start now: of those for which it is worth it, the one that has waited longest; or nil.
func (l *Lanes) next() (next lane) {
	free := len(l.running) == 0 || l.lastRuns() >= l.patience
	var longest time.Time
	for _, c := range l.committers {
		n, since := c.waiting()
		if n > 0 && (free || n >= l.further) && (next == nil || since.Before(longest)) {
			next, longest = c, since
		}
	}
	return next
}

// lastRuns is for how long the last to start of the flushes that run has run.
func (l *Lanes) lastRuns() time.Duration { return time.Since(l.running[len(l.running)-1]) }

// wake sees to it that who waits beside a flush that takes long is not left to the next who comes.
func (l *Lanes) wake() {
	if l.late != nil || len(l.running) == 0 || len(l.running) >= l.flushes || !l.wanted() {
		return
	}
	l.late = time.AfterFunc(l.patience-l.lastRuns(), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.late = nil
		l.dispatch()
	})
}

func (l *Lanes) wanted() bool {
	for _, c := range l.committers {
		if n, _ := c.waiting(); n > 0 {
			return true
		}
	}
	return false
}
