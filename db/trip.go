package db

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"millrace"
	"millrace/db/dbsqlc"
)

// A flush of a quiet shop spends its time on the way to Postgres and back rather than in it, so what can be known beforehand is sent
// together: the beginning of a transaction with its first questions, and all that it writes with its commit.

// question asks for rows through generated code and keeps what it gets. It is called twice: first to collect its statements, when
// every answer is errNotYet, and then to read their answers in the same order.
type question func(c dbsqlc.DBTX) error

// sender is a connection, or a transaction on one, that takes many statements at once.
type sender interface {
	SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults
}

var (
	errNotYet   = errors.New("the statement was collected and has no answer yet")
	errNotAsked = errors.New("the answers are read in another order than that of the questions")
)

// ask sends statements without rows and then questions in one round trip, and has the questions read their answers.
func ask(ctx context.Context, c sender, first []string, questions ...question) error {
	if len(first)+len(questions) == 0 {
		return nil
	}
	var asked asking
	for _, sql := range first {
		asked.batch.Queue(sql)
	}
	for _, q := range questions {
		if err := q(&asked); !errors.Is(err, errNotYet) {
			return fmt.Errorf("collect a question: %w", cmp.Or(err, errNotAsked))
		}
	}
	results := c.SendBatch(ctx, &asked.batch)
	defer results.Close() // again, which does nothing, or for a panic, which would keep the connection
	for range first {
		if _, err := results.Exec(); err != nil {
			return errors.Join(err, results.Close())
		}
	}
	answers := &answering{results: results, asked: asked.sql}
	for _, q := range questions {
		if err := q(answers); err != nil {
			return errors.Join(err, results.Close())
		}
	}
	return results.Close()
}

// asking stands where generated code expects a connection and collects its questions.
type asking struct {
	batch pgx.Batch
	sql   []string
}

func (a *asking) collect(sql string, args []any) {
	a.batch.Queue(sql, args...)
	a.sql = append(a.sql, sql)
}

func (a *asking) Query(_ context.Context, sql string, args ...any) (pgx.Rows, error) {
	a.collect(sql, args)
	return nil, errNotYet
}

func (a *asking) QueryRow(_ context.Context, sql string, args ...any) pgx.Row {
	a.collect(sql, args)
	return noRow{errNotYet}
}

// Exec is there for the interface and always fails.
func (a *asking) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, errNotAsked
}

type noRow struct{ err error }

func (r noRow) Scan(...any) error { return r.err }

// answering stands where generated code expects a connection and gives it the answers to the questions that were collected.
type answering struct {
	results pgx.BatchResults
	asked   []string
}

// next reports whether sql is the next of the questions.
func (a *answering) next(sql string) bool {
	ok := len(a.asked) > 0 && a.asked[0] == sql
	if ok {
		a.asked = a.asked[1:]
	}
	return ok
}

func (a *answering) Query(_ context.Context, sql string, _ ...any) (pgx.Rows, error) {
	if !a.next(sql) {
		return nil, errNotAsked
	}
	return a.results.Query()
}

func (a *answering) QueryRow(_ context.Context, sql string, _ ...any) pgx.Row {
	if !a.next(sql) {
		return noRow{errNotAsked}
	}
	return a.results.QueryRow()
}

// Exec is there for the interface and always fails.
func (a *answering) Exec(context.Context, string, ...any) (pgconn.CommandTag, error) {
	return pgconn.CommandTag{}, errNotAsked
}

// load asks for orders as loadOrders does, and keeps them in orders. It must be the last of the questions sent together, since without
// an order its parts stay unread.
func load(ctx context.Context, ids []uuid.UUID, p parts, lock lockMode, orders *map[uuid.UUID]*millrace.Order) question {
	return func(c dbsqlc.DBTX) (err error) {
		if _, collecting := c.(*asking); collecting {
			q := dbsqlc.New(c)
			read := q.Orders
			if lock == forUpdate {
				read = q.LockOrders
			}
			_, err = read(ctx, ids)
			return errors.Join(err, collectParts(ctx, c, ids, p))
		}
		*orders, err = loadOrders(ctx, c, ids, p, lock)
		return err
	}
}

// collectParts collects the questions of loadParts, in its order.
func collectParts(ctx context.Context, c dbsqlc.DBTX, ids []uuid.UUID, p parts) error {
	q := dbsqlc.New(c)
	var errs [4]error
	if p&withLines != 0 {
		_, errs[0] = q.Lines(ctx, ids)
	}
	if p&withTransactions != 0 {
		_, errs[1] = q.Transactions(ctx, ids)
	}
	if p&withReservations != 0 {
		_, errs[2] = q.Reservations(ctx, ids)
	}
	if p&withShipment != 0 {
		_, errs[3] = q.Shipments(ctx, ids)
	}
	return errors.Join(errs[:]...)
}

// inTrips is inTx for a transaction whose first questions are known: they go along with its beginning, and what decide returns is
// written and committed in one more round trip, which is the whole transaction where there are no questions. decide may ask further
// questions of the connection it is given.
func (s *Store) inTrips(ctx context.Context, first []question, decide func(sender) (*changeSet, error)) error {
	if err := s.rehearse(ctx); err != nil {
		return err
	}
	statements := &writes{workers: s.config.Workers}
	defer statements.settle(false) // where a panic came between
	if s.config.InTx != nil {      // which wants a pgx.Tx
		var w *changeSet
		err := s.inTx(ctx, func(tx pgx.Tx) (err error) {
			w, err = s.decide(ctx, tx, nil, first, decide, statements)
			if err != nil {
				return err
			}
			if err := statements.send(ctx, tx); err != nil {
				return err
			}
			return s.beforeCommit(ctx, tx, w.ids())
		})
		s.keep(w, statements, err)
		s.pass(statements, err)
		return err
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release() // which closes a connection that is left in a transaction
	var begin []string
	if len(first) > 0 {
		begin = []string{"begin"}
	}
	w, err := s.decide(ctx, conn, begin, first, decide, statements)
	if err == nil {
		if begin != nil {
			statements.batch.Queue("commit")
		}
		err = statements.end(ctx, conn)
	}
	s.keep(w, statements, err)
	s.pass(statements, err)
	if err != nil && begin != nil {
		rollback, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
		defer cancel()
		_, _ = conn.Exec(rollback, "rollback") // see Release
	}
	return err
}

// keep keeps orders that were just written for the workers who are handed jobs of theirs, and says that something shipped.
func (s *Store) keep(w *changeSet, statements *writes, err error) {
	if w == nil {
		return
	}
	if err == nil && w.ships() {
		select {
		case s.shipped <- struct{}{}:
		default: // it is known
		}
	}
	for _, o := range w.orders {
		if w.whole && err == nil && len(statements.claims) > 0 {
			s.justWritten.put(o)
		} else {
			s.justWritten.forget(o.ID)
		}
	}
}

// decide sends what begins a transaction, and its first questions, and collects what is then decided to write, jobs included.
func (s *Store) decide(ctx context.Context, c sender, begin []string, first []question, decide func(sender) (*changeSet, error), statements *writes) (*changeSet, error) {
	if err := ask(ctx, c, begin, first...); err != nil {
		return nil, err
	}
	w, err := decide(c)
	if err != nil {
		return nil, err
	}
	if err := s.insertJobs(ctx, statements, w.jobs); err != nil {
		return nil, err
	}
	err = w.collect(ctx, statements.queries())
	return w, err
}
