//go:build unix && !linux

package embedded

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// processAttr runs a child as the account, in a session of its own, so that a
// Ctrl-C in the terminal is ours alone to handle. These systems cannot signal a
// child at its parent's death: see watch.
func processAttr(a account, _ syscall.Signal) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setsid: true, Credential: a.credential()}
}

func watch(pid int) (release func()) { return watchByPipe(pid) }

// serversIn lists the Postgres processes whose working directory is dir, the
// postmaster and its children. A postmaster enters its data directory at once
// and never leaves it, so this also finds one whose pid file is gone.
func serversIn(dir string) ([]int, error) {
	real, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("embedded postgres: %w", err)
	}
	// lsof exits with 1 when no process matches.
	out, err := exec.Command("lsof", "-a", "-c", "/^postgres$/", "-d", "cwd", "-F", "pn").Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return nil, fmt.Errorf("embedded postgres: list processes: %w", err)
	}
	var pids []int
	pid := 0
	for line := range strings.Lines(string(out)) {
		value := strings.TrimSpace(line[1:])
		switch line[0] {
		case 'p':
			pid, _ = strconv.Atoi(value)
		case 'n':
			if cwd, err := os.Stat(value); err == nil && os.SameFile(real, cwd) && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}
