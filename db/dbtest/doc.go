// Package dbtest gives every test a Postgres database of its own.
//
// A package that uses it has one line of set-up:
//
//	func TestMain(m *testing.M) { dbtest.Main(m) }
//
// and each test asks for a database that has been migrated already:
//
//	url := dbtest.New(t, template)
//
// Where TEST_DATABASE_URL is set, the databases are made on that server, whose
// user must be allowed to create databases. Otherwise each test process runs a
// private server (see package embedded): in memory where there is room, without
// fsync, started from a cached cluster that already holds the template. The
// first process that needs a template fills the cache, the others wait for it.
//
// A database per test, and not a schema: notification channels and advisory
// locks belong to a database.
//
// The package imports embedded, pgx and goleak. A template's migrations are the
// caller's.
package dbtest
