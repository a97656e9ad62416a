package embedded

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Server is a running Postgres. Its methods may be called from any goroutine.
type Server struct {
	home      *home
	in        Installation
	socketDir string
	log       *slog.Logger
	output    *serverLog
	child     *child
	stopping  atomic.Bool
	unlock    sync.Once
}

// Start runs the server of c.Dir and returns once it answers. What is missing
// is made or obtained first: binaries, the cluster. A server that an earlier
// process left behind is stopped and replaced.
//
// It returns a [*LockedError] where another process uses c.Dir, a
// [*VersionError] where no usable Postgres fits the data in it, and a
// [*MissingError] where none was found and none could be obtained.
//
// ctx bounds the start alone. The server runs until [Server.Stop], which must be
// called even when it ended by itself, or until this process ends.
func Start(ctx context.Context, c Config) (*Server, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	h, err := openHome(c.Dir, c.Throwaway)
	if err != nil {
		return nil, err
	}
	s, err := launch(ctx, c, h)
	if err != nil {
		h.close()
		return nil, err
	}
	return s, nil
}

func launch(ctx context.Context, c Config, h *home) (*Server, error) {
	began := time.Now()
	major, err := h.major()
	if err != nil {
		return nil, err
	}
	in, err := find(ctx, c, h.account, major)
	if err != nil {
		if version := (*VersionError)(nil); errors.As(err, &version) {
			version.Dir = c.Dir
		}
		return nil, err
	}
	if major == 0 {
		limited, cancel := context.WithTimeout(ctx, c.StartTimeout)
		defer cancel()
		if err := h.makeCluster(limited, c, in); err != nil {
			return nil, err
		}
	}
	if err := stopOrphans(ctx, h.data, c.Logger); err != nil {
		return nil, err
	}
	s := &Server{home: h, in: in, log: c.Logger, output: &serverLog{logger: c.Logger}}
	if s.socketDir, err = h.socketDir(); err != nil {
		return nil, err
	}
	if err := clearSockets(s.socketDir); err != nil {
		return nil, err
	}

	cmd := exec.Command(filepath.Join(in.BinDir, "postgres"), c.serverArgs(h.data, s.socketDir)...) //nolint:noctx // Stop ends it, in its own time
	cmd.Dir = "/"
	cmd.Env = childEnv()
	cmd.Stderr = s.output
	cmd.SysProcAttr = processAttr(h.account, syscall.SIGINT)
	cmd.WaitDelay = 5 * time.Second
	if s.child, err = start(cmd); err != nil {
		return nil, fmt.Errorf("embedded postgres: start %s as %s: %w", cmd.Path, h.account.name, err)
	}

	limited, cancel := context.WithTimeout(ctx, c.StartTimeout)
	defer cancel()
	if err := s.waitReady(limited); err != nil {
		stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return nil, errors.Join(err, s.shutdown(stopCtx))
	}
	s.log.InfoContext(ctx, "Postgres is running", "version", in.Version, "pid", s.PID(), "dir", h.base,
		"user", h.account.name, "took", time.Since(began).Round(time.Millisecond))
	return s, nil
}

// waitReady returns once the server takes a connection.
func (s *Server) waitReady(ctx context.Context) error {
	for {
		conn, err := s.connect(ctx)
		if err == nil {
			return conn.Close(ctx)
		}
		// 57P03: it is still starting up. Any other refusal is final.
		if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && pgErr.Code != "57P03" {
			return fmt.Errorf("embedded postgres: the server refuses its first connection: %w", err)
		}
		if parseErr := (*pgconn.ParseConfigError)(nil); errors.As(err, &parseErr) {
			return fmt.Errorf("embedded postgres: a PG* variable in the environment is wrong: %w", err)
		}
		select {
		case <-s.child.done:
			return fmt.Errorf("embedded postgres: the server did not start: %w%s", s.Err(), s.output.tail())
		case <-ctx.Done():
			return fmt.Errorf("embedded postgres: the server did not answer in time: %w: %w%s", ctx.Err(), err, s.output.tail())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// connect makes a connection of this package's own, which no PGOPTIONS or the
// like in the environment changes.
func (s *Server) connect(ctx context.Context) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(s.URL("postgres"))
	if err != nil {
		return nil, err
	}
	config.RuntimeParams = map[string]string{"application_name": "embedded"}
	config.ConnectTimeout = 10 * time.Second
	return pgx.ConnectConfig(ctx, config)
}

// URL is the address of a database of this server, for pgx, psql and all of
// libpq: postgres://postgres@/name?host=/socket/directory&port=5432. It stays
// the same from start to start.
func (s *Server) URL(database string) string {
	query := url.Values{"host": {s.socketDir}, "port": {socketPort}, "sslmode": {"disable"}}
	u := url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + database, RawQuery: query.Encode()}
	return u.String()
}

// EnsureDatabase makes the database where it does not exist.
func (s *Server) EnsureDatabase(ctx context.Context, name string) error {
	if name == "" || len(name) > 63 {
		return fmt.Errorf("embedded postgres: %q is not a database name: use 1 to 63 bytes", name)
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var exists bool
	err = conn.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name).Scan(&exists)
	if err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	if exists {
		return nil
	}
	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	// Someone else may have made it meanwhile: 42P04 tells, or 23505 when both
	// were at it in the same moment.
	if pgErr := (*pgconn.PgError)(nil); errors.As(err, &pgErr) && (pgErr.Code == "42P04" || pgErr.Code == "23505") {
		return nil
	}
	if err != nil {
		return fmt.Errorf("embedded postgres: create the database %s: %w", name, err)
	}
	return nil
}

// Installation says which Postgres runs.
func (s *Server) Installation() Installation { return s.in }

// PID is the server's process id.
func (s *Server) PID() int { return s.child.process.Pid }

// Done is closed once the server has ended, stopped or by itself.
func (s *Server) Done() <-chan struct{} { return s.child.done }

// Err is nil while the server runs and after it was stopped; otherwise it says
// how the server ended by itself.
func (s *Server) Err() error {
	select {
	case <-s.child.done:
	default:
		return nil
	}
	if s.stopping.Load() {
		return nil
	}
	cause := s.child.err
	if cause == nil {
		cause = errors.New("exit status 0")
	}
	return fmt.Errorf("embedded postgres: the server ended by itself: %w", cause)
}

// Stop shuts the server down, waits until none of its processes is left, and
// then lets others use the directory. Open connections are closed and their
// transactions rolled back. Where ctx ends first, the server is stopped without
// a checkpoint, Stop returns an error, and the next start recovers from the log.
// It may be called again.
func (s *Server) Stop(ctx context.Context) error {
	s.stopping.Store(true)
	err := s.shutdown(ctx)
	s.unlock.Do(s.home.close)
	return err
}

func (s *Server) shutdown(ctx context.Context) error {
	_ = s.child.process.Signal(syscall.SIGINT) // it may have ended
	var err error
	select {
	case <-s.child.done:
	case <-ctx.Done():
		err = fmt.Errorf("embedded postgres: the server was stopped at once, since it did not end in time: %w", ctx.Err())
		_ = s.child.process.Signal(syscall.SIGQUIT) // likewise
		select {
		case <-s.child.done:
		case <-time.After(10 * time.Second):
			_ = s.child.process.Kill() // likewise
			<-s.child.done
		}
	}
	// The postmaster takes its children along, unless it was killed itself.
	return errors.Join(err, stopOrphans(context.WithoutCancel(ctx), s.home.data, s.log))
}
