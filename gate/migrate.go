package gate

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"

	_ "github.com/jackc/pgx/v5/stdlib" // database/sql driver "pgx" for goose
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationLock is the advisory lock that processes migrating the same database take turns on.
const migrationLock = 0x67617465 // "gate"

// SchemaVersion identifies the schema that this binary makes; it is a hash of the migrations.
func SchemaVersion() string {
	entries, err := migrationFiles.ReadDir("migrations")
	if err != nil {
		panic(err) // embedded at build time
	}
	sum := sha256.New()
	for _, e := range entries {
		text, err := migrationFiles.ReadFile("migrations/" + e.Name())
		if err != nil {
			panic(err) // embedded at build time
		}
		fmt.Fprintf(sum, "%s %d\n%s", e.Name(), len(text), text)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8])
}

// Migrate brings the schema "gate" of the database up to date. It is safe to repeat, and to call from several processes at
// once. It fails on a database that a newer binary has migrated already.
func Migrate(ctx context.Context, databaseURL string) error {
	return withMigrations(ctx, databaseURL, func(p *goose.Provider) error {
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrate schema gate: %w", err)
		}
		return nil
	})
}

// checkSchema fails unless the database has exactly the schema of this binary.
func checkSchema(ctx context.Context, databaseURL string) error {
	return withMigrations(ctx, databaseURL, func(p *goose.Provider) error {
		current, target, err := p.GetVersions(ctx)
		if err != nil {
			return fmt.Errorf("read the version of schema gate: %w", err)
		}
		if current < target {
			return fmt.Errorf("schema gate is at version %d and this binary needs %d: run `gate migrate` first", current, target)
		}
		return nil
	})
}

func withMigrations(ctx context.Context, databaseURL string, use func(*goose.Provider) error) error {
	db, err := sql.Open("pgx", databaseURL)
	if err != nil {
		return fmt.Errorf("open the gate's database: %w", err)
	}
	defer db.Close()
	// Two processes that create the schema at the same moment collide in the catalogue in spite of IF NOT EXISTS.
	const create = `SELECT pg_advisory_xact_lock(%d); CREATE SCHEMA IF NOT EXISTS gate`
	var exists bool
	if err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'gate')`).Scan(&exists); err != nil {
		return fmt.Errorf("look for schema gate: %w", err)
	}
	if !exists {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return fmt.Errorf("create schema gate: %w", err)
		}
		defer tx.Rollback() //nolint:errcheck // a no-op after the commit
		if _, err := tx.ExecContext(ctx, fmt.Sprintf(create, migrationLock)); err != nil {
			return fmt.Errorf("create schema gate: %w", err)
		}
		if err := tx.Commit(); err != nil {
			return fmt.Errorf("create schema gate: %w", err)
		}
	}
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return fmt.Errorf("read the embedded migrations: %w", err)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(migrationLock), lock.WithLockTimeout(1, 120))
	if err != nil {
		return fmt.Errorf("prepare the migrations' lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName("gate.goose_db_version"), goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("read the gate's migrations: %w", err)
	}
	if err := refuseNewer(ctx, db, provider); err != nil {
		return err
	}
	return use(provider)
}

func refuseNewer(ctx context.Context, db *sql.DB, p *goose.Provider) error {
	var migrated bool
	if err := db.QueryRowContext(ctx, `SELECT to_regclass('gate.goose_db_version') IS NOT NULL`).Scan(&migrated); err != nil {
		return fmt.Errorf("look for the version of schema gate: %w", err)
	}
	if !migrated {
		return nil
	}
	var current int64
	if err := db.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM gate.goose_db_version WHERE is_applied`).Scan(&current); err != nil {
		return fmt.Errorf("read the version of schema gate: %w", err)
	}
	sources := p.ListSources()
	if newest := sources[len(sources)-1].Version; current > newest {
		return fmt.Errorf("schema gate is at version %d, newer than this binary knows (%d): run the newer binary", current, newest)
	}
	return nil
}
