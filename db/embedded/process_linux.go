package embedded

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// processAttr runs a child as the account, in a session of its own (so that a
// Ctrl-C in the terminal is ours alone to handle), and has the kernel send it
// onDeath when the thread that started it ends.
func processAttr(a account, onDeath syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Credential: a.credential(), Pdeathsig: onDeath}
}

// watch has nothing to add to Pdeathsig.
func watch(int) (release func()) { return func() {} }

// serversIn lists the Postgres processes whose working directory is dir, the
// postmaster and its children. A postmaster enters its data directory at once
// and never leaves it, so this also finds one whose pid file is gone.
func serversIn(dir string) ([]int, error) {
	want, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("embedded postgres: %w", err)
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("embedded postgres: list processes: %w", err)
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// A process may end meanwhile, or be another user's: then it is not ours.
		comm, err := os.ReadFile("/proc/" + entry.Name() + "/comm")
		if err != nil || strings.TrimSpace(string(comm)) != "postgres" {
			continue
		}
		if cwd, err := os.Stat("/proc/" + entry.Name() + "/cwd"); err == nil && os.SameFile(want, cwd) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
