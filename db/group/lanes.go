package group

import (
	"slices"
	"sort"
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
	waiting(now time.Time) (n int, longest time.Duration)
	start(now time.Time) bool
}

// NewLanes makes lanes for so many flushes at a time. A flush starts beside those that run only once further requests wait for it: several
// small ones cost more than one that is larger. One that has run for patience, if that is not 0, holds no other up any more: it may wait for
// somebody's lock.
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
	for {
		brisk := l.brisk()
		next := l.next(len(brisk))
		if next == nil {
			l.wake(brisk)
			return
		}
		if now := time.Now(); next.start(now) {
			l.running = append(l.running, now)
		}
	}
}

// brisk is the flushes that have not run for long, the last to start last.
func (l *Lanes) brisk() []time.Time {
	if l.patience == 0 {
		return l.running
	}
	return l.running[sort.Search(len(l.running), func(i int) bool { return time.Since(l.running[i]) < l.patience }):]
}

// next is the Committer of the flush that is to start now beside so many: of those for which it is worth it, the one that has waited
// longest; or nil.
func (l *Lanes) next(beside int) (next lane) {
	if beside >= l.flushes {
		return nil
	}
	now := time.Now()
	var longest time.Duration
	for _, c := range l.committers {
		n, waited := c.waiting(now)
		if n > 0 && (beside == 0 || n >= l.further) && (next == nil || waited > longest) {
			next, longest = c, waited
		}
	}
	return next
}

// wake sees to it that who waits beside flushes that take long is not left to the next who comes.
func (l *Lanes) wake(brisk []time.Time) {
	if l.late != nil || l.patience == 0 || len(brisk) == 0 || !l.wanted() {
		return
	}
	l.late = time.AfterFunc(l.patience-time.Since(brisk[0]), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.late = nil
		l.dispatch()
	})
}

func (l *Lanes) wanted() bool {
	now := time.Now()
	for _, c := range l.committers {
		if n, _ := c.waiting(now); n > 0 {
			return true
		}
	}
	return false
}
