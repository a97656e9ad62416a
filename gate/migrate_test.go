package gate

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"millrace/db/dbtest"
)

var empty = dbtest.Template{Name: "empty", Version: "1", Migrate: func(context.Context, string) error { return nil }}

func TestMigrateIsSafeFromSeveralProcessesAtOnce(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t, empty)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := Migrate(t.Context(), url); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := Migrate(t.Context(), url); err != nil {
		t.Fatalf("again: %v", err)
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	t.Parallel()
	url := dbtest.New(t, migrated)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `INSERT INTO gate.goose_db_version (version_id, is_applied) VALUES (9999, true)`); err != nil {
		t.Fatal(err)
	}
	if err := Migrate(t.Context(), url); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("Migrate: %v", err)
	}
	if _, err := OpenStore(t.Context(), url); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("OpenStore: %v", err)
	}
}

func TestAnOlderSchemaAsksForMigrate(t *testing.T) {
	t.Parallel()
	if _, err := OpenStore(t.Context(), dbtest.New(t, empty)); err == nil || !strings.Contains(err.Error(), "gate migrate") {
		t.Errorf("OpenStore: %v", err)
	}
}
