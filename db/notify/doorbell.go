package notify

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"millrace"
)

// DoorbellConfig says where and how often a Doorbell rings. Only DatabaseURL is required.
type DoorbellConfig struct {
	DatabaseURL string
	Channel     string        // DefaultChannel if ""
	Interval    time.Duration // least time between two NOTIFY, 2 ms if 0
	Capacity    int           // orders that may wait to be rung for, 16384 if 0; beyond it one ring says "anything"

	// Local gets every ring at once, within Ring, so that the watchers of this process need no way through the database; LocalJobs
	// does so for announcements of jobs and this process' workers. They must not block.
	Local     func(rings ...millrace.Ring)
	LocalJobs func(queues ...string)

	Logger *slog.Logger
}

// Doorbell tells every listener which orders changed, and River's workers which queues have new jobs. It is safe for concurrent use.
type Doorbell struct {
	config DoorbellConfig
	conn   *pgx.ConnConfig
	node   node

	mu      sync.Mutex
	waiting map[millrace.Ring]struct{}
	all     bool     // more than Capacity were waiting
	queues  []string // with new jobs
	closed  bool

	kick    chan struct{} // holds one when something waits
	closing chan struct{} // closed by Close
	stop    context.CancelFunc
	done    chan struct{}

	rings, notifies, overflows, failures atomic.Uint64
}

// DoorbellStats counts since the start.
type DoorbellStats struct {
	Rings     uint64 // calls of Ring
	Notifies  uint64 // transactions that notified
	Overflows uint64 // times that too many orders waited, so that listeners were told to look at everything
	Failures  uint64 // attempts to notify that failed, each to be repeated
}

// NewDoorbell starts a doorbell. It connects when there is something to ring for. The caller must Close it.
func NewDoorbell(config DoorbellConfig) (*Doorbell, error) {
	if config.Channel == "" {
		config.Channel = DefaultChannel
	}
	if config.Interval == 0 {
		config.Interval = 2 * time.Millisecond
	}
	if config.Capacity == 0 {
		config.Capacity = 16384
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	conn, err := connConfig(config.DatabaseURL, "millrace doorbell")
	if err != nil {
		return nil, fmt.Errorf("doorbell: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	d := &Doorbell{config: config, conn: conn, waiting: make(map[millrace.Ring]struct{}),
		kick: make(chan struct{}, 1), closing: make(chan struct{}), stop: stop, done: make(chan struct{})}
	_, _ = rand.Read(d.node[:]) // never fails
	go d.run(ctx)
	return d, nil
}

// Ring says that an order changed. It is to be called after the commit, and returns at once, whatever the state of the database.
// After Close only the listener of this process hears it.
func (d *Doorbell) Ring(orderID, customerID uuid.UUID) {
	ring := millrace.Ring{OrderID: orderID, CustomerID: customerID}
	d.rings.Add(1)
	if d.config.Local != nil {
		d.config.Local(ring)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.add(ring)
	d.wake()
}

// Announce says that queues have new jobs. Like Ring it is to be called after the commit, and returns at once.
func (d *Doorbell) Announce(queues ...string) {
	if d.config.LocalJobs != nil {
		d.config.LocalJobs(queues...)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.addQueues(queues)
	d.wake()
}

// addQueues is called with mu held.
func (d *Doorbell) addQueues(queues []string) {
	for _, q := range queues {
		if !slices.Contains(d.queues, q) {
			d.queues = append(d.queues, q)
		}
	}
}

// Announced reports whether the payload of an announcement of jobs is one of this doorbell's.
func (d *Doorbell) Announced(payload string) bool {
	return strings.HasSuffix(payload, d.node.signature())
}

// add is called with mu held.
func (d *Doorbell) add(ring millrace.Ring) {
	if d.all {
		return
	}
	d.waiting[ring] = struct{}{}
	if len(d.waiting) > d.config.Capacity {
		d.all = true
		clear(d.waiting)
		d.overflows.Add(1)
	}
}

func (d *Doorbell) wake() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// Close rings for all that waits, hangs up and waits for the doorbell's goroutine. It fails if ctx ends before the last ring is out;
// a sweep of the listeners then finds what was lost.
func (d *Doorbell) Close(ctx context.Context) error {
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		close(d.closing)
	}
	d.mu.Unlock()
	select {
	case <-d.done:
	case <-ctx.Done():
		d.stop()
		<-d.done
	}
	d.stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all || len(d.waiting) > 0 || len(d.queues) > 0 {
		return fmt.Errorf("doorbell: closed with rings not sent: %w", context.Cause(ctx))
	}
	return nil
}

// Stats returns the counters.
func (d *Doorbell) Stats() DoorbellStats {
	return DoorbellStats{Rings: d.rings.Load(), Notifies: d.notifies.Load(), Overflows: d.overflows.Load(), Failures: d.failures.Load()}
}

// message is what goes out at a time.
type message struct {
	rings  []millrace.Ring
	all    bool // anything may have changed
	queues []string
}

func (m *message) empty() bool { return len(m.rings) == 0 && !m.all && len(m.queues) == 0 }

// take empties what waits.
func (d *Doorbell) take() message {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := message{all: d.all, queues: d.queues}
	for r := range d.waiting {
		m.rings = append(m.rings, r)
	}
	clear(d.waiting)
	d.all, d.queues = false, nil
	return m
}

// putBack undoes take.
func (d *Doorbell) putBack(m message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if m.all {
		d.all = true
		clear(d.waiting)
	}
	for _, r := range m.rings {
		d.add(r)
	}
	d.addQueues(m.queues)
}

// run sends what waits: at once when it was quiet, else an interval after the last time. Once the doorbell is closing it sends what
// is left and ends.
func (d *Doorbell) run(ctx context.Context) {
	defer close(d.done)
	var conn *pgx.Conn
	defer func() { hangUp(conn) }()
	for failures := 0; ; {
		closing := false
		select {
		case <-d.kick:
		case <-d.closing:
			closing = true
		case <-ctx.Done():
			return
		}
		m := d.take()
		if m.empty() {
			if closing {
				return
			}
			continue
		}
		started := time.Now()
		var err error
		if conn, err = d.send(ctx, conn, m); err != nil {
			d.putBack(m)
			d.failures.Add(1)
			if failures++; failures == 2 {
				d.config.Logger.WarnContext(ctx, "doorbell does not reach the database, will retry", "error", err)
			}
			if !wait(ctx, backoff(failures)) {
				return
			}
			d.wake()
			continue
		}
		failures = 0
		d.pause(d.config.Interval - time.Since(started))
	}
}

// pause lets rings gather for the next time, unless there is none.
func (d *Doorbell) pause(length time.Duration) {
	timer := time.NewTimer(max(length, 0))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-d.closing:
	}
}

// send notifies, on conn if it is still good. It returns the connection to use next.
func (d *Doorbell) send(ctx context.Context, conn *pgx.Conn, m message) (*pgx.Conn, error) {
	if conn == nil || conn.IsClosed() {
		var err error
		if conn, err = pgx.ConnectConfig(ctx, d.conn); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := conn.PgConn().Exec(ctx, d.statements(m)).ReadAll(); err != nil {
		hangUp(conn)
		return nil, err
	}
	d.notifies.Add(1)
	return conn, nil
}

// statements are the transaction that sends a message. Each is one that Postgres need not plan. NOTIFY needs a transaction id and with
// it a commit record; there is nothing in it to keep, so the commit need not wait for the disk.
func (d *Doorbell) statements(m message) string {
	var sql strings.Builder
	sql.WriteString("BEGIN; SET LOCAL synchronous_commit = off; ")
	notify := func(channel, payload string) { // which needs no quoting
		sql.WriteString("NOTIFY " + pgx.Identifier{channel}.Sanitize() + ", '" + payload + "'; ")
	}
	if m.all || len(m.rings) > 0 {
		for _, p := range encodePayloads(d.node, m.rings) {
			notify(d.config.Channel, p)
		}
	}
	for _, q := range m.queues {
		notify(jobsChannel, encodeAnnouncement(d.node, q))
	}
	sql.WriteString("COMMIT")
	return sql.String()
}
