package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// LockedError says that another process uses the directory.
type LockedError struct {
	Dir     string // the directory that was asked for
	PID     int    // the process that holds it; 0 where it could not be read
	Command string // that process' name, as it called itself
}

func (e *LockedError) Error() string {
	holder := "another process"
	if e.PID != 0 {
		holder = fmt.Sprintf("process %d (%s)", e.PID, e.Command)
	}
	return fmt.Sprintf("embedded postgres: %s is in use by %s: stop it, or choose another data directory", e.Dir, holder)
}

// lock is an exclusive lock on a file. The kernel drops it with the process, so
// a lock is never stale, whatever the file says.
type lock struct{ file *os.File }

// tryLock takes the lock at path, or returns a *LockedError at once. The file's
// parent must exist.
func tryLock(path string) (*lock, error) {
	for {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, fmt.Errorf("embedded postgres: lock file: %w", err)
		}
		err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			locked := readHolder(file)
			_ = file.Close() // nothing was written
			locked.Dir = filepath.Dir(path)
			return nil, locked
		}
		if err != nil {
			_ = file.Close() // nothing was written
			return nil, fmt.Errorf("embedded postgres: lock %s: %w", path, err)
		}
		// Whoever removed the directory meanwhile left us a lock on a file
		// that nobody else will ever see.
		if !stillAt(file, path) {
			_ = file.Close() // nothing was written
			continue
		}
		l := &lock{file: file}
		if err := l.sign(); err != nil {
			l.release()
			return nil, err
		}
		return l, nil
	}
}

// waitLock takes the lock at path as soon as its holder drops it.
func waitLock(ctx context.Context, path string) (*lock, error) {
	for {
		l, err := tryLock(path)
		if _, held := errors.AsType[*LockedError](err); !held {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (waited for it: %w)", err, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// release gives the lock up by name: a child that was forked just now, and has
// not come to its exec yet, has the file open as well, and would keep the lock
// past our closing.
func (l *lock) release() {
	_ = syscall.Flock(int(l.file.Fd()), syscall.LOCK_UN) // closing gives it up as well
	_ = l.file.Close()                                   // what it says of its holder is of no more use
}

func (l *lock) sign() error {
	text := fmt.Sprintf("%d %s\n", os.Getpid(), filepath.Base(os.Args[0]))
	if err := l.file.Truncate(0); err != nil {
		return fmt.Errorf("embedded postgres: lock file: %w", err)
	}
	if _, err := l.file.WriteAt([]byte(text), 0); err != nil {
		return fmt.Errorf("embedded postgres: lock file: %w", err)
	}
	return nil
}

func readHolder(file *os.File) *LockedError {
	text, err := io.ReadAll(io.NewSectionReader(file, 0, 1024))
	if err != nil {
		return &LockedError{}
	}
	pid, command, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
	n, err := strconv.Atoi(pid)
	if err != nil {
		return &LockedError{}
	}
	return &LockedError{PID: n, Command: command}
}

func stillAt(file *os.File, path string) bool {
	held, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(held, there)
}
