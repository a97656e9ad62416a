package embedded

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
)

// lockedBuffer is written by a server's log and read by a test.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func TestServerLog(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := &serverLog{logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
		Level: slog.LevelDebug,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))}
	for _, part := range []string{"LOG:  rea", "dy\nFATAL:  no\n\nPANIC:", "  oh\nplain\n"} {
		if n, err := l.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	want := `level=DEBUG msg="postgres: ready"
level=WARN msg="postgres: no"
level=ERROR msg="postgres: oh"
level=DEBUG msg="postgres: plain"
`
	if got := out.String(); got != want {
		t.Errorf("logged\n%swant\n%s", got, want)
	}
	for range 10 * maxLogLines {
		l.Write(bytes.Repeat([]byte("x"), 10*maxLogLine))
		l.Write([]byte("\n"))
	}
	if len(l.last) != maxLogLines || len(l.last[0]) != maxLogLine {
		t.Errorf("it keeps %d lines of %d bytes", len(l.last), len(l.last[0]))
	}
	if tail := l.tail(); len(tail) > 5000 || !strings.HasPrefix(tail, "\n\t… ") {
		t.Errorf("the tail is %.20q with %d bytes", tail, len(tail))
	}
}

func TestAServersLogHasNoStatements(t *testing.T) {
	t.Parallel()
	var out lockedBuffer
	s := mustStart(t, Config{
		Dir: openDir(t), Throwaway: true,
		Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	conn := dial(t, s.URL("postgres"))
	for _, sql := range []string{"SELECT 'ada@example.com'::int", "CREATE TABLE t (email text UNIQUE); INSERT INTO t VALUES ('ada@example.com'), ('ada@example.com')"} {
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Fatal("the statement did not fail")
		}
	}
	stop(t, s)
	got := out.String()
	if strings.Contains(got, "ada@") {
		t.Errorf("the log tells of a customer:\n%s", got)
	}
	for _, want := range []string{"Postgres is running", "database system is ready"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log lacks %q:\n%s", want, got)
		}
	}
}
