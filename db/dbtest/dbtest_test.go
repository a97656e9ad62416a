package dbtest_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"millrace/db/dbtest"
)

func TestMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }

// notes is a template with one table that holds one row.
var notes = dbtest.Template{
	Name:    "notes",
	Version: "1",
	Migrate: func(ctx context.Context, url string) error {
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "CREATE TABLE notes (text text NOT NULL); INSERT INTO notes VALUES ('from the template')")
		return err
	},
}

func TestSmoke(t *testing.T) {
	url := dbtest.New(t, notes)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	t.Log(url)
}
