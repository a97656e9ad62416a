package simulated

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5/pgxpool"
	_ "github.com/jackc/pgx/v5/stdlib" // the database/sql driver that goose uses
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationLock is the advisory lock on which processes that migrate one database take turns.
const migrationLock = 0x73696d75 // "simu"

// Two processes that create a schema at the same moment collide in the catalogue in spite of IF NOT EXISTS; and that asks for a
// privilege even where the schema exists.
const createSchema = `DO $$ BEGIN
	PERFORM pg_advisory_xact_lock(%d);
	IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'simulated') THEN
		CREATE SCHEMA simulated;
	END IF;
END $$`

// SchemaVersion identifies what Migrate leads to; it changes with every change of the migrations.
func SchemaVersion() string {
	hash := sha256.New()
	for _, name := range migrationNames() {
		body, err := migrationFiles.ReadFile(name)
		if err != nil {
			panic(err) // embedded at build time
		}
		hash.Write(body)
	}
	return hex.EncodeToString(hash.Sum(nil))
}

func migrationNames() []string {
	names, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil || len(names) == 0 {
		panic("simulated: the migrations are embedded at build time and cannot be missing")
	}
	return names
}

// Migrate brings the schema "simulated" of the database up to date. It is safe to repeat, and to call from several processes at
// once.
func Migrate(ctx context.Context, databaseURL string) error {
	db, err := sql.Open("pgx", databaseURL)
	if err != nil {
		return fmt.Errorf("simulated: open the database: %w", err)
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, fmt.Sprintf(createSchema, migrationLock)); err != nil {
		return fmt.Errorf("simulated: create the schema: %w", err)
	}
	files, err := fs.Sub(migrationFiles, "migrations")
	if err != nil {
		return fmt.Errorf("simulated: read the embedded migrations: %w", err)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(migrationLock), lock.WithLockTimeout(1, 120))
	if err != nil {
		return fmt.Errorf("simulated: prepare the migrations' lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName("simulated.goose_db_version"), goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return fmt.Errorf("simulated: read the migrations: %w", err)
	}
	if _, err := provider.Up(ctx); err != nil {
		return fmt.Errorf("simulated: migrate: %w", err)
	}
	return nil
}

// checkSchema fails unless the database has exactly the schema of this binary.
func checkSchema(ctx context.Context, pool *pgxpool.Pool) error {
	names := migrationNames()
	want, err := goose.NumericComponent(names[len(names)-1])
	if err != nil {
		return fmt.Errorf("simulated: read the migrations: %w", err)
	}
	var has int64
	err = pool.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM simulated.goose_db_version WHERE is_applied`).Scan(&has)
	switch {
	case isUndefined(err) || err == nil && has < want:
		return errors.New("simulated: the schema is missing or older than this binary: call simulated.Migrate first")
	case err != nil:
		return fmt.Errorf("simulated: read the schema's version: %w", err)
	case has > want:
		return fmt.Errorf("simulated: the schema is at version %d, newer than this binary knows (%d): run the newer binary", has, want)
	}
	return nil
}
