package embedded

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestServerIsGoneWhenItsParentIsKilled(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	parent := act(t, account{}, nil, "hold", dir)
	if parent.Err != "" {
		t.Fatal(parent.Err)
	}
	execute(t, parent.URL, "CREATE TABLE kept AS SELECT 'yes' AS answer")
	parent.kill()
	waitEmpty(t, filepath.Join(dir, "data"))

	s := mustStart(t, Config{Dir: dir})
	if got := value(t, s.URL("postgres"), "SELECT answer FROM kept"); got != "yes" {
		t.Errorf("kept %q", got)
	}
}

func TestAStartRightAfterTheParentWasKilledNeedsNoWaiting(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	for range 3 {
		parent := act(t, account{}, nil, "hold", dir)
		if parent.Err != "" {
			t.Fatal(parent.Err)
		}
		parent.kill() // its server is still shutting down
	}
	mustStart(t, Config{Dir: dir})
}

func TestRecoversAfterBothWereKilled(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	parent := act(t, account{}, nil, "hold", dir)
	if parent.Err != "" {
		t.Fatal(parent.Err)
	}
	execute(t, parent.URL, "CREATE TABLE kept AS SELECT 'yes' AS answer")
	// The server first, so that it has no chance to notice the parent's end.
	if err := syscall.Kill(parent.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	parent.kill()

	s := mustStart(t, Config{Dir: dir})
	if got := value(t, s.URL("postgres"), "SELECT answer FROM kept"); got != "yes" {
		t.Errorf("kept %q", got)
	}
}

// leave makes a cluster in dir and leaves a Postgres running in it that nobody
// supervises.
func leave(t *testing.T, dir string) (h *home, orphan *exec.Cmd, url string) {
	t.Helper()
	s := mustStart(t, Config{Dir: dir})
	execute(t, s.URL("postgres"), "CREATE TABLE kept AS SELECT 'yes' AS answer")
	stop(t, s)
	c, err := Config{Dir: dir}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	orphan = exec.Command(filepath.Join(s.in.BinDir, "postgres"), c.serverArgs(s.home.data, s.socketDir)...)
	orphan.Env = childEnv()
	orphan.Dir = "/"
	orphan.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Credential: s.home.account.credential()}
	c2, err := start(orphan)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c2.process.Kill()
		<-c2.done
	})
	left := &Server{home: s.home, socketDir: s.socketDir, child: c2, output: &serverLog{logger: discard}, log: discard}
	if err := left.waitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s.home, orphan, s.URL("postgres")
}

func TestAnOrphanIsStoppedAndReplaced(t *testing.T) {
	t.Parallel()
	tests := []struct {
		rule string
		do   func(t *testing.T, h *home, orphan *os.Process)
	}{
		{"when its pid file tells", func(*testing.T, *home, *os.Process) {}},
		{"when its pid file is gone", func(t *testing.T, h *home, _ *os.Process) {
			if err := removePidFile(h.data); err != nil {
				t.Fatal(err)
			}
		}},
		{"when its pid file names another", func(t *testing.T, h *home, _ *os.Process) {
			if err := os.WriteFile(filepath.Join(h.data, "postmaster.pid"), []byte("1\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}},
		{"when only a child is left of it, which does not react", func(t *testing.T, h *home, orphan *os.Process) {
			pids, err := serversIn(h.data)
			if err != nil {
				t.Fatal(err)
			}
			for _, pid := range pids {
				if pid != orphan.Pid {
					syscall.Kill(pid, syscall.SIGSTOP)
				}
			}
			orphan.Kill()
		}},
	}
	for _, test := range tests {
		t.Run(test.rule, func(t *testing.T) {
			t.Parallel()
			dir := openDir(t)
			h, orphan, url := leave(t, dir)
			busy := dial(t, url)
			test.do(t, h, orphan.Process)

			s := mustStart(t, Config{Dir: dir})
			if s.PID() == orphan.Process.Pid {
				t.Error("the orphan still runs")
			}
			if busy.Ping(t.Context()) == nil {
				t.Error("the orphan still answers")
			}
			if got := value(t, s.URL("postgres"), "SELECT answer FROM kept"); got != "yes" {
				t.Errorf("kept %q", got)
			}
			pids, err := serversIn(h.data)
			if err != nil {
				t.Fatal(err)
			}
			for _, pid := range pids {
				if pid == orphan.Process.Pid {
					t.Error("the orphan is still there")
				}
			}
		})
	}
}

func TestAStrangerWithTheStalePidIsLeftAlone(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	s := mustStart(t, Config{Dir: dir})
	stop(t, s)
	// As the server's own user, whose processes Postgres takes for postmasters,
	// and inside the data directory, as a person who looks around would be.
	stranger := exec.Command("/bin/sh", "-c", "read -r line")
	stranger.Dir = s.home.data
	stranger.SysProcAttr = &syscall.SysProcAttr{Credential: s.home.account.credential()}
	input, err := stranger.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	pid := strconv.Itoa(stranger.Process.Pid)
	files := map[string]string{
		filepath.Join(s.home.data, "postmaster.pid"):     pid + "\n" + s.home.data + "\n",
		filepath.Join(s.socketDir, ".s.PGSQL.5432.lock"): pid + "\n",
	}
	for path, text := range files {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := s.home.account.own(path); err != nil {
			t.Fatal(err)
		}
	}
	mustStart(t, Config{Dir: dir})
	input.Close()
	stranger.Wait()
	if code := stranger.ProcessState.ExitCode(); code != 1 { // read's, at the end of its input
		t.Errorf("the stranger ended with %s", stranger.ProcessState)
	}
}

func TestWatchdogByPipe(t *testing.T) {
	t.Parallel()
	// ward is a process to be watched; it ends with 7 on SIGINT and with 0 when
	// its input ends.
	ward := func(t *testing.T) (*exec.Cmd, func()) {
		cmd := exec.Command("/bin/sh", "-c", `trap 'exit 7' INT; echo ready; while read -r line; do :; done; exit 0`)
		input, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		output, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := output.Read(make([]byte, 16)); err != nil {
			t.Fatal(err)
		}
		return cmd, func() { input.Close() }
	}
	t.Run("stops the server when the parent is killed", func(t *testing.T) {
		cmd, _ := ward(t)
		parent := act(t, account{}, nil, "watch", strconv.Itoa(cmd.Process.Pid))
		parent.kill()
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 7 {
			t.Errorf("the server ended with %s", cmd.ProcessState)
		}
	})
	t.Run("touches nothing once it is released", func(t *testing.T) {
		cmd, end := ward(t)
		parent := act(t, account{}, nil, "release", strconv.Itoa(cmd.Process.Pid))
		if code := parent.finish(); code != 0 {
			t.Errorf("the parent ended with %d", code)
		}
		end()
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("the server ended with %s", cmd.ProcessState)
		}
	})
}

func TestPostgresVariablesChangeNothing(t *testing.T) {
	t.Parallel()
	hostile := []string{"PGDATA=/nonexistent", "PGPORT=1", "PGHOST=nowhere.invalid", "PGSSLMODE=verify-full", "PGOPTIONS=-c fsync=off", "DATABASE_SECRET=hush"}
	parent := act(t, account{}, hostile, "hold", openDir(t))
	if parent.Err != "" {
		t.Fatal(parent.Err)
	}
	if runtime.GOOS == "linux" {
		environ, err := os.ReadFile("/proc/" + strconv.Itoa(parent.PID) + "/environ")
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"PGPORT=", "PGHOST=", "PGOPTIONS=", "hush"} {
			if strings.Contains(string(environ), word) {
				t.Errorf("Postgres got %s from our environment", word)
			}
		}
	}
	if code := parent.finish(); code != 0 {
		t.Errorf("the process ended with %d", code)
	}
}

func TestRemoveTakesAnOrphanAlong(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), "pg")
	h, _, _ := leave(t, dir)
	if err := Remove(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	mustBeEmpty(t, h.data)
	if exists(dir) {
		t.Errorf("%s is still there", dir)
	}
}
