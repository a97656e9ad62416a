package dbtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// setupLimit bounds what a test waits for its database: the first of all may
// download a Postgres, wait for another process' migrations and then start.
const setupLimit = 10 * time.Minute

// New makes a database from the template and returns its URL. The database is
// dropped when the test ends, whoever is still connected to it.
func New(t testing.TB, template Template) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), setupLimit)
	defer cancel()
	on, err := shared.serverWith(ctx, template)
	if err != nil {
		t.Fatal(err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	if err := on.clone(ctx, template.database(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := on.drop(ctx, name); err != nil {
			t.Error(err)
		}
	})
	return on.database(name)
}

// Check looks for something wrong once all tests of a package have passed.
type Check func() error

// NoLeaks finds goroutines that the package's tests left running.
func NoLeaks(options ...goleak.Option) Check {
	return func() error { return goleak.Find(options...) }
}

// Main runs a package's tests, takes down what New started for them, applies the
// checks and exits:
//
//	func TestMain(m *testing.M) { dbtest.Main(m, dbtest.NoLeaks()) }
func Main(m *testing.M, checks ...Check) {
	os.Exit(Run(m, checks...))
}

// Run is Main for packages that have more to do before they exit: it returns
// the exit code.
func Run(m *testing.M, checks ...Check) int {
	shared.open()
	code := m.Run()
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	if code != 0 {
		return code // a test that failed may well have left something running
	}
	for _, check := range checks {
		if err := check(); err != nil {
			fmt.Fprintln(os.Stderr, "dbtest:", err)
			code = 1
		}
	}
	return code
}

// shared is this process' server.
var shared process

// process is the one server of a test process, started by the first test that
// needs it.
type process struct {
	mu        sync.Mutex
	opened    bool
	on        *address
	private   *privateServer // nil where TEST_DATABASE_URL names a server
	templates map[string]error
}

func (p *process) open() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened = true
}

// serverWith returns the server once it holds the template. Tests that ask at
// the same time wait for the one that does the work.
func (p *process) serverWith(ctx context.Context, template Template) (address, error) {
	if err := template.check(); err != nil {
		return address{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.opened {
		return address{}, fmt.Errorf("dbtest: the package needs a server that is stopped at its end: add func TestMain(m *testing.M) { dbtest.Main(m) }")
	}
	if p.on == nil {
		on, private, err := startServer(ctx, template)
		if err != nil {
			return address{}, err
		}
		p.on, p.private, p.templates = &on, private, map[string]error{}
	}
	name := template.database()
	err, done := p.templates[name]
	if !done {
		err = template.ensure(ctx, *p.on)
		// A broken migration fails each test at once, and is not tried again
		// for each of them.
		if ctx.Err() == nil {
			p.templates[name] = err
		}
	}
	return *p.on, err
}

func (p *process) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened = false
	if p.private == nil {
		return nil
	}
	return p.private.stop()
}

// clone copies the template's files: with little in it, this is several times
// faster than logging each page, and than migrating afresh.
func (a address) clone(ctx context.Context, template, name string) error {
	return a.exec(ctx, "CREATE DATABASE "+quote(name)+" TEMPLATE "+quote(template)+" STRATEGY FILE_COPY")
}

func (a address) drop(ctx context.Context, name string) error {
	return a.exec(ctx, "DROP DATABASE IF EXISTS "+quote(name)+" WITH (FORCE)")
}

func (a address) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, a.admin())
	if err != nil {
		return fmt.Errorf("dbtest: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return execAll(ctx, conn, []string{sql})
}
