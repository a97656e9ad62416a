package deploy

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"millrace/db/dbtest"
	"millrace/db/embedded"
)

// statements does for databases.sql what psql does: \getenv, :'name', and one statement at a time.
func statements(t testing.TB, env map[string]string) []string {
	t.Helper()
	text, err := os.ReadFile("databases.sql")
	if err != nil {
		t.Fatal(err)
	}
	sql := regexp.MustCompile(`(?m)^--.*$`).ReplaceAllString(string(text), "")
	getenv := regexp.MustCompile(`(?m)^\\getenv (\w+) (\w+)$`)
	for _, variable := range getenv.FindAllStringSubmatch(sql, -1) {
		value, ok := env[variable[2]]
		if !ok {
			t.Fatalf("databases.sql reads %s, which postgres is not given", variable[2])
		}
		sql = strings.ReplaceAll(sql, ":'"+variable[1]+"'", "'"+strings.ReplaceAll(value, "'", "''")+"'")
	}
	var all []string
	for statement := range strings.SplitSeq(getenv.ReplaceAllString(sql, ""), ";") {
		if statement = strings.TrimSpace(statement); statement != "" {
			all = append(all, statement)
		}
	}
	return all
}

// startPostgres is the service postgres without its container: a server of its own, on which databases.sql has run.
func startPostgres(t testing.TB) *embedded.Server {
	t.Helper()
	ctx := t.Context()
	server := dbtest.StartServer(t, embedded.Config{Throwaway: true})
	super := connect(t, server.URL("postgres"), "")
	env := map[string]string{}
	for key, value := range project(t).Services["postgres"].Environment {
		env[key] = *value
	}
	for _, statement := range statements(t, env) {
		if _, err := super.Exec(ctx, statement); err != nil {
			t.Fatalf("%s: %v", strings.Fields(statement)[:3], err)
		}
	}
	return server
}

func TestEachProgramOwnsItsDatabaseAndSeesNoOther(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startPostgres(t)
	super := connect(t, server.URL("postgres"), "")
	for program, other := range map[string]string{"millrace": "gate", "gate": "millrace"} {
		var verifier string
		var powerful bool
		row := super.QueryRow(ctx, `SELECT rolpassword, rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls FROM pg_authid WHERE rolname = $1`, program)
		if err := row.Scan(&verifier, &powerful); err != nil {
			t.Fatal(err)
		}
		if powerful {
			t.Errorf("%s may do more than own its database", program)
		}
		if !isPassword(t, verifier, environment()[strings.ToUpper(program)+"_DB_PASSWORD"]) {
			t.Errorf("%s has not the password that its services are given", program)
		}

		own := connect(t, server.URL(program), program)
		for _, statement := range []string{"CREATE SCHEMA river", "CREATE TABLE public.kept (id int)"} {
			if _, err := own.Exec(ctx, statement); err != nil {
				t.Errorf("%s cannot migrate its own database: %s: %v", program, statement, err)
			}
		}
		if conn, err := pgx.ConnectConfig(ctx, config(t, server.URL(other), program)); err == nil {
			t.Errorf("%s connects to the database of %s", program, other)
			_ = conn.Close(ctx)
		}
	}
}

func config(t testing.TB, url, user string) *pgx.ConnConfig {
	t.Helper()
	c, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	if user != "" {
		c.User = user
	}
	return c
}

func connect(t testing.TB, url, user string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.ConnectConfig(t.Context(), config(t, url, user))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// isPassword says whether a SCRAM-SHA-256 verifier as Postgres stores it (RFC 5803) is of this password.
func isPassword(t testing.TB, verifier, password string) bool {
	t.Helper()
	form := regexp.MustCompile(`^SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):`).FindStringSubmatch(verifier)
	if form == nil {
		t.Fatal("the password is not stored as SCRAM-SHA-256")
	}
	var rounds int
	if _, err := fmt.Sscan(form[1], &rounds); err != nil {
		t.Fatal(err)
	}
	salt, err := base64.StdEncoding.DecodeString(form[2])
	if err != nil {
		t.Fatal(err)
	}
	salted, err := pbkdf2.Key(sha256.New, password, salt, rounds, sha256.Size)
	if err != nil {
		t.Fatal(err)
	}
	key := hmac.New(sha256.New, salted)
	key.Write([]byte("Client Key"))
	stored := sha256.Sum256(key.Sum(nil))
	return base64.StdEncoding.EncodeToString(stored[:]) == form[3]
}
