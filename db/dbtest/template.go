package dbtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"regexp"

	"github.com/jackc/pgx/v5"
)

// Template describes a migrated, empty database that tests get copies of.
type Template struct {
	// Name tells templates apart: lower-case letters, digits and _, at most 20
	// bytes.
	Name string

	// Version changes whenever Migrate would lead to something else, such as a
	// hash of the migrations. A template is made once for each version.
	Version string

	// Migrate fills the empty database at url and leaves no connection open.
	Migrate func(ctx context.Context, url string) error
}

var templateName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,19}$`)

func (tpl Template) check() error {
	switch {
	case !templateName.MatchString(tpl.Name):
		return fmt.Errorf("dbtest: Template.Name is %q: use lower-case letters, digits and _, at most 20", tpl.Name)
	case tpl.Version == "":
		return errors.New("dbtest: Template.Version is empty: give a hash of what Migrate does")
	case tpl.Migrate == nil:
		return errors.New("dbtest: Template.Migrate is nil")
	}
	return nil
}

// database is the name of the template's own database.
func (tpl Template) database() string {
	return "template_" + tpl.Name + "_" + shortHash(tpl.Version)
}

// ensure makes the template's database on a server, unless it is there. It is
// safe in any number of processes at once: one makes it, the others wait.
func (tpl Template) ensure(ctx context.Context, on address) error {
	conn, err := pgx.Connect(ctx, on.admin())
	if err != nil {
		return fmt.Errorf("dbtest: %w", err)
	}
	// The lock ends with the connection.
	defer conn.Close(context.WithoutCancel(ctx))

	name := tpl.database()
	if ready, err := hasDatabase(ctx, conn, name); err != nil || ready {
		return err
	}
	key := fnv.New64a()
	key.Write([]byte(name))
	if _, err := conn.Exec(ctx, "SELECT pg_advisory_lock($1)", int64(key.Sum64())); err != nil {
		return fmt.Errorf("dbtest: %w", err)
	}
	if ready, err := hasDatabase(ctx, conn, name); err != nil || ready {
		return err
	}

	// Made under another name: where the name exists, the template is whole.
	draft := name + "_draft"
	statements := []string{
		"DROP DATABASE IF EXISTS " + quote(draft) + " WITH (FORCE)",
		"CREATE DATABASE " + quote(draft) + " TEMPLATE template0",
	}
	if err := execAll(ctx, conn, statements); err != nil {
		return err
	}
	if err := tpl.Migrate(ctx, on.database(draft)); err != nil {
		err = fmt.Errorf("dbtest: migrate the template %s: %w", tpl.Name, err)
		return errors.Join(err, execAll(context.WithoutCancel(ctx), conn, statements[:1]))
	}
	return execAll(ctx, conn, []string{
		"ALTER DATABASE " + quote(draft) + " WITH ALLOW_CONNECTIONS false",
		"ALTER DATABASE " + quote(draft) + " RENAME TO " + quote(name),
	})
}

func hasDatabase(ctx context.Context, conn *pgx.Conn, name string) (bool, error) {
	var exists bool
	err := conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&exists)
	if err != nil {
		return false, fmt.Errorf("dbtest: %w", err)
	}
	return exists, nil
}

func execAll(ctx context.Context, conn *pgx.Conn, statements []string) error {
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("dbtest: %s: %w", sql, err)
		}
	}
	return nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

func shortHash(parts ...string) string {
	hash := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(hash.Sum(nil))[:16]
}
