package dbtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"millrace/db/embedded"
)

func TestMain(m *testing.M) { Main(m, NoLeaks()) }

// template has one table with one row, and counts its migrations in the file
// that countVariable names, if any.
func template(name, version string) Template {
	return Template{Name: name, Version: version, Migrate: func(ctx context.Context, url string) error {
		if path := os.Getenv(countVariable); path != "" {
			file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
			if err != nil {
				return err
			}
			defer file.Close()
			fmt.Fprintln(file, name, version)
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "CREATE TABLE notes AS SELECT '"+name+"' AS text")
		return err
	}}
}

var notes = template("notes", "2")

func dial(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func value(t testing.TB, conn *pgx.Conn, sql string, args ...any) string {
	t.Helper()
	var text string
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

func TestEachTestHasItsOwnMigratedDatabase(t *testing.T) {
	t.Parallel()
	for i := range 6 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			conn := dial(t, New(t, notes))
			if got := value(t, conn, "SELECT string_agg(text, ',') FROM notes"); got != "notes" {
				t.Errorf("it holds %q", got)
			}
			if _, err := conn.Exec(t.Context(), "INSERT INTO notes VALUES ('mine')"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOneTestMayHaveSeveralDatabasesOfSeveralTemplates(t *testing.T) {
	t.Parallel()
	urls := map[string]bool{}
	for _, name := range []string{"notes", "more_notes", "notes"} {
		url := New(t, template(name, "2"))
		if got := value(t, dial(t, url), "SELECT text FROM notes"); got != name {
			t.Errorf("it holds %q, want %q", got, name)
		}
		urls[url] = true
	}
	if len(urls) != 3 {
		t.Errorf("there are %d databases", len(urls))
	}
}

func TestDatabaseIsDroppedAtTheEndWhoeverIsConnected(t *testing.T) {
	t.Parallel()
	var url string
	var leaked *pgx.Conn
	t.Run("test", func(t *testing.T) {
		url = New(t, notes)
		var err error
		if leaked, err = pgx.Connect(context.Background(), url); err != nil {
			t.Fatal(err)
		}
	})
	defer leaked.Close(context.Background())
	if leaked.Ping(t.Context()) == nil {
		t.Error("the connection lives on")
	}
	if conn, err := pgx.Connect(t.Context(), url); err == nil {
		conn.Close(t.Context())
		t.Error("the database is still there")
	} else if !strings.Contains(err.Error(), "does not exist") {
		t.Error(err)
	}
}

func TestATemplateThatIsWrongIsRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule     string
		template Template
		want     string
	}{
		{"no name", template("", "1"), "Template.Name"},
		{"a name that is no name", template(`x"; DROP`, "1"), "Template.Name"},
		{"a name that is too long", template(strings.Repeat("x", 21), "1"), "Template.Name"},
		{"no version", template("x", ""), "Template.Version"},
		{"no migrations", Template{Name: "x", Version: "1"}, "Template.Migrate"},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			if _, err := shared.serverWith(t.Context(), test.template); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestABrokenMigrationIsReportedToEachTestAndTriedOnce(t *testing.T) {
	t.Parallel()
	New(t, notes) // there is a server, whatever else is broken
	broken := errors.New("relation exists")
	tried := 0
	bad := Template{Name: "broken", Version: "1", Migrate: func(context.Context, string) error {
		tried++
		return broken
	}}
	for range 3 {
		if _, err := shared.serverWith(t.Context(), bad); !errors.Is(err, broken) {
			t.Errorf("got %v", err)
		}
	}
	if tried != 1 {
		t.Errorf("it was tried %d times", tried)
	}
	admin := dial(t, shared.on.admin())
	if got := value(t, admin, "SELECT count(*)::text FROM pg_database WHERE starts_with(datname, $1)", bad.database()); got != "0" {
		t.Error("the half-made database is left")
	}
}

func TestAPackageWithoutMainIsToldToAddIt(t *testing.T) {
	t.Parallel()
	var p process
	if _, err := p.serverWith(t.Context(), notes); err == nil || !strings.Contains(err.Error(), "func TestMain") {
		t.Errorf("got %v", err)
	}
}

func TestAStandaloneServerIsGoneAfterItsTest(t *testing.T) {
	t.Parallel()
	var server *embedded.Server
	t.Run("test", func(t *testing.T) {
		server = StartServer(t, embedded.Config{Throwaway: true})
		if got := value(t, dial(t, server.URL("postgres")), "SELECT 'works'"); got != "works" {
			t.Error(got)
		}
	})
	select {
	case <-server.Done():
	default:
		t.Error("it still runs")
	}
}

func TestAddressOfAServer(t *testing.T) {
	t.Parallel()
	on, err := parseAddress("postgres://ada:secret@db:5433/shop?sslmode=require")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := on.database("x"), "postgres://ada:secret@db:5433/x?sslmode=require"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, text := range []string{"host=db password=secret", "http://secret", "postgres://%zz:secret"} {
		if _, err := parseAddress(text); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: got %v", text, err)
		}
	}
}

func BenchmarkNew(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		_, err := shared.serverWith(b.Context(), notes)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		New(b, notes)
	}
}
