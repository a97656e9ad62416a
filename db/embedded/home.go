package embedded

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

const (
	// socketPort only names the socket's file; nothing listens on a port.
	socketPort = "5432"
	// maxSocketDir keeps the socket's path within what the systems allow: 107
	// bytes on Linux, 103 on macOS.
	maxSocketDir = 103 - len("/.s.PGSQL."+socketPort)
)

// home is one configured directory, locked, with the places that belong to it.
type home struct {
	dir     string // as configured
	base    string // holds data and run: dir, or where its "location" points
	data    string // the cluster; need not exist yet
	account account
	locks   []*lock
	// throwaway says that the data may be put where a reboot removes it.
	throwaway bool
}

// openHome makes dir where it does not exist, locks it and finds out where its
// cluster is and who runs it.
func openHome(dir string, throwaway bool) (*home, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("embedded postgres: %w", err)
	}
	h := &home{dir: dir, throwaway: throwaway}
	if err := h.open(); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *home) open() error {
	first, err := tryLock(filepath.Join(h.dir, "lock"))
	if err != nil {
		return err
	}
	h.locks = append(h.locks, first)
	if err := h.locate(); err != nil {
		return err
	}
	if h.base == h.dir {
		return nil
	}
	// Two directories point to one place when one is a copy of the other.
	second, err := tryLock(filepath.Join(h.base, "lock"))
	if err != nil {
		return err
	}
	h.locks = append(h.locks, second)
	return nil
}

// close lets other processes use the directory.
func (h *home) close() {
	for _, l := range h.locks {
		l.release()
	}
	h.locks = nil
}

func (h *home) locate() error {
	location := filepath.Join(h.dir, "location")
	base, err := readPath(location)
	if err != nil {
		return err
	}
	if base != "" {
		if _, err := os.Stat(base); err != nil {
			return fmt.Errorf("embedded postgres: the data of %s is in %s, says %s: bring it back, or remove that file to start without data: %w",
				h.dir, base, location, err)
		}
		return h.settle(base)
	}
	if err := h.settle(h.dir); err != nil {
		return err
	}
	if h.account.canEnter(h.dir) {
		return nil
	}
	if _, err := os.Stat(h.data); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("embedded postgres: the user %s, who owns %s, may not pass through its parent directories: give them the x permission (chmod o+x)",
			h.account.name, h.data)
	}
	if base, err = h.newBase(); err != nil {
		return err
	}
	if err := writePath(location, base); err != nil {
		return err
	}
	return h.settle(base)
}

func (h *home) settle(base string) (err error) {
	h.base = base
	h.data = filepath.Join(base, "data")
	h.account, err = serverAccount(h.data)
	return err
}

// newBase makes a directory that the server's user can reach. Its name is not
// derived from dir: data left behind there must never turn up in a new one.
func (h *home) newBase() (string, error) {
	parent := "/var/lib/millrace"
	switch {
	case h.throwaway:
		parent = os.TempDir()
		if !h.account.canEnter(parent) {
			parent = "/tmp"
		}
	case runtime.GOOS == "darwin":
		parent = "/var/db/millrace"
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", fmt.Errorf("embedded postgres: %w", err)
	}
	if !h.account.canEnter(parent) {
		return "", fmt.Errorf("embedded postgres: the user %s may pass neither through %s nor %s: choose a data directory that it can reach",
			h.account.name, h.dir, parent)
	}
	base, err := os.MkdirTemp(parent, "millrace-"+filepath.Base(h.dir)+"-")
	if err != nil {
		return "", fmt.Errorf("embedded postgres: %w", err)
	}
	if err := os.Chmod(base, 0o755); err != nil {
		return "", fmt.Errorf("embedded postgres: %w", err)
	}
	return base, nil
}

// socketDir returns the 0700 directory for the socket: run/, or a short one
// elsewhere that is recorded, so that the address stays the same.
func (h *home) socketDir() (string, error) {
	run := filepath.Join(h.base, "run")
	if fitsSocket(run) {
		if err := os.Mkdir(run, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("embedded postgres: %w", err)
		}
		if err := h.account.own(run); err != nil {
			return "", err
		}
		if !h.isPrivate(run) {
			return "", fmt.Errorf("embedded postgres: %s must be a directory of the user %s with mode 0700: remove it", run, h.account.name)
		}
		return run, nil
	}
	record := filepath.Join(h.base, "socket")
	dir, err := readPath(record)
	if err != nil {
		return "", err
	}
	if dir != "" && fitsSocket(dir) && h.isPrivate(dir) {
		return dir, nil
	}
	for _, parent := range []string{os.Getenv("XDG_RUNTIME_DIR"), os.TempDir(), "/tmp"} {
		if parent == "" || !h.account.canEnter(parent) {
			continue
		}
		dir, err := os.MkdirTemp(parent, "millrace-")
		if err != nil {
			continue
		}
		if !fitsSocket(dir) {
			os.Remove(dir)
			continue
		}
		if err := h.account.own(dir); err != nil {
			return "", err
		}
		return dir, writePath(record, dir)
	}
	return "", fmt.Errorf("embedded postgres: found no place for the socket: its path may have %d bytes, which %s exceeds, and no temporary directory could be used: choose a data directory with a shorter path",
		maxSocketDir, run)
}

// fitsSocket says whether a socket can be made in dir and named in a
// comma-separated list, as both Postgres and its clients read it.
func fitsSocket(dir string) bool {
	return len(dir) <= maxSocketDir && !strings.ContainsAny(dir, ",\"'\n")
}

// isPrivate says whether only the server's user may enter dir. Another one may
// have made it: temporary directories are open to all.
func (h *home) isPrivate(dir string) bool {
	info, err := os.Lstat(dir)
	if err != nil || !info.IsDir() {
		return false
	}
	return info.Mode().Perm() == 0o700 && info.Sys().(*syscall.Stat_t).Uid == h.account.uid
}

// clearSockets removes what a server that died left in dir; its lock file would
// stop the next one if the process id in it had been given away again.
func clearSockets(dir string) error {
	for _, name := range []string{".s.PGSQL." + socketPort, ".s.PGSQL." + socketPort + ".lock"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("embedded postgres: %w", err)
		}
	}
	return nil
}

func readPath(file string) (string, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("embedded postgres: %w", err)
	}
	path := strings.TrimSpace(string(text))
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("embedded postgres: %s should hold an absolute path", file)
	}
	return path, nil
}

// writePath writes the file in one step: a crash leaves all of it or nothing.
func writePath(file, path string) error {
	side := file + ".new"
	if err := os.WriteFile(side, []byte(path+"\n"), 0o644); err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	if err := os.Rename(side, file); err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	return nil
}
