package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestASecondProcessIsToldWhoHoldsTheDirectory(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	s := mustStart(t, Config{Dir: dir})

	second := act(t, account{}, nil, "hold", dir)
	want := fmt.Sprintf("%s is in use by process %d (%s)", dir, os.Getpid(), filepath.Base(os.Args[0]))
	if !strings.Contains(second.Err, want) {
		t.Errorf("it was told %q, want %q", second.Err, want)
	}
	if code := second.finish(); code != 3 {
		t.Errorf("it ended with %d", code)
	}

	_, err := Start(t.Context(), Config{Dir: dir})
	locked := (*LockedError)(nil)
	if !errors.As(err, &locked) || locked.PID != os.Getpid() || locked.Dir != dir {
		t.Errorf("the same process got %v", err)
	}
	if err := Remove(t.Context(), dir); !errors.As(err, &locked) {
		t.Errorf("Remove: %v", err)
	}
	if got := value(t, s.URL("postgres"), "SELECT 'undisturbed'"); got != "undisturbed" {
		t.Error(got)
	}

	stop(t, s)
	third := act(t, account{}, nil, "hold", dir)
	if third.Err != "" {
		t.Errorf("after Stop: %s", third.Err)
	}
	_, err = Start(t.Context(), Config{Dir: dir})
	if !errors.As(err, &locked) || locked.PID != third.cmd.Process.Pid {
		t.Errorf("we were told %v, want process %d", err, third.cmd.Process.Pid)
	}
	third.finish()
}

func TestDirectoryIsTakenOnceWhenManyStartAtOnce(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	const n = 4
	servers, failures := make(chan *Server, n), make(chan error, n)
	for range n {
		go func() {
			s, err := Start(t.Context(), Config{Dir: dir, Throwaway: true})
			if err != nil {
				failures <- err
				return
			}
			servers <- s
		}()
	}
	for range n - 1 {
		var locked *LockedError
		if err := <-failures; !errors.As(err, &locked) {
			t.Errorf("got %v", err)
		}
	}
	stop(t, <-servers)
}

// otherUsers are those that the tests can run as, besides the current one.
func otherUsers(t *testing.T) []account {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	var accounts []account
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		a, err := switchedAccount(u)
		if err != nil {
			t.Fatal(err)
		}
		accounts = append(accounts, a)
	}
	return accounts
}

func TestRunsForRootAndForOthers(t *testing.T) {
	t.Parallel()
	for _, a := range append(otherUsers(t), account{name: "the current user", uid: uint32(os.Geteuid())}) {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(openDir(t), "pg")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := a.own(dir); err != nil {
				t.Fatal(err)
			}
			for _, start := range []string{"first", "second"} {
				process := act(t, a, nil, "hold", dir)
				if process.Err != "" {
					t.Fatalf("%s start: %s", start, process.Err)
				}
				if process.UID != int(a.uid) {
					t.Fatalf("the test ran as %d", process.UID)
				}
				owner, _, err := ownerOf(filepath.Join(dir, "data"))
				if err != nil {
					t.Fatal(err)
				}
				if owner == 0 || (a.uid != 0 && owner != a.uid) {
					t.Errorf("the data belongs to %d", owner)
				}
				if code := process.finish(); code != 0 {
					t.Errorf("%s start: it ended with %d", start, code)
				}
			}
			// Root serves anybody's data, as its owner.
			if a.switched {
				s := mustStart(t, Config{Dir: dir})
				if s.home.account.uid != a.uid {
					t.Errorf("as root, it runs as %s", s.home.account.name)
				}
			}
		})
	}
}

func TestAnotherUsersDataIsRefused(t *testing.T) {
	t.Parallel()
	users := otherUsers(t)
	if len(users) < 2 {
		// Only root can make what belongs to another user.
		owner, exists, err := ownerOf("/etc")
		if err != nil || !exists || owner != 0 {
			t.Fatal(owner, exists, err)
		}
		if os.Geteuid() != 0 {
			if _, err := serverAccount("/etc"); err == nil || !strings.Contains(err.Error(), "belongs to the user root") {
				t.Errorf("got %v", err)
			}
		}
		return
	}
	dir := openDir(t)
	s := mustStart(t, Config{Dir: dir})
	stop(t, s)
	for _, path := range []string{dir, filepath.Join(dir, "lock")} {
		if err := users[1].own(path); err != nil {
			t.Fatal(err)
		}
	}
	process := act(t, users[1], nil, "hold", dir)
	if !strings.Contains(process.Err, "belongs to the user "+s.home.account.name) {
		t.Errorf("it was told %q", process.Err)
	}
}

func TestADirectoryThatTheServersUserCannotReach(t *testing.T) {
	t.Parallel()
	// t.TempDir is below a directory of mode 0700, as root's home is.
	dir := filepath.Join(t.TempDir(), "pg")
	first := mustStart(t, Config{Dir: dir})
	base := first.home.base
	t.Cleanup(func() {
		if err := Remove(context.Background(), dir); err != nil {
			t.Error(err)
		}
		for _, gone := range []string{dir, base} {
			if exists(gone) {
				t.Errorf("%s is still there", gone)
			}
		}
	})
	if moved := base != dir; moved != (os.Geteuid() == 0) {
		t.Fatalf("as user %d, the data is in %s", os.Geteuid(), base)
	}
	execute(t, first.URL("postgres"), "CREATE TABLE kept AS SELECT 'yes' AS answer")
	stop(t, first)

	second := mustStart(t, Config{Dir: dir})
	if got := value(t, second.URL("postgres"), "SELECT answer FROM kept"); got != "yes" {
		t.Errorf("kept %q", got)
	}
	throwaway := filepath.Join(t.TempDir(), "pg")
	third := mustStart(t, Config{Dir: throwaway, Throwaway: true})
	if temporary := strings.HasPrefix(third.home.base, os.TempDir()); !temporary {
		t.Errorf("throwaway data is in %s", third.home.base)
	}
	stop(t, third)
	if err := Remove(t.Context(), throwaway); err != nil || exists(third.home.base) {
		t.Errorf("%s is still there: %v", third.home.base, err)
	}
	if base == dir {
		return
	}
	// A copy of the directory points to the same data.
	twin := filepath.Join(t.TempDir(), "twin")
	if err := os.MkdirAll(twin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := writePath(filepath.Join(twin, "location"), base); err != nil {
		t.Fatal(err)
	}
	var locked *LockedError
	if _, err := Start(t.Context(), Config{Dir: twin}); !errors.As(err, &locked) || locked.PID != os.Getpid() {
		t.Errorf("the copy: %v", err)
	}
	// Data that is gone is not replaced by none.
	if err := writePath(filepath.Join(twin, "location"), base+"-gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), Config{Dir: twin}); err == nil || !strings.Contains(err.Error(), base+"-gone") {
		t.Errorf("missing data: %v", err)
	}
}

func TestRemoveLeavesWhatIsNotItsOwn(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	stop(t, mustStart(t, Config{Dir: dir, Throwaway: true}))
	notes := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(notes, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and again, with nothing left to remove
		if err := Remove(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || !exists(notes) {
		t.Errorf("left are %v", entries)
	}
	if err := Remove(t.Context(), filepath.Join(dir, "nothing")); err != nil {
		t.Errorf("a directory that does not exist: %v", err)
	}
}

func TestALockIsGivenUpThoughAForkedChildStillHasTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	l, err := tryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	child, err := syscall.Dup(int(l.file.Fd())) // what a child has between fork and exec
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(child)
	l.release()
	again, err := tryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	again.release()
}
