package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// superuser is the cluster's owner and the user of every URL.
const superuser = "postgres"

// sidePrefix names clusters in the making, next to data.
const sidePrefix = "data.new-"

// major returns the major version that made the cluster, 0 where there is none
// yet.
func (h *home) major() (int, error) {
	if _, err := os.Stat(h.data); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	text, err := os.ReadFile(filepath.Join(h.data, "PG_VERSION"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("embedded postgres: %s is not a Postgres cluster (it has no PG_VERSION): move it away, or choose another data directory", h.data)
	}
	if err != nil {
		return 0, fmt.Errorf("embedded postgres: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("embedded postgres: %s was made by a Postgres %q, which is not supported: choose another data directory",
			h.data, strings.TrimSpace(string(text)))
	}
	return major, nil
}

// makeCluster makes the cluster beside its place and then moves it there, so
// that there is never half of one.
func (h *home) makeCluster(ctx context.Context, c Config, in Installation) error {
	h.removeSides()
	side, err := os.MkdirTemp(h.base, sidePrefix)
	if err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	defer os.RemoveAll(side)
	if err := h.account.own(side); err != nil {
		return err
	}
	if c.Seed != "" {
		err = h.copySeed(ctx, c, side)
	} else {
		err = h.initdb(ctx, c, in, side)
	}
	if err != nil {
		return err
	}
	if err := os.Rename(side, h.data); err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	if c.Throwaway {
		return nil
	}
	return syncDir(h.base)
}

func (h *home) initdb(ctx context.Context, c Config, in Installation, dir string) error {
	args := []string{
		"-D", dir, "--username=" + superuser, "--encoding=UTF8", "--locale=C",
		// The socket's directory is the lock on the door; see home.socketDir.
		"--auth=trust", "--no-instructions",
	}
	if in.Major >= 17 {
		args = append(args, "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
	}
	if c.Throwaway {
		args = append(args, "--no-sync")
	}
	if _, err := runTool(ctx, h.account, filepath.Join(in.BinDir, "initdb"), args...); err != nil {
		return fmt.Errorf("embedded postgres: make a cluster in %s: %w", h.base, err)
	}
	return nil
}

// removeSides removes what starts that were killed left behind. A failure is
// not worth a start: the next one has a name of its own.
func (h *home) removeSides() {
	sides, _ := filepath.Glob(filepath.Join(h.base, sidePrefix+"*"))
	for _, side := range sides {
		os.RemoveAll(side)
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	return nil
}
