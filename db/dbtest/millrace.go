package dbtest

import (
	"context"
	"testing"

	"millrace/db/migrations"
)

// Millrace makes a database with Millrace's schema, River's included, and returns its URL.
func Millrace(t testing.TB) string {
	t.Helper()
	return New(t, Template{Name: "millrace", Version: migrations.Fingerprint(), Migrate: func(ctx context.Context, url string) error {
		_, err := migrations.Up(ctx, url)
		return err
	}})
}
