package dbtest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/db/embedded"
)

// These tests run this test binary as other test processes: TestActor is all
// that such a process does.
const (
	actorVariable = "MILLRACE_DBTEST_ACTOR" // how the actor ends; see TestActor
	countVariable = "MILLRACE_DBTEST_COUNT" // a file that gets a line for each migration
)

// TestActor uses a database, prints its URL, and ends as it is told.
func TestActor(t *testing.T) {
	end := os.Getenv(actorVariable)
	if end == "" {
		return // it is this process that gives the orders
	}
	at := New(t, notes)
	if got := value(t, dial(t, at), "SELECT text FROM notes"); got != "notes" {
		t.Errorf("it holds %q", got)
	}
	fmt.Println("url", at)
	switch end {
	case "well":
	case "failing":
		t.Error("as told")
	case "leaking":
		go func() { select {} }()
	case "waiting":
		io.Copy(io.Discard, os.Stdin)
	}
}

// actor starts a test process with env added to its environment.
func actor(t *testing.T, end string, env ...string) (cmd *exec.Cmd, output *bytes.Buffer) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	output = &bytes.Buffer{}
	cmd = exec.Command(program, "-test.run=^TestActor$", "-test.v")
	cmd.Env = append(os.Environ(), append(env, actorVariable+"="+end)...)
	cmd.Stdout, cmd.Stderr = output, output
	return cmd, output
}

// urlIn returns the URL that an actor printed.
func urlIn(t *testing.T, output string) string {
	t.Helper()
	for line := range strings.Lines(output) {
		if at, ok := strings.CutPrefix(strings.TrimSpace(line), "url "); ok {
			return at
		}
	}
	t.Fatalf("the actor printed no URL:\n%s", output)
	return ""
}

// privateDirOf returns the directory of the private server at the URL.
func privateDirOf(t *testing.T, at string) string {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(u.Query().Get("host"))
	if !strings.HasPrefix(filepath.Base(dir), privatePrefix) {
		t.Fatalf("%s is no private server's", at)
	}
	return dir
}

func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "mr-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func lines(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), "\n")
}

func TestProcessesAtOnceMigrateOnce(t *testing.T) {
	t.Parallel()
	elsewhere := StartServer(t, embedded.Config{Throwaway: true})
	t.Run("", func(t *testing.T) {
		t.Run("with private servers, from one cache", func(t *testing.T) {
			t.Parallel()
			for _, at := range migrateOnce(t, "TEST_DATABASE_URL=") {
				if dir := privateDirOf(t, at); exists(dir) {
					t.Errorf("%s is still there", dir)
				}
			}
		})
		t.Run("on the server of TEST_DATABASE_URL", func(t *testing.T) {
			t.Parallel()
			migrateOnce(t, "TEST_DATABASE_URL="+elsewhere.URL("postgres"))
		})
	})
	admin := dial(t, elsewhere.URL("postgres"))
	got := value(t, admin, "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datname !~ '^(postgres|template[01])$'")
	if got != notes.database() {
		t.Errorf("on the server are left %s, want only %s", got, notes.database())
	}
}

// migrateOnce runs several actors at once, and again, and returns the URLs that
// they used.
func migrateOnce(t *testing.T, server string) []string {
	t.Helper()
	count := filepath.Join(openDir(t), "count")
	env := []string{server, "MILLRACE_CACHE_DIR=" + openDir(t), countVariable + "=" + count}
	var urls []string
	for _, round := range []string{"first", "second"} {
		var all sync.WaitGroup
		outputs := make([]*bytes.Buffer, 3)
		for i := range outputs {
			cmd, output := actor(t, "well", env...)
			outputs[i] = output
			all.Go(func() {
				if err := cmd.Run(); err != nil {
					t.Errorf("%v:\n%s", err, output)
				}
			})
		}
		all.Wait()
		if got := lines(t, count); got != 1 {
			t.Fatalf("after the %s round, it was migrated %d times", round, got)
		}
		for _, output := range outputs {
			urls = append(urls, urlIn(t, output.String()))
		}
	}
	return urls
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestHowAProcessEnds(t *testing.T) {
	t.Parallel()
	tests := []struct {
		end  string
		code int
		want string
	}{
		{"well", 0, "PASS"},
		{"failing", 1, "as told"},
		{"leaking", 1, "found unexpected goroutines"},
	}
	for _, test := range tests {
		t.Run(test.end, func(t *testing.T) {
			t.Parallel()
			cmd, output := actor(t, test.end, "TEST_DATABASE_URL=")
			cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != test.code || !strings.Contains(output.String(), test.want) {
				t.Errorf("it ended with %d, want %d and %q:\n%s", code, test.code, test.want, output)
			}
			if dir := privateDirOf(t, urlIn(t, output.String())); exists(dir) {
				t.Errorf("%s is still there", dir)
			}
		})
	}
}

func TestAWrongServerAddressIsExplained(t *testing.T) {
	t.Parallel()
	cmd, output := actor(t, "well", "TEST_DATABASE_URL=localhost:5432 password=hush")
	if err := cmd.Run(); err == nil || !strings.Contains(output.String(), "must have the form") || strings.Contains(output.String(), "hush") {
		t.Errorf("%v:\n%s", err, output)
	}
}

func TestWhatAKilledProcessLeavesIsRemovedByTheNext(t *testing.T) {
	t.Parallel()
	cmd, _ := actor(t, "waiting", "TEST_DATABASE_URL=")
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer input.Close()
	cmd.Stdout = nil
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var at string
	for scanner := bufio.NewScanner(output); at == "" && scanner.Scan(); {
		at, _ = strings.CutPrefix(scanner.Text(), "url ")
		if at == scanner.Text() {
			at = ""
		}
	}
	conn, err := pgx.Connect(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	dir := privateDirOf(t, at)
	old := time.Now().Add(-time.Hour)
	age := func() {
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}

	age()
	removeAbandoned(t.Context(), filepath.Dir(dir))
	if err := conn.Ping(t.Context()); err != nil {
		t.Fatalf("a directory in use was removed: %v", err)
	}

	cmd.Process.Signal(syscall.SIGKILL)
	cmd.Wait()
	removeAbandoned(t.Context(), filepath.Dir(dir))
	if exists(dir) {
		t.Errorf("%s is still there", dir)
	}
}

func TestTheCacheKeepsWhatIsUsed(t *testing.T) {
	t.Parallel()
	cache := openDir(t)
	for name, age := range map[string]time.Duration{"template_old_1": 2 * unused, "template_new_1": unused / 2} {
		dir := filepath.Join(cache, name)
		if err := os.MkdirAll(filepath.Join(dir, "data"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir+".lock", nil, 0o644); err != nil {
			t.Fatal(err)
		}
		then := time.Now().Add(-age)
		if err := os.Chtimes(dir, then, then); err != nil {
			t.Fatal(err)
		}
	}
	removeUnused(t.Context(), cache)
	left, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 2 || left[0].Name() != "template_new_1" || left[1].Name() != "template_new_1.lock" {
		t.Errorf("left are %v", left)
	}
}
