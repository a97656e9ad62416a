package migrations_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/stretchr/testify/require"

	"millrace/db/dbtest"
	"millrace/db/migrations"
)

func TestMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }

// newest is the version that the migrations lead to.
const newest = int64(11)

// empty makes a database without anything in it.
func empty(t *testing.T) (url string, pool *pgxpool.Pool) {
	t.Helper()
	url = dbtest.New(t, dbtest.Template{Name: "empty", Version: "1", Migrate: func(context.Context, string) error { return nil }})
	return url, connect(t, url)
}

func connect(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), url)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func exec(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql)
	require.NoError(t, err)
}

// describe lists all that a schema consists of, a line for each thing, as the server's catalogue has it: no tool needs to be there
// that dumps it. What goose keeps for itself is left out.
func describe(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		WITH relation AS (SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE 'goose_db_version%')
		SELECT format('relation %s %s %s %s', relkind, relname, relpersistence, reloptions) FROM relation
		UNION ALL
		SELECT format('column %s %s %s %s not null %s default %s identity %s generated %s collation %s statistics %s', c.relname, row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), a.attname, format_type(a.atttypid, a.atttypmod),
			a.attnotnull, pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attcollation::regcollation, a.attstattarget)
		FROM relation c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
		UNION ALL
		SELECT format('constraint %s %s %s', c.relname, k.conname, pg_get_constraintdef(k.oid)) FROM relation c JOIN pg_constraint k ON k.conrelid = c.oid
		UNION ALL
		SELECT 'index ' || pg_get_indexdef(i.indexrelid) FROM relation c JOIN pg_index i ON i.indrelid = c.oid
		UNION ALL
		SELECT 'trigger ' || pg_get_triggerdef(g.oid) FROM relation c JOIN pg_trigger g ON g.tgrelid = c.oid WHERE NOT g.tgisinternal
		UNION ALL
		SELECT 'function ' || pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace
		UNION ALL
		SELECT 'type ' || format_type(oid, NULL) FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd', 'r')
		UNION ALL
		SELECT format('comment %s %s %s', classoid::regclass, objsubid, description) FROM pg_description WHERE objoid IN (SELECT oid FROM relation)
		ORDER BY 1`)
	require.NoError(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return lines
}

// counters is the rows that a new database starts with.
func counters(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	rows, err := pool.Query(t.Context(), "SELECT name || ' ' || value FROM counters ORDER BY name")
	require.NoError(t, err)
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	return list
}

func TestTheMigrationsLeadToExactlyTheSchema(t *testing.T) {
	t.Parallel()
	schema, err := os.ReadFile("../../schema.sql")
	require.NoError(t, err)
	_, described := empty(t)
	exec(t, described, string(schema))
	migrated := connect(t, dbtest.Millrace(t))

	want := describe(t, described)
	require.Greater(t, len(want), 100, "the catalogue was read")
	require.Equal(t, strings.Join(want, "\n"), strings.Join(describe(t, migrated), "\n"))
	require.Equal(t, counters(t, described), counters(t, migrated))
	require.NoError(t, migrations.Check(t.Context(), migrated))
}

func TestMigratingAtTheSameTimeIsDoneOnce(t *testing.T) {
	t.Parallel()
	url, pool := empty(t)
	type result struct {
		version int64
		err     error
	}
	results, start := make(chan result), make(chan struct{})
	const processes = 4
	for range processes {
		go func() {
			<-start
			v, err := migrations.Up(t.Context(), url)
			results <- result{v, err}
		}()
	}
	close(start)
	for range processes {
		r := <-results
		require.NoError(t, r.err)
		require.Equal(t, newest, r.version)
	}
	var applied, distinct int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*), count(DISTINCT version_id) FROM goose_db_version WHERE version_id > 0").Scan(&applied, &distinct))
	require.Equal(t, distinct, applied, "each migration was applied once")
	require.Equal(t, []string{"allocated 0", "catalogue 0", "received 0"}, counters(t, pool))

	before := describe(t, pool)
	_, err := migrations.Up(t.Context(), url)
	require.NoError(t, err, "once more does nothing")
	require.Equal(t, before, describe(t, pool))
}

func TestANewerSchemaIsRefusedAndLeftAlone(t *testing.T) {
	t.Parallel()
	url := dbtest.Millrace(t)
	pool := connect(t, url)
	// A newer release has added a column, and knows of a migration that this one does not.
	exec(t, pool, "ALTER TABLE orders ADD COLUMN gift boolean")
	exec(t, pool, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, true)")
	before := describe(t, pool)

	version, err := migrations.Up(t.Context(), url)
	require.ErrorIs(t, err, migrations.ErrNewerSchema)
	require.Equal(t, int64(99), version)
	require.ErrorIs(t, migrations.Check(t.Context(), pool), migrations.ErrNewerSchema)
	require.Equal(t, before, describe(t, pool))
	var rows int
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT count(*) FROM goose_db_version WHERE version_id = 99").Scan(&rows))
	require.Equal(t, 1, rows)
}

func TestAnOlderSchemaIsSaidToBeOld(t *testing.T) {
	t.Parallel()
	url, pool := empty(t)
	require.ErrorIs(t, migrations.Check(t.Context(), pool), migrations.ErrOlderSchema, "never migrated")
	require.Empty(t, describe(t, pool), "Check writes nothing")
	var table *string
	require.NoError(t, pool.QueryRow(t.Context(), "SELECT to_regclass('goose_db_version')::text").Scan(&table))
	require.Nil(t, table, "not even the table of versions")

	_, err := migrations.Up(t.Context(), url)
	require.NoError(t, err)
	require.NoError(t, migrations.Check(t.Context(), pool))
	exec(t, pool, "DELETE FROM goose_db_version WHERE version_id = (SELECT max(version_id) FROM goose_db_version)")
	require.ErrorIs(t, migrations.Check(t.Context(), pool), migrations.ErrOlderSchema, "one migration is missing")
}

func TestMigrationsCanBeTakenBackAndAppliedAgain(t *testing.T) {
	t.Parallel()
	url := dbtest.Millrace(t)
	pool := connect(t, url)
	before := describe(t, pool)
	require.NoError(t, migrations.Down(t.Context(), url))
	require.Empty(t, describe(t, pool), "nothing of ours is left")
	version, err := migrations.Up(t.Context(), url)
	require.NoError(t, err)
	require.Equal(t, newest, version)
	require.Equal(t, before, describe(t, pool))
}

// River says what its own tables must look like; an update of River that needs more has to come with a migration of ours.
func TestRiversOwnTablesAreAsRiverWantsThem(t *testing.T) {
	t.Parallel()
	pool := connect(t, dbtest.Millrace(t))
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: migrations.RiverSchema})
	require.NoError(t, err)
	result, err := m.Validate(t.Context(), nil)
	require.NoError(t, err)
	require.True(t, result.OK, result.Messages)
}

func TestADatabaseThatCannotBeReachedIsSaidSo(t *testing.T) {
	t.Parallel()
	_, err := migrations.Up(t.Context(), "postgres://nobody@localhost:1/none?connect_timeout=1")
	require.ErrorContains(t, err, "read the schema's version")
	_, err = migrations.Up(t.Context(), "not a url")
	require.ErrorContains(t, err, "parse the database URL")
}

func TestTheFingerprintIsThatOfTheMigrations(t *testing.T) {
	t.Parallel()
	require.Len(t, migrations.Fingerprint(), 64)
	require.Equal(t, migrations.Fingerprint(), migrations.Fingerprint())
}
