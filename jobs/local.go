package jobs

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// Local brings word of jobs that this process has added to its own workers, who would otherwise wait for Postgres to bring it back.
// The zero value is ready to use.
type Local struct {
	// Own reports whether what Postgres brings is this process' own word, told already. Nil: nothing is.
	Own func(payload string) bool

	mu        sync.Mutex
	queues    []string           // with new jobs, not told yet
	interrupt context.CancelFunc // of the wait for Postgres; nil when there is none
}

// Announce says that queues have new jobs. It never blocks.
func (l *Local) Announce(queues ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range queues {
		if !slices.Contains(l.queues, q) {
			l.queues = append(l.queues, q)
		}
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

// listening is River's driver with a listener that hears of local jobs as well.
type listening struct {
	*riverpgxv5.Driver
	local *Local
}

// GetListener is part of River's interface of drivers.
func (d listening) GetListener(p *riverdriver.GetListenenerParams) riverdriver.Listener {
	return &listener{Listener: d.Driver.GetListener(p), local: d.local}
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
	return n, err
}
