package jobs

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/stretchr/testify/require"

	"millrace/db"
	"millrace/db/dbtest"
	"millrace/db/migrations"
)

// testPool is one connection to a database with our tables.
func testPool(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := db.NewPool(t.Context(), dbtest.Millrace(t), 1)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// Old jobs are removed by a plan for the call, since the one for all calls reads all jobs.
func TestOldJobsAreRemovedByAPlanOfTheirOwn(t *testing.T) {
	t.Parallel()
	pool := testPool(t)
	_, err := pool.Exec(t.Context(), `INSERT INTO river.river_job (args, kind, max_attempts, queue, state, finalized_at)
		SELECT '{}', 'sweep', 1, 'maintenance', 'completed', now() - n * interval '1 minute' FROM generate_series(1, 9) n`)
	require.NoError(t, err)
	e := driver{Driver: riverpgxv5.New(pool), local: &Local{}}.GetExecutor()
	remove := func(age time.Duration) (int, error) {
		return e.JobDeleteBefore(t.Context(), &riverdriver.JobDeleteBeforeParams{Schema: migrations.RiverSchema, CompletedDoDelete: true,
			CompletedFinalizedAtHorizon: time.Now().Add(-age), Max: 100})
	}
	for _, minutes := range []int{8, 7, 6} {
		n, err := remove(time.Duration(minutes)*time.Minute + time.Second/2)
		require.NoError(t, err)
		require.Equal(t, 1, n, "the one that is older than %d minutes", minutes)
	}
	var custom, generic int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT custom_plans, generic_plans FROM pg_prepared_statements WHERE statement LIKE '-- name: JobDeleteBefore%'").Scan(&custom, &generic))
	require.Equal(t, []int{3, 0}, []int{custom, generic})

	_, err = pool.Exec(t.Context(), "ALTER TABLE river.river_job RENAME TO elsewhere")
	require.NoError(t, err)
	_, err = remove(0)
	require.Error(t, err)
	var mode string
	require.NoError(t, pool.QueryRow(t.Context(), "SHOW plan_cache_mode").Scan(&mode)) // the connection is free again, and as it was
	require.Equal(t, "force_generic_plan", mode)
}
