package embedded

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestServesDatabasesToPgxAndPsql(t *testing.T) {
	t.Parallel()
	s := mustStart(t, Config{Dir: openDir(t)})
	for range 2 {
		if err := s.EnsureDatabase(t.Context(), "shop's"); err != nil {
			t.Fatal(err)
		}
	}
	execute(t, s.URL("shop's"), "CREATE TABLE t (n int); INSERT INTO t VALUES (42)")
	if got := value(t, s.URL("shop's"), "SELECT n::text FROM t"); got != "42" {
		t.Errorf("pgx reads %q", got)
	}
	// Not every installation has a psql, and Debian's on the PATH may be a
	// wrapper that finds none.
	if exec.CommandContext(t.Context(), "psql", "--version").Run() == nil {
		out, err := exec.CommandContext(t.Context(), "psql", "-XAtc", "SELECT n FROM t", s.URL("shop's")).CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "42" {
			t.Errorf("psql reads %q, %v", out, err)
		}
	}
	for _, name := range []string{"", strings.Repeat("x", 64)} {
		if err := s.EnsureDatabase(t.Context(), name); err == nil {
			t.Errorf("made a database %q", name)
		}
	}
}

func TestEnsureDatabaseFromManyAtOnce(t *testing.T) {
	t.Parallel()
	s := mustStart(t, Config{Dir: openDir(t), Throwaway: true})
	results := make(chan error)
	for range 8 {
		go func() { results <- s.EnsureDatabase(t.Context(), "shop") }()
	}
	for range 8 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	durable := mustStart(t, Config{Dir: openDir(t), MaxConnections: 17, Settings: map[string]string{"Work_Mem": "5MB"}})
	throwaway := mustStart(t, Config{Dir: openDir(t), Throwaway: true, Settings: map[string]string{"synchronous_commit": "on"}})
	collation := "C"
	if durable.Installation().Major >= 17 {
		collation = "C.UTF-8"
	}
	tests := []struct {
		rule   string
		server *Server
		query  string
		want   string
	}{
		{"what is committed is on the disk", durable, "SHOW fsync", "on"},
		{"commits wait for it", durable, "SHOW synchronous_commit", "on"},
		{"pages survive a torn write", durable, "SHOW full_page_writes", "on"},
		{"nothing listens on the network", durable, "SHOW listen_addresses", ""},
		{"only the owner uses the socket", durable, "SHOW unix_socket_permissions", "0700"},
		{"connections as configured", durable, "SHOW max_connections", "17"},
		{"settings whatever their case", durable, "SHOW work_mem", "5MB"},
		{"times are in UTC", durable, "SHOW timezone", "UTC"},
		{"text is UTF-8", durable, "SHOW server_encoding", "UTF8"},
		{"the order of text is the same everywhere", durable, `SELECT coalesce(to_jsonb(d)->>'datlocale', datcollate)
			FROM pg_database d WHERE datname = 'template1'`, collation},
		{"throwaway data is not flushed", throwaway, "SHOW fsync", "off"},
		{"a setting overrides the default", throwaway, "SHOW synchronous_commit", "on"},
		{"connections by default", throwaway, "SHOW max_connections", "100"},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			if got := value(t, test.server.URL("postgres"), test.query); got != test.want {
				t.Errorf("%s is %q, want %q", test.query, got, test.want)
			}
		})
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	tests := []struct {
		rule   string
		config Config
		want   string
	}{
		{"no directory", Config{}, "Config.Dir is empty"},
		{"where it listens", Config{Dir: dir, Settings: map[string]string{"listen_addresses": "*"}}, "not free to choose"},
		{"in capitals", Config{Dir: dir, Settings: map[string]string{"PORT": "1"}}, "not free to choose"},
		{"connections as a setting", Config{Dir: dir, Settings: map[string]string{"max_connections": "5"}}, "use Config.MaxConnections"},
		{"something else as a setting", Config{Dir: dir, Settings: map[string]string{"fsync=off -c x": "1"}}, "not the name"},
		{"negative connections", Config{Dir: dir, MaxConnections: -1}, "MaxConnections is -1"},
		{"a value that Postgres refuses", Config{Dir: dir, Settings: map[string]string{"work_mem": "a lot"}}, "invalid value for parameter"},
		{"a setting that Postgres does not know", Config{Dir: dir, Settings: map[string]string{"work_memory": "1MB"}}, "unrecognized configuration parameter"},
		{"a file as directory", Config{Dir: os.Args[0]}, "not a directory"},
		{"a seed that is none", Config{Dir: dir + "/new", Seed: "/nonexistent"}, "copy the seed /nonexistent"},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			s, err := Start(t.Context(), test.config)
			if err == nil {
				stop(t, s)
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
	// The directory serves all the same.
	mustStart(t, Config{Dir: dir})
}

func TestADirectoryOfSomethingElseIsRefused(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "data", "photos"), 0o755); err != nil {
		t.Fatal(err)
	}
	if s, err := Start(t.Context(), Config{Dir: dir}); err == nil || !strings.Contains(err.Error(), "not a Postgres cluster") {
		if err == nil {
			stop(t, s)
		}
		t.Errorf("got %v", err)
	}
	if !exists(filepath.Join(dir, "data", "photos")) {
		t.Error("the photos are gone")
	}
}

func TestSecondStartFindsTheDataAtTheSameAddress(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	first := mustStart(t, Config{Dir: dir})
	execute(t, first.URL("postgres"), "CREATE TABLE kept AS SELECT 'yes' AS answer")
	stop(t, first)
	if err := first.Stop(t.Context()); err != nil {
		t.Errorf("a second Stop: %v", err)
	}
	select {
	case <-first.Done():
	default:
		t.Error("Done is open after Stop")
	}
	if err := first.Err(); err != nil {
		t.Errorf("Err after Stop: %v", err)
	}

	second := mustStart(t, Config{Dir: dir})
	if got := value(t, second.URL("postgres"), "SELECT answer FROM kept"); got != "yes" {
		t.Errorf("kept %q", got)
	}
	if first.URL("x") != second.URL("x") {
		t.Errorf("the address was %s, now it is %s", first.URL("x"), second.URL("x"))
	}
}

func TestALongPathHasItsSocketElsewhere(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), strings.Repeat("long", 20), "with, comma")
	t.Cleanup(func() {
		if err := Remove(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
	first := mustStart(t, Config{Dir: dir})
	if len(first.socketDir) > maxSocketDir || strings.Contains(first.socketDir, ",") {
		t.Fatalf("the socket is in %s", first.socketDir)
	}
	execute(t, first.URL("postgres"), "SELECT 1")
	stop(t, first)

	second := mustStart(t, Config{Dir: dir})
	if second.socketDir != first.socketDir {
		t.Errorf("the socket was in %s, now it is in %s", first.socketDir, second.socketDir)
	}
	stop(t, second)

	// Whoever makes the directory first after a reboot must not get our socket.
	if err := os.Chmod(first.socketDir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(first.socketDir) })
	third := mustStart(t, Config{Dir: dir})
	if third.socketDir == first.socketDir {
		t.Error("the socket is where others may enter")
	}
}

func TestOnlyTheServersUserReachesTheSocket(t *testing.T) {
	t.Parallel()
	s := mustStart(t, Config{Dir: openDir(t), Throwaway: true})
	for _, path := range []string{s.socketDir, s.home.data} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 || info.Sys().(*syscall.Stat_t).Uid != s.home.account.uid {
			t.Errorf("%s is %s and belongs to %d", path, info.Mode(), info.Sys().(*syscall.Stat_t).Uid)
		}
	}
}

func TestStopWithoutTimeStillLeavesNothingAndLosesNothing(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	s := mustStart(t, Config{Dir: dir})
	execute(t, s.URL("postgres"), "CREATE TABLE kept AS SELECT 'yes' AS answer")
	busy := dial(t, s.URL("postgres"))
	if _, err := busy.Exec(t.Context(), "BEGIN; LOCK TABLE kept"); err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	// The server may be faster than the signal that it is late.
	if err := s.Stop(ended); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Stop: %v", err)
	}
	mustBeEmpty(t, s.home.data)

	s = mustStart(t, Config{Dir: dir})
	if got := value(t, s.URL("postgres"), "SELECT answer FROM kept"); got != "yes" {
		t.Errorf("kept %q", got)
	}
}

func TestAStartThatIsGivenUpLeavesNothing(t *testing.T) {
	t.Parallel()
	// Whatever the start has got to when its time is over.
	for _, part := range []string{"no time", "a part of the time", "most of the time"} {
		t.Run(part, func(t *testing.T) {
			t.Parallel()
			dir := openDir(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			switch part {
			case "no time":
				cancel()
			case "a part of the time": // while initdb works
				go cancelOnce(ctx, cancel, func() bool {
					begun, _ := filepath.Glob(filepath.Join(dir, sidePrefix+"*", "base", "*"))
					return len(begun) > 0
				})
			case "most of the time": // while the server comes up
				go cancelOnce(ctx, cancel, func() bool { return pidFile(filepath.Join(dir, "data")) != 0 })
			}
			s, err := Start(ctx, Config{Dir: dir})
			if err == nil {
				stop(t, s) // it was faster
			} else if !errors.Is(err, context.Canceled) {
				t.Errorf("Start: %v", err)
			}
			mustBeEmpty(t, filepath.Join(dir, "data"))
			mustStart(t, Config{Dir: dir})
		})
	}
}

func cancelOnce(ctx context.Context, cancel context.CancelFunc, reached func() bool) {
	for ctx.Err() == nil && !reached() {
		time.Sleep(time.Millisecond)
	}
	cancel()
}

func TestAServerThatDiesIsNoticed(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	s := mustStart(t, Config{Dir: dir})
	execute(t, s.URL("postgres"), "CREATE TABLE kept AS SELECT 'yes' AS answer")
	if err := s.Err(); err != nil {
		t.Errorf("Err while it runs: %v", err)
	}
	if err := syscall.Kill(s.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("Err: %v", err)
	}
	if _, err := pgx.Connect(t.Context(), s.URL("postgres")); err == nil {
		t.Error("it still answers")
	}
	stop(t, s)
	s = mustStart(t, Config{Dir: dir})
	if got := value(t, s.URL("postgres"), "SELECT answer FROM kept"); got != "yes" {
		t.Errorf("kept %q", got)
	}
}
