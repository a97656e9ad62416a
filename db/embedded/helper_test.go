package embedded

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// roleVariable makes the test binary play another process instead of testing.
const roleVariable = "MILLRACE_EMBEDDED_ROLE"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		os.Exit(play(role, os.Args[1:]))
	}
	goleak.VerifyTestMain(m)
}

// report is what a role tells on its standard output, as one line of JSON.
type report struct {
	Err  string // what Start returned
	PID  int    // the server's, or the role's own
	URL  string // of the database postgres
	UID  int    // whom the process runs as
	Base string // where the data is
}

// play runs one role:
//
//	hold DIR      start the server, report, and stop it at the end of the input
//	watch PID     have the watchdog watch PID, report, and wait for that end
//	release PID   the same, and release it at the end of the input
func play(role string, args []string) int {
	out := json.NewEncoder(os.Stdout)
	switch role {
	case "hold":
		s, err := Start(context.Background(), Config{Dir: args[0]})
		if err != nil {
			out.Encode(report{Err: err.Error(), UID: os.Geteuid()})
			return 3
		}
		out.Encode(report{PID: s.PID(), URL: s.URL("postgres"), UID: os.Geteuid(), Base: s.home.base})
		io.Copy(io.Discard, os.Stdin)
		if err := s.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 4
		}
	case "watch", "release":
		pid, _ := strconv.Atoi(args[0])
		release := watchByPipe(pid)
		out.Encode(report{PID: os.Getpid()})
		io.Copy(io.Discard, os.Stdin)
		if role == "release" {
			release()
		}
	}
	return 0
}

// actor is the test binary in a role.
type actor struct {
	t     *testing.T
	cmd   *exec.Cmd
	input io.Closer
	report
}

// act starts a role as the user, with env added to its environment, and waits
// for its report.
func act(t *testing.T, user account, env []string, role string, args ...string) *actor {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if user.switched {
		program = copyProgram(t, program)
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), append(env, roleVariable+"="+role)...)
	if user.switched {
		// A Postgres that was downloaded for us serves every user.
		cache, err := CacheDir()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, "MILLRACE_CACHE_DIR="+cache)
	}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user.credential()}
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, theirs, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer output.Close()
	cmd.Stdout = theirs
	err = cmd.Start()
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	a := &actor{t: t, cmd: cmd, input: input}
	t.Cleanup(a.kill)
	line, err := bufio.NewReader(output).ReadBytes('\n')
	if err != nil {
		t.Fatalf("%s %v reported nothing: %v", role, args, err)
	}
	if err := json.Unmarshal(line, &a.report); err != nil {
		t.Fatal(err)
	}
	return a
}

// kill ends the actor with SIGKILL, as a crash would.
func (a *actor) kill() {
	a.t.Helper()
	if a.cmd.ProcessState != nil {
		return
	}
	a.cmd.Process.Kill()
	a.cmd.Wait()
}

// finish ends the actor in order and returns its exit code.
func (a *actor) finish() int {
	a.t.Helper()
	a.input.Close()
	a.cmd.Wait()
	return a.cmd.ProcessState.ExitCode()
}

// copyProgram puts the test binary where every user can run it.
func copyProgram(t *testing.T, program string) string {
	t.Helper()
	copied := filepath.Join(openDir(t), "test")
	syscall.ForkLock.RLock() // as unpackFile does
	defer syscall.ForkLock.RUnlock()
	if err := copyFile(program, copied, false); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(copied, 0o755); err != nil {
		t.Fatal(err)
	}
	return copied
}

// openDir makes a directory with a short path that every user may enter, unlike
// that of t.TempDir, in memory where that can be had: a busy disk takes seconds
// for what initdb flushes. What Start made in it is taken down at the test's end.
func openDir(t *testing.T) string {
	t.Helper()
	parent := "/dev/shm"
	if !exists(parent) {
		parent = "/tmp"
	}
	dir, err := os.MkdirTemp(parent, "mr-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Remove(context.Background(), dir); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// mustStart starts a server that is stopped at the test's end, if not before.
func mustStart(t *testing.T, c Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

// stop stops the server and sees that nothing of it is left.
func stop(t *testing.T, s *Server) {
	t.Helper()
	if err := s.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	mustBeEmpty(t, s.home.data)
}

// mustBeEmpty fails where a Postgres runs in the data directory.
func mustBeEmpty(t *testing.T, data string) {
	t.Helper()
	pids, err := serversIn(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(pids) > 0 {
		t.Errorf("the processes %v are left in %s", pids, data)
	}
}

// waitEmpty returns once no Postgres runs in the data directory; the test's own
// time limit is the only one.
func waitEmpty(t *testing.T, data string) {
	t.Helper()
	for {
		pids, err := serversIn(data)
		if err != nil {
			t.Fatal(err)
		}
		if len(pids) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func dial(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// exec runs statements on a connection of their own.
func execute(t *testing.T, url, sql string) {
	t.Helper()
	conn := dial(t, url)
	defer conn.Close(context.Background())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

// value returns the one text that the query gives.
func value(t *testing.T, url, sql string) string {
	t.Helper()
	conn := dial(t, url)
	defer conn.Close(context.Background())
	var text string
	if err := conn.QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

// fingerprint tells whether anything below dir changed: names, modes, times and
// contents. Locks are not data.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s %s", path, info.Mode(), info.ModTime())
		if info.Mode().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(content))
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
