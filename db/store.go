package db

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"millrace"
	"millrace/db/dbsqlc"
	"millrace/db/group"
	"millrace/db/migrations"
)

// Config is what a Store needs. Only Pool is required.
type Config struct {
	Pool   *pgxpool.Pool
	Logger *slog.Logger
	Policy millrace.PaymentPolicy
	// Ring is told, after a commit, of each order that changed and whose it is. It must not block.
	Ring func(orderID, customerID uuid.UUID)
	// Announce is told, after a commit, which queues have new jobs. It must not block. Without it they are announced in the transaction
	// that adds them, whose commit then takes a lock that the whole database shares and keeps it while the log is written.
	Announce func(queues ...string)
	// Workers of this process get their jobs from the commit that adds them. Without any, every job waits to be fetched.
	Workers Workers
	// MaxGroup bounds how many callers share a transaction (default 256); 1 gives each its own.
	MaxGroup int
	// MaxQueue bounds how many callers wait for each kind of command (default 4096); past it they get CodeBusy. Of those who place
	// orders a quarter as many wait: they can come back, and what they hold meanwhile is memory.
	MaxQueue int
	// Flushes is how many groups are written at a time, of whatever kind (default 2; one of them an allocation, which holds the lock of
	// one row from beginning to end). One that takes long, for somebody's lock perhaps, counts for its own kind only. With MaxGroup 1 it makes the store write as one without groups does, to compare.
	Flushes int
	// OutOfTurn reserves stock for each order by itself, whenever its job comes, and so gives up that the first come are the first
	// served. It is there to compare with, as one without turns would do it; intake stays in groups, since the counter row that keeps
	// the turns would hold it back without them.
	OutOfTurn bool
	// InTx, if set, is called in each transaction that changes orders, before its commit, with their ids.
	InTx func(ctx context.Context, tx pgx.Tx, orders []uuid.UUID) error
	// MaxAttempts is how often a job is tried before it is given up and its order is held (default 20).
	MaxAttempts int
	// Observe is told each flush's kind ("intake", "step", "allocation" or "read"), size, duration and its first caller's wait.
	Observe func(kind string, size int, took, waited time.Duration)
	// Now is the clock (default time.Now).
	Now func() time.Time
}

// defaultGroup is Config.MaxGroup where it is not set.
const defaultGroup = 256

// announceCooldown is the least time between two announcements of a queue's new jobs by one process, as short as River has it: a job
// that is not announced waits for a poll, and groups are further apart anyway.
const announceCooldown = time.Millisecond

// Store is the orders in Postgres. Make one with NewStore; Close it to wait for what is under way. It is safe for concurrent use.
type Store struct {
	config Config
	pool   *pgxpool.Pool
	river  *river.Client[pgx.Tx]

	intake     *group.Committer[*intakeRequest, takenIn]
	steps      *group.Committer[*command, *millrace.Order]
	allocation *group.Committer[uuid.UUID, struct{}]
	reads      *group.Committer[uuid.UUID, *millrace.Order]

	inFlight  keySet
	customers cache[string, uuid.UUID] // by subject; which customer a subject is never changes
	prices    priceList
	usedKeys  doubt // whether keys are new
	strangers doubt // whether customers who are not remembered are new
	changed   doubt // whether orders are as jobs know them
	rehearsed atomic.Bool

	justWritten justWritten
	shipped     chan struct{} // see Shipped
}

// intakeDue is how long whoever places an order waits for steps at most, of which there may be many: he waits for the answer, and is turned
// away where too many do.
const intakeDue = 200 * time.Millisecond

// flushTimeout bounds one flush, and after flushPatience others do not wait for its end; commitTimeout bounds the wait for a commit that was
// sent.
const (
	flushTimeout  = 20 * time.Second
	flushPatience = 100 * time.Millisecond
	commitTimeout = 10 * time.Second
)

// NewStore makes a Store over a migrated database.
func NewStore(c Config) (*Store, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	c.MaxGroup = cmp.Or(c.MaxGroup, defaultGroup)
	c.MaxQueue = cmp.Or(c.MaxQueue, 4096)
	c.MaxAttempts = cmp.Or(c.MaxAttempts, 20)
	c.Policy.ActionTimeout = cmp.Or(c.Policy.ActionTimeout, 30*time.Minute)
	// The cooldown of a client that only inserts is that of its announcements.
	client, err := river.NewClient(riverpgxv5.New(c.Pool), &river.Config{Schema: migrations.RiverSchema, Logger: c.Logger,
		FetchCooldown: announceCooldown})
	if err != nil {
		return nil, fmt.Errorf("make River's client: %w", err)
	}
	s := &Store{config: c, pool: c.Pool, river: client, shipped: make(chan struct{}, 1)}
	flushes := cmp.Or(c.Flushes, 2)
	writes := group.NewLanes(flushes, c.MaxGroup/4, flushPatience)
	limits := func(kind string, lanes *group.Lanes) group.Config {
		g := group.Config{Lanes: lanes, MaxGroup: c.MaxGroup, MaxQueue: c.MaxQueue, Timeout: flushTimeout, Divide: isRequestsFault}
		if c.Observe != nil {
			g.Observe = func(size int, took, waited time.Duration) { c.Observe(kind, size, took, waited) }
		}
		return g
	}
	intake, allocation := limits("intake", writes), limits("allocation", writes)
	intake.MaxQueue = max(c.MaxQueue/4, 1)
	intake.Due = intakeDue
	allocation.Flushes = 1 // a second would only wait for the first
	if c.OutOfTurn {
		intake.MaxGroup, intake.Lanes = defaultGroup, group.NewLanes(2, defaultGroup/4, flushPatience)
		allocation.Flushes = flushes
	}
	s.intake = group.New(intake, s.flushIntake)
	s.steps = group.New(limits("step", writes), s.flushCommands)
	s.allocation = group.New(allocation, s.flushAllocation)
	s.reads = group.New(limits("read", group.NewLanes(flushes, c.MaxGroup/4, flushPatience)), s.flushReads)
	return s, nil
}

// Close refuses further commands and waits until those accepted are done. The pool stays open: it is its owner's.
func (s *Store) Close() {
	s.intake.Close()
	s.steps.Close()
	s.allocation.Close()
	s.reads.Close()
}

// Waiting is how many callers wait for each kind of flush.
func (s *Store) Waiting() map[string]int {
	return map[string]int{"intake": s.intake.Waiting(), "step": s.steps.Waiting(), "allocation": s.allocation.Waiting(), "read": s.reads.Waiting()}
}

// IntakeIsFull reports whether PlaceOrder would be refused with CodeBusy now.
func (s *Store) IntakeIsFull() bool { return s.intake.Full() }

// now is the time to stamp, to the microsecond that Postgres keeps.
func (s *Store) now() time.Time { return s.config.Now().UTC().Truncate(time.Microsecond) }

func (s *Store) queries() *dbsqlc.Queries { return dbsqlc.New(s.pool) }

// inTx runs f in a transaction. The commit does not end with ctx: once sent, it is waited for, and where its answer does not come
// the error is errCommitUnknown.
func (s *Store) inTx(ctx context.Context, f func(pgx.Tx) error) error {
	tx, err := s.pool.Begin(ctx)
	if err != nil {
		return err
	}
	kept := false
	defer func() { // also where f panics
		if !kept {
			rollback, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
			defer cancel()
			_ = tx.Rollback(rollback) // a connection that cannot roll back is closed, which rolls back
		}
	}()
	if err := f(tx); err != nil {
		return err
	}
	kept = true
	return commit(ctx, tx)
}

func commit(ctx context.Context, tx pgx.Tx) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancel()
	err := tx.Commit(ctx)
	if err != nil && !isServerError(err) {
		return fmt.Errorf("%w: %w", errCommitUnknown, err)
	}
	return err
}

// beforeCommit lets Config.InTx take part in a transaction that changes orders.
func (s *Store) beforeCommit(ctx context.Context, tx pgx.Tx, orders []uuid.UUID) error {
	if s.config.InTx == nil || len(orders) == 0 {
		return nil
	}
	return s.config.InTx(ctx, tx, orders)
}

// ring tells the doorbell which orders changed.
func (s *Store) ring(orders ...*millrace.Order) {
	if s.config.Ring == nil {
		return
	}
	for _, o := range orders {
		s.config.Ring(o.ID, o.CustomerID)
	}
}

// rehearse has River ask what server this is, which it does once, at its first insert: within a transaction it would take a second
// connection, and wait for one that waits for it.
func (s *Store) rehearse(ctx context.Context) error {
	if s.rehearsed.Load() {
		return nil
	}
	if err := s.insertJobs(ctx, &writes{}, []millrace.Job{millrace.SweepJob{}}); err != nil {
		return err
	}
	s.rehearsed.Store(true)
	return nil
}

// insertJobs collects the jobs that a change asks for among the statements of its transaction, and what announces them unless that is
// done afterwards.
func (s *Store) insertJobs(ctx context.Context, statements *writes, jobs []millrace.Job) error {
	if len(jobs) == 0 {
		return nil
	}
	params := make([]river.InsertManyParams, len(jobs))
	for i, j := range jobs {
		params[i] = river.InsertManyParams{Args: j, InsertOpts: &river.InsertOpts{Queue: j.Queue(), MaxAttempts: s.config.MaxAttempts}}
	}
	if _, err := s.river.InsertManyFastTx(ctx, statements.jobs(s.pool, s.config.Announce == nil), params); err != nil {
		return fmt.Errorf("insert jobs: %w", err)
	}
	return nil
}

// pass passes on the jobs that a transaction added, which ended with err: to the workers claimed for them, and those for others by an
// announcement. A worker whose job may have been added or not does not get it; should it be there, it is found as one whose process is
// gone.
func (s *Store) pass(statements *writes, err error) {
	statements.settle(err == nil)
	if s.config.Announce != nil && len(statements.unclaimed) > 0 && (err == nil || errors.Is(err, errCommitUnknown)) {
		s.config.Announce(statements.unclaimed...)
	}
}
