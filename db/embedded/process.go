package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// child is a process that this one started and waits for.
type child struct {
	process *os.Process
	done    chan struct{} // closed once the process has ended
	err     error         // how it ended; read it after done
}

// start runs cmd. It is started and waited for by one locked thread, because
// the kernel's signal at a parent's death is one at the death of the thread.
func start(cmd *exec.Cmd) (*child, error) {
	c := &child{done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.done)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		c.process = cmd.Process
		release := watch(cmd.Process.Pid)
		started <- nil
		c.err = cmd.Wait()
		release()
	}()
	if err := <-started; err != nil {
		<-c.done
		return nil, err
	}
	return c, nil
}

// runTool runs a program of an installation, as the account, to its end and
// returns its output.
func runTool(ctx context.Context, a account, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	cmd.Env = childEnv()
	cmd.SysProcAttr = processAttr(a, syscall.SIGKILL)
	return run(ctx, cmd)
}

// run runs a command that leads a session, to its end or to that of ctx, and
// returns its output, which is also in the error.
func run(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	c, err := start(cmd)
	if err == nil {
		<-c.done
		err = c.err
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w%s", filepath.Base(cmd.Path), err, indent(out.String()))
	}
	return out.String(), nil
}

// childEnv is all that Postgres gets of our environment: no PG* variable that
// would change its ways, and none of our secrets.
func childEnv() []string {
	env := []string{"LC_ALL=C"}
	for _, name := range []string{"PATH", "LD_LIBRARY_PATH", "TMPDIR"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// stopOrphans stops a server that outlived the process that started it, and
// then removes what it left behind and the next one would stumble over. The
// caller holds the lock, so whoever runs in data is nobody's any more.
func stopOrphans(ctx context.Context, data string, log *slog.Logger) error {
	steps := []struct {
		signal   syscall.Signal
		patience time.Duration
	}{
		{syscall.SIGINT, time.Minute}, // fast shutdown: it writes a checkpoint
		{syscall.SIGQUIT, 5 * time.Second},
		{syscall.SIGKILL, 5 * time.Second},
	}
	for _, step := range steps {
		pids, err := serversIn(data)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return removePidFile(data)
		}
		if step.signal == syscall.SIGINT {
			// Only a postmaster knows how to shut down in order.
			postmaster := pidFile(data)
			if !slices.Contains(pids, postmaster) {
				continue
			}
			pids = []int{postmaster}
		}
		log.WarnContext(ctx, "stopping a Postgres that was left behind", "pids", pids, "signal", step.signal.String())
		for _, pid := range pids {
			if err := syscall.Kill(pid, step.signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("embedded postgres: stop the process %d, which was left behind in %s: %w", pid, data, err)
			}
		}
		if err := waitGone(ctx, data, step.patience); err != nil {
			return err
		}
	}
	pids, err := serversIn(data)
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		return fmt.Errorf("embedded postgres: the processes %v in %s do not end: stop them by hand", pids, data)
	}
	return removePidFile(data)
}

// waitGone returns once no server runs in data, or patience is over.
func waitGone(ctx context.Context, data string, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		pids, err := serversIn(data)
		if err != nil || len(pids) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("embedded postgres: waiting for the server left behind in %s: %w", data, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// pidFile returns the process id in data's postmaster.pid, 0 where there is
// none.
func pidFile(data string) int {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil {
		return 0
	}
	return pid
}

// removePidFile keeps Postgres from refusing to start because a stranger now
// has the process id that is in the file.
func removePidFile(data string) error {
	err := os.Remove(filepath.Join(data, "postmaster.pid"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	return nil
}

// indent puts a program's output below the error that quotes it.
func indent(text string) string {
	const limit = 4000
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	if len(text) > limit {
		text = "… " + text[len(text)-limit:]
	}
	return "\n\t" + strings.ReplaceAll(text, "\n", "\n\t")
}
