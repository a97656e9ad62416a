package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/schollz/progressbar/v3"

	"millrace"
	"millrace/db"
	"millrace/db/embedded"
	"millrace/db/migrations"
)

// commonFlags are those of every measuring subcommand.
type commonFlags struct {
	DatabaseURL string        `env:"DATABASE_URL" placeholder:"postgres://…" help:"A Postgres to measure on, whose user may create databases. Default: an embedded one in a directory of its own."`
	JSON        bool          `name:"json" help:"Print one JSON object instead of tables."`
	Rounds      int           `default:"3" help:"Rounds, in each of which everything is measured in turn."`
	Time        time.Duration `default:"10s" help:"Length of each measurement."`
}

// bed is the Postgres that a report is taken on.
type bed struct {
	server   *embedded.Server // nil where one was named
	dir      string
	url      string // of a database from which others can be made
	bin      string // where Postgres' programs are
	made     []string
	progress *progressbar.ProgressBar
	err      io.Writer
}

// newBed starts or finds a Postgres with durability on. Its settings are for the size of a small server; they are the same for
// everything measured and stand in the report.
func (f *commonFlags) newBed(ctx context.Context, stdio stdio, steps int) (*bed, error) {
	return f.newBedWith(ctx, stdio, steps, nil)
}

// newBedWith is newBed with further settings for a Postgres that it starts.
func (f *commonFlags) newBedWith(ctx context.Context, stdio stdio, steps int, extra map[string]string) (*bed, error) {
	b := &bed{url: f.DatabaseURL, err: stdio.err}
	b.progress = progressbar.NewOptions(steps, progressbar.OptionSetWriter(stdio.err), progressbar.OptionSetWidth(30),
		progressbar.OptionSetElapsedTime(true), progressbar.OptionClearOnFinish())
	if b.url == "" {
		var err error
		if b.dir, err = os.MkdirTemp("", "millrace-bench-*"); err != nil {
			return nil, err
		}
		if err := os.Chmod(b.dir, 0o755); err != nil { //nolint:gosec // the server's user may be another, and its own folder in it is closed
			return nil, err
		}
		settings := map[string]string{"shared_buffers": "1GB", "max_wal_size": "8GB", "min_wal_size": "4GB", "checkpoint_timeout": "15min", "autovacuum_naptime": "10s"}
		maps.Copy(settings, extra)
		b.server, err = embedded.Start(ctx, embedded.Config{Dir: filepath.Join(b.dir, "pg"), MaxConnections: 200, Settings: settings})
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(b.dir))
		}
		b.url, b.bin = b.server.URL("postgres"), b.server.Installation().BinDir
		if err := b.breakIn(ctx); err != nil {
			return nil, errors.Join(err, b.close(ctx))
		}
	} else {
		out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output()
		if err != nil {
			return nil, fmt.Errorf("find pgbench: %w", err)
		}
		b.bin = strings.TrimSpace(string(out))
	}
	return b, nil
}

// walAhead is how much write-ahead log the server has room for before it must make files, in segments of 16 MB.
const walAhead = 128

// breakIn gives a new server the files of log that one which has run for a while has: it writes over old ones, where a new one makes
// and fills each, and whoever commits then waits for 20 to 50 ms.
func (b *bed) breakIn(ctx context.Context) error {
	c, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	for range walAhead {
		if _, err := c.Exec(ctx, "SELECT pg_logical_emit_message(false, 'bench', ''), pg_switch_wal()"); err != nil {
			return err
		}
	}
	_, err = c.Exec(ctx, "CHECKPOINT")
	return err
}

// close drops the databases it made and stops the Postgres it started.
func (b *bed) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_ = b.progress.Finish() // a bar that cannot be drawn is no failure
	err := b.clear(ctx)
	if b.server != nil {
		err = errors.Join(err, b.server.Stop(ctx), embedded.Remove(ctx, filepath.Join(b.dir, "pg")))
	}
	if b.dir != "" {
		err = errors.Join(err, os.RemoveAll(b.dir))
	}
	return err
}

// clear drops the databases made so far, whose vacuums would slow down what is measured next, and frees their log to be written over.
func (b *bed) clear(ctx context.Context) (err error) {
	for _, name := range b.made {
		err = errors.Join(err, b.exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"))
	}
	b.made = nil
	if b.server != nil {
		err = errors.Join(err, b.exec(ctx, "CHECKPOINT"))
	}
	return err
}

func (b *bed) exec(ctx context.Context, sql string) error {
	c, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	_, err = c.Exec(ctx, sql)
	return err
}

// step says on the progress bar what is being measured.
func (b *bed) step(format string, args ...any) {
	b.progress.Describe(fmt.Sprintf("%-40s", fmt.Sprintf(format, args...)))
	_ = b.progress.Add(1) // likewise
}

// pgbench is pgbench's path.
func (b *bed) pgbench() string { return filepath.Join(b.bin, "pgbench") }

// freshDatabase makes a database as the only one there is: none of those made so far is in use any more.
func (b *bed) freshDatabase(ctx context.Context, skus int) (string, error) {
	if err := b.clear(ctx); err != nil {
		return "", err
	}
	return b.database(ctx, skus)
}

// database makes a migrated database whose catalogue has skus products with plenty of stock, and returns its URL.
func (b *bed) database(ctx context.Context, skus int) (string, error) {
	name := "bench_" + strings.ToLower(rand.Text())
	if err := b.exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	b.made = append(b.made, name)
	u, err := url.Parse(b.url)
	if err != nil {
		return "", err
	}
	u.Path = "/" + name
	if _, err := migrations.Up(ctx, u.String()); err != nil {
		return "", err
	}
	pool, err := db.NewPool(ctx, u.String(), 2)
	if err != nil {
		return "", err
	}
	defer pool.Close()
	_, err = pool.Exec(ctx, `
		WITH p AS (INSERT INTO products (sku, name, price_minor, currency, updated_at)
		           SELECT 'SKU-' || lpad(n::text, 6, '0'), 'Product ' || n, 1000 + n, 'EUR', now() FROM generate_series(0, $1 - 1) n RETURNING sku)
		INSERT INTO inventory_levels (sku, location, on_hand) SELECT sku, 'main', 1000000000 FROM p`, skus)
	if err == nil {
		_, err = pool.Exec(ctx, "CREATE SEQUENCE bench_received") // for pgbench's orders
	}
	return u.String(), err
}

// postgresPIDs are the processes of the Postgres it started, nil for one it was given.
func (b *bed) postgresPIDs() []int {
	if b.server == nil {
		return nil
	}
	return childrenOf(b.server.PID())
}

// walBytes is how much write-ahead log has been written so far.
func walBytes(ctx context.Context, pool *pgxpool.Pool) (n float64, err error) {
	err = pool.QueryRow(ctx, "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8").Scan(&n)
	return n, err
}

// sku is the name of the nth product of a bed's catalogue.
func sku(n int) string { return fmt.Sprintf("SKU-%06d", n) }

// orderOf is a request for one of each of two products.
func orderOf(n, skus int) millrace.OrderRequest {
	return millrace.OrderRequest{PaymentMethod: "pm_ok", Email: "bench@example.com",
		ShipTo: &millrace.Address{Name: "Ada Lovelace", Line1: "12 Mill Lane", City: "Bath", PostalCode: "BA1 1AA", Country: "GB"},
		Lines:  []millrace.LineRequest{{SKU: sku(n % skus), Quantity: 1}, {SKU: sku((n + 1) % skus), Quantity: 2}}}
}

// quiet is a logger that says nothing.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// statements prints what Postgres spent its time on.
func (b *bed) statements(ctx context.Context, w io.Writer) error {
	c, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return err
	}
	defer c.Close(ctx)
	rows, err := c.Query(ctx, `SELECT total_exec_time, calls, rows, regexp_replace(left(query, 110), '\s+', ' ', 'g')
		FROM pg_stat_statements ORDER BY total_exec_time DESC LIMIT 25`)
	if err != nil {
		return err
	}
	defer rows.Close()
	fmt.Fprintln(w, "  total ms    calls  rows/call  statement")
	for rows.Next() {
		var total float64
		var calls, count int64
		var query string
		if err := rows.Scan(&total, &calls, &count, &query); err != nil {
			return err
		}
		fmt.Fprintf(w, "%10.0f %8d %10.1f  %s\n", total, calls, float64(count)/float64(calls), query)
	}
	return rows.Err()
}
