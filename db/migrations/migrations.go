// Package migrations holds the versioned changes of Millrace's schema, River's own among them, and applies them. It imports nothing
// of the module.
package migrations

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

//go:embed *.sql
var files embed.FS

// RiverSchema is the schema that River's tables live in.
const RiverSchema = "river"

// riverVersion is the version of River's own schema that migration 2 leads to. A later one is a later migration.
const riverVersion = 8

// ErrNewerSchema is what an older binary gets on a schema that a newer one has migrated.
var ErrNewerSchema = errors.New("the database was migrated by a newer release: run that one, or a newer")

// ErrOlderSchema is what Check returns where migrations are missing.
var ErrOlderSchema = errors.New("the database lacks migrations: run `millrace migrate`")

// Up applies what is missing. Several processes may call it at once: one does the work, the others wait. It returns the version
// that the schema is at, and ErrNewerSchema without a change where the database knows migrations that this binary does not.
func Up(ctx context.Context, databaseURL string) (int64, error) {
	p, db, err := provider(databaseURL)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	current, err := p.GetDBVersion(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the schema's version: %w", err)
	}
	if current > newest(p) {
		return current, ErrNewerSchema
	}
	if _, err := p.Up(ctx); err != nil {
		return 0, fmt.Errorf("migrate: %w", err)
	}
	return p.GetDBVersion(ctx)
}

// Check reports whether the schema is exactly the one this binary was made for: nil, ErrOlderSchema or ErrNewerSchema. It writes
// nothing.
func Check(ctx context.Context, pool *pgxpool.Pool) error {
	p, db, err := provider(pool.Config().ConnString())
	if err != nil {
		return err
	}
	defer db.Close()
	var current int64
	err = pool.QueryRow(ctx, "SELECT coalesce(max(version_id), 0) FROM goose_db_version WHERE is_applied").Scan(&current)
	switch want := newest(p); {
	case err != nil && isUndefinedTable(err):
		return ErrOlderSchema
	case err != nil:
		return fmt.Errorf("read the schema's version: %w", err)
	case current < want:
		return ErrOlderSchema
	case current > want:
		return ErrNewerSchema
	}
	return nil
}

func newest(p *goose.Provider) int64 {
	sources := p.ListSources()
	return sources[len(sources)-1].Version
}

func provider(databaseURL string) (*goose.Provider, *sql.DB, error) {
	config, err := pgx.ParseConfig(databaseURL)
	if err != nil {
		return nil, nil, fmt.Errorf("parse the database URL: %w", err)
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return nil, nil, err
	}
	db := stdlib.OpenDB(*config)
	river := goose.NewGoMigration(2, &goose.GoFunc{RunDB: func(ctx context.Context, _ *sql.DB) error {
		return migrateRiver(ctx, databaseURL, riverVersion)
	}}, nil)
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithGoMigrations(river), goose.WithSessionLocker(locker),
		goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	return p, db, nil
}

// migrateRiver brings River's tables to a version of River's own, in a schema of their own.
func migrateRiver(ctx context.Context, databaseURL string, version int) error {
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+RiverSchema); err != nil {
		return fmt.Errorf("create River's schema: %w", err)
	}
	m, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: RiverSchema})
	if err != nil {
		return err
	}
	_, err = m.Migrate(ctx, rivermigrate.DirectionUp, &rivermigrate.MigrateOpts{TargetVersion: version})
	return err
}

// Fingerprint changes whenever the migrations do.
func Fingerprint() string {
	h := sha256.New()
	fmt.Fprintln(h, "river", riverVersion)
	names, _ := fs.Glob(files, "*.sql") // the pattern is well formed
	for _, name := range names {
		body, _ := fs.ReadFile(files, name) // embedded, so it is there
		fmt.Fprintln(h, name, len(body))
		h.Write(body)
	}
	return hex.EncodeToString(h.Sum(nil))
}
