package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Prepare makes dir a stopped server's directory, filled by fill, for others to
// start from as their [Config.Seed]. It does so once: where dir exists, nothing
// happens; where another process is at it, Prepare waits for that one; and where
// fill fails, or the process is killed, dir does not exist. c.Dir is ignored.
func Prepare(ctx context.Context, dir string, c Config, fill func(context.Context, *Server) error) error {
	if exists(dir) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	l, err := waitLock(ctx, dir+".lock")
	if err != nil {
		return err
	}
	defer l.release()
	if exists(dir) {
		return nil
	}
	abandoned, _ := filepath.Glob(dir + ".new-*")
	for _, side := range abandoned {
		if err := Remove(ctx, side); err != nil {
			return err
		}
	}
	side, err := os.MkdirTemp(filepath.Dir(dir), filepath.Base(dir)+".new-")
	if err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	if err := os.Chmod(side, 0o755); err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	c.Dir = side
	if err := runOnce(ctx, c, fill); err != nil {
		return errors.Join(err, Remove(context.WithoutCancel(ctx), side))
	}
	if err := os.Rename(side, dir); err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	return nil
}

func runOnce(ctx context.Context, c Config, fill func(context.Context, *Server) error) error {
	s, err := Start(ctx, c)
	if err != nil {
		return err
	}
	err = fill(ctx, s)
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := errors.Join(err, s.Stop(stopCtx)); err != nil {
		return err
	}
	return removeSocketDir(s.home.base)
}

// Remove deletes what Start made of dir, wherever it was put, and dir itself
// where nothing else is in it. It stops a server that was left behind, and
// refuses with a [*LockedError] while a process uses dir.
func Remove(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	if !exists(dir) {
		return nil
	}
	l, err := tryLock(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer l.release()
	base, err := readPath(filepath.Join(dir, "location"))
	if err != nil {
		return err
	}
	if base != "" && exists(base) {
		second, err := tryLock(filepath.Join(base, "lock"))
		if err != nil {
			return err
		}
		defer second.release()
		if err := removeBase(ctx, base); err != nil {
			return err
		}
	}
	return removeBase(ctx, dir)
}

func removeBase(ctx context.Context, base string) error {
	if err := stopOrphans(ctx, filepath.Join(base, "data"), discard); err != nil {
		return err
	}
	if err := removeSocketDir(base); err != nil {
		return err
	}
	paths, _ := filepath.Glob(filepath.Join(base, sidePrefix+"*"))
	for _, name := range []string{"data", "run", "socket", "location", "lock"} {
		paths = append(paths, filepath.Join(base, name))
	}
	for _, path := range paths {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("embedded postgres: %w", err)
		}
	}
	// It stays where something of somebody else's is in it.
	os.Remove(base)
	return nil
}

// removeSocketDir removes the directory that base/socket records.
func removeSocketDir(base string) error {
	record := filepath.Join(base, "socket")
	dir, err := readPath(record)
	if err != nil || dir == "" {
		return err
	}
	if err := clearSockets(dir); err != nil {
		return err
	}
	// Another one's directory, or one with more in it, is not removed.
	os.Remove(dir)
	if err := os.Remove(record); err != nil {
		return fmt.Errorf("embedded postgres: %w", err)
	}
	return nil
}

// copySeed copies the cluster of the stopped server in seed into dir.
func (h *home) copySeed(ctx context.Context, c Config, dir string) error {
	base, err := readPath(filepath.Join(c.Seed, "location"))
	if err != nil {
		return err
	}
	if base == "" {
		base = c.Seed
	}
	data := filepath.Join(base, "data")
	if exists(filepath.Join(data, "postmaster.pid")) {
		return fmt.Errorf("embedded postgres: the seed %s is in use, or was not stopped in order: stop its server first", c.Seed)
	}
	dirs := []string{dir}
	err = filepath.WalkDir(data, func(path string, entry fs.DirEntry, err error) error {
		if err := errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(data, path)
		if err != nil {
			return err
		}
		target := filepath.Join(dir, rel)
		switch {
		case rel == ".":
			return nil
		case entry.IsDir():
			err = os.Mkdir(target, 0o700)
			dirs = append(dirs, target)
		case entry.Type().IsRegular():
			err = copyFile(path, target, !c.Throwaway)
		default:
			err = fmt.Errorf("%s is neither a file nor a directory", path)
		}
		if err != nil {
			return err
		}
		return h.account.own(target)
	})
	if err != nil {
		return fmt.Errorf("embedded postgres: copy the seed %s: %w", c.Seed, err)
	}
	if c.Throwaway {
		return nil
	}
	for _, made := range dirs {
		if err := syncDir(made); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string, sync bool) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if sync {
		if err := out.Sync(); err != nil {
			return err
		}
	}
	return out.Close()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
