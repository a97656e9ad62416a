package main

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/uuid"
)

// lags measures the time from a commit, as the process that made it knows it, to its event's arrival at a client. All in one process, by
// one clock.
type lags struct {
	mu      sync.Mutex
	since   time.Time // commits before do not count; zero: none does
	commits map[uuid.UUID][]time.Time
	h       *hdrhistogram.Histogram
}

// begin counts from now on, from nothing.
func (l *lags) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since, l.commits, l.h = time.Now(), make(map[uuid.UUID][]time.Time), hdrhistogram.New(1, 600_000_000, 3) // microseconds
}

// end stops counting and returns what was counted.
func (l *lags) end() *hdrhistogram.Histogram {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.h
	l.since, l.commits, l.h = time.Time{}, nil, nil
	return h
}

// count is how many arrivals were counted so far.
func (l *lags) count() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.h == nil {
		return 0
	}
	return l.h.TotalCount()
}

// committed notes that an order changed just now.
func (l *lags) committed(order uuid.UUID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.since.IsZero() {
		l.commits[order] = append(l.commits[order], time.Now())
	}
}

// arrived counts an event, given the data that a stream carried. An event is stamped before its commit, and the commits of one order come
// one after another, so its commit is the first that was noted after its stamp. Where an order's next step is stamped before the commit
// of the last was noted, the time that counts is too long rather than too short.
func (l *lags) arrived(data []byte) {
	now := time.Now()
	order, at, ok := parseEvent(data)
	if !ok {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.since.IsZero() || at.Before(l.since) {
		return
	}
	commits := l.commits[order]
	i, _ := slices.BinarySearchFunc(commits, at, time.Time.Compare)
	lag := time.Duration(0) // seen before the commit's own process knew of it
	if i < len(commits) {
		lag = max(lag, now.Sub(commits[i])) // which may have been noted while this waited for the lock
	}
	_ = l.h.RecordValue(lag.Microseconds()) // ten minutes is past the scale, and no measurement takes as long
}

var (
	orderField = []byte(`{"order_id":"`)
	atField    = []byte(`"at":"`)
)

// parseEvent reads of which order an event is, and its time.
func parseEvent(data []byte) (order uuid.UUID, at time.Time, ok bool) {
	const length = 36
	rest, ok := bytes.CutPrefix(data, orderField)
	if !ok || len(rest) < length {
		return order, at, false
	}
	order, err := uuid.ParseBytes(rest[:length])
	if err != nil {
		return order, at, false
	}
	_, rest, ok = bytes.Cut(rest[length:], atField)
	text, _, closed := bytes.Cut(rest, []byte{'"'})
	if !ok || !closed {
		return order, at, false
	}
	at, err = time.Parse(time.RFC3339Nano, string(text))
	return order, at, err == nil
}
