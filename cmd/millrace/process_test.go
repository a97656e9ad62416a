package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"millrace/db/dbtest"
)

// asProgram makes the test binary the program itself, so that tests can run it in processes of its own and kill them.
const asProgram = "MILLRACE_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err := run(ctx, os.Stdout, os.Stderr, os.Args[1:]...)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, "millrace:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	dbtest.Main(m, dbtest.NoLeaks())
}

// process is a running millrace.
type process struct {
	t       testing.TB
	command *exec.Cmd
	output  *lockedBuffer
	ended   chan struct{}
	err     error
}

// lockedBuffer holds a process' output while it is still being written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs millrace with args. It is killed when the test ends, if it still runs.
func start(t testing.TB, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	p := &process{t: t, output: &lockedBuffer{}, ended: make(chan struct{})}
	p.command = exec.Command(self, args...)
	p.command.Env = append(environment(), asProgram+"=1")
	p.command.Stdout, p.command.Stderr = p.output, p.output
	p.command.WaitDelay = 10 * time.Second
	require.NoError(t, p.command.Start())
	go func() {
		p.err = p.command.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("millrace %s:\n%s", strings.Join(args, " "), p.output)
		}
	})
	return p
}

// environment is this process' without what configures millrace or Postgres.
func environment() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "MILLRACE_") && !strings.HasPrefix(e, "GATE_") && !strings.HasPrefix(e, "DATABASE_URL=") && !strings.HasPrefix(e, "PG") {
			env = append(env, e)
		}
	}
	return env
}

// kill ends the process as kill -9 does and waits for it.
func (p *process) kill() {
	_ = p.command.Process.Kill() // it may have ended
	<-p.ended
}

// terminate asks the process to end and returns how it did.
func (p *process) terminate() error {
	p.t.Helper()
	require.NoError(p.t, p.command.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.ended:
		return p.err
	case <-time.After(time.Minute):
		return errors.New("the process did not end")
	}
}

// until waits for a condition while the process runs.
func (p *process) until(what string, ok func() bool) {
	p.t.Helper()
	deadline := time.After(2 * time.Minute)
	for !ok() {
		select {
		case <-p.ended:
			p.t.Fatalf("the process ended before %s: %v\n%s", what, p.err, p.output)
		case <-deadline:
			p.t.Fatalf("not in time: %s\n%s", what, p.output)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// dev is a millrace dev in a process of its own.
type dev struct {
	*process
	dir string
	devFile
}

// startDev runs millrace dev on a data directory and waits until it says what to type next.
func startDev(t testing.TB, dir string, flags ...string) *dev {
	t.Helper()
	args := append([]string{"dev", "--addr=127.0.0.1:0", "--ops-addr=127.0.0.1:0", "--transit=100ms", "--delivery=300ms", "--check-every=200ms", "--data-dir=" + dir}, flags...)
	d := &dev{process: start(t, args...), dir: dir}
	d.until("it is up", func() bool { return strings.Contains(d.output.String(), "Ctrl-C stops all of it.") })
	file, err := readDevFile(dir)
	require.NoError(t, err)
	d.devFile = *file
	return d
}

// dataDir is a data directory that a server of another user can reach.
func dataDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "millrace-dev-*") //nolint:usetesting // the test's own folder is closed to the server's user, and its name is long
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return filepath.Join(dir, "data")
}

// orderBody asks for one of each SKU.
func orderBody(method, country string, skus ...string) string {
	lines := make([]string, len(skus))
	for i, sku := range skus {
		lines[i] = fmt.Sprintf(`{"sku":%q,"quantity":1}`, sku)
	}
	return fmt.Sprintf(`{"lines":[%s],"payment_method":%q,"ship_to":{"name":"Ada","line1":"1 Mill Lane","city":"Bath","country":%q}}`,
		strings.Join(lines, ","), method, country)
}

// client talks to a gate with a key.
type client struct {
	http *http.Client
	url  string
	key  string
}

func (d *dev) customer() *client { return &client{http.DefaultClient, d.URL, d.Customer.APIKey} }

// do makes a call and returns the status and body of its answer.
func (c *client) do(ctx context.Context, method, path, body string, header ...string) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, c.url+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+c.key)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 4<<20))
	return resp.StatusCode, answer, err
}

// place posts an order and returns its id.
func (c *client) place(t testing.TB, key, body string) string {
	t.Helper()
	status, answer, err := c.do(t.Context(), http.MethodPost, "/v1/orders", body, "Idempotency-Key", key)
	require.NoError(t, err)
	require.Equal(t, http.StatusCreated, status, string(answer))
	var o struct{ ID string }
	require.NoError(t, json.Unmarshal(answer, &o))
	require.NotEmpty(t, o.ID)
	return o.ID
}

// watch runs millrace watch until the order has ended or stands still, and returns what it printed.
func (d *dev) watch(t testing.TB, order string) []string {
	t.Helper()
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), &out, &out, "watch", "--data-dir="+d.dir, "--limit=1m", order), out.String())
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}
