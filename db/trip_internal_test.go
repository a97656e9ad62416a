package db

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"millrace/db/dbsqlc"
	"millrace/db/dbtest"
)

// Questions read their answers by place: one that reads another than it asked for must not get it.
func TestAnAnswerIsReadOnlyByItsQuestion(t *testing.T) {
	t.Parallel()
	ids := []uuid.UUID{uuid.New()}
	var asked asking
	require.ErrorIs(t, collectParts(t.Context(), &asked, ids, withLines|withShipment), errNotYet)
	require.Len(t, asked.sql, 2)
	answers := &answering{asked: asked.sql}
	_, err := dbsqlc.New(answers).Transactions(t.Context(), ids)
	require.ErrorIs(t, err, errNotAsked)
	_, err = dbsqlc.New(answers).LockAllocation(t.Context(), nil)
	require.ErrorIs(t, err, errNotAsked)
}

// What writes may not be asked as a question: nobody would read whether it went well.
func TestAQuestionThatWritesIsRefused(t *testing.T) {
	t.Parallel()
	err := ask(t.Context(), nil, nil, func(c dbsqlc.DBTX) error { return dbsqlc.New(c).SetAllocated(context.Background(), 1) })
	require.ErrorIs(t, err, errNotAsked)
}

// A question that panics while it reads its answer leaves the connection to the next who asks.
func TestAPanicKeepsNoConnection(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig(dbtest.Millrace(t))
	require.NoError(t, err)
	config.MaxConns = 1
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(func() {
		if !t.Failed() { // else it would wait for the connection
			pool.Close()
		}
	})
	question := func(answer func()) question {
		return func(c dbsqlc.DBTX) error {
			rows, err := c.Query(t.Context(), "SELECT 1")
			if err != nil {
				return err
			}
			rows.Close()
			answer()
			return rows.Err()
		}
	}
	require.PanicsWithValue(t, "unreadable", func() { _ = ask(t.Context(), pool, nil, question(func() { panic("unreadable") })) })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, ask(ctx, pool, nil, question(func() {})))
}

// What is left of an order that was deleted by hand comes along with the parts of the others that were asked for.
func TestPartsWithoutAnOrderAreLeftOut(t *testing.T) {
	t.Parallel()
	pool, err := NewPool(t.Context(), dbtest.Millrace(t), 1)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	kept, gone := uuid.New(), uuid.New()
	_, err = pool.Exec(t.Context(), `INSERT INTO orders (id, customer_id, received_seq, status, payment_status, fulfillment_status, version, currency,
		total_minor, payment_method, email, placed_at, updated_at)
		VALUES ($1, $1, 1, 'processing', 'unpaid', 'unfulfilled', 1, 'EUR', 1, 'pm_ok', '', now(), now())`, kept)
	require.NoError(t, err)
	for _, part := range []string{
		"INSERT INTO order_lines VALUES ($1, 1, 'TEA-001', 'Tea', 1, 1, 1)",
		"INSERT INTO reservations VALUES ($1, 'TEA-001', 'main', 1, 'held')",
		"INSERT INTO payment_transactions VALUES ($1, 1, 'authorize', 'requested', 1, true, 'k', 'g', '', '', now())",
		"INSERT INTO shipments VALUES ($1, $1, 'requested', '', '', '', '', '')",
	} {
		for _, id := range []uuid.UUID{kept, gone} {
			_, err := pool.Exec(t.Context(), part, id)
			require.NoError(t, err, part)
		}
	}
	orders, err := (&Store{pool: pool}).read(t.Context(), []uuid.UUID{kept, gone}, everything)
	require.NoError(t, err)
	require.Len(t, orders, 1)
	o := orders[kept]
	require.Len(t, o.Lines, 1)
	require.Len(t, o.Reservations, 1)
	require.Len(t, o.Transactions, 1)
	require.NotNil(t, o.Shipment)
}
