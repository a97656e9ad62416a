package embedded

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"sync"
)

const (
	maxLogLine  = 8 << 10
	maxLogLines = 20
)

// serverLog takes a server's standard error: it passes each line on to a
// logger, and keeps the last ones for the error of a server that fails.
type serverLog struct {
	logger *slog.Logger

	mu      sync.Mutex
	partial []byte
	last    []string
}

func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		room := maxLogLine - len(l.partial)
		l.partial = append(l.partial, line[:min(room, len(line))]...)
		if whole {
			l.line(string(l.partial))
			l.partial = l.partial[:0]
		}
		rest = after
	}
	return len(p), nil
}

func (l *serverLog) line(line string) {
	if line == "" {
		return
	}
	if len(l.last) == maxLogLines {
		l.last = append(l.last[:0], l.last[1:]...)
	}
	l.last = append(l.last, line)

	level := slog.LevelDebug
	severity, message, found := strings.Cut(line, ":  ")
	if !found {
		message = line
	}
	switch severity {
	case "WARNING", "ERROR", "FATAL": // FATAL ends a session, not the server
		level = slog.LevelWarn
	case "PANIC":
		level = slog.LevelError
	}
	l.logger.Log(context.Background(), level, "postgres: "+message) //nolint:sloglint // the server's own words
}

// tail returns the last lines, indented below an error's text.
func (l *serverLog) tail() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return indent(strings.Join(l.last, "\n"))
}
