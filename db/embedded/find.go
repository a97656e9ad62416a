package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const (
	minMajor     = 15 // CREATE DATABASE ... STRATEGY, MERGE, NULLS NOT DISTINCT
	defaultMajor = 17 // what is obtained where nothing asks for another one
)

// Installation is a Postgres whose programs can be run.
type Installation struct {
	BinDir  string // holds postgres and initdb, and often psql and pgbench
	Version string // as the server says it, such as "15.18"
	Major   int    // 15
}

// VersionError says that the data was made by a major version of which no
// binaries are here. The data was not touched.
type VersionError struct {
	Dir   string         // the configured directory
	Major int            // the version that made the data
	Found []Installation // those that are here
	Cause error          // why the right one could not be obtained
}

func (e *VersionError) Error() string {
	found := "no other is here"
	if len(e.Found) > 0 {
		var names []string
		for _, in := range e.Found {
			names = append(names, fmt.Sprintf("%s in %s", in.Version, in.BinDir))
		}
		found = "here is only " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("embedded postgres: the data in %s was made by Postgres %d, and %s: %s, or dump the data with version %d and load it into a new directory; it was left as it was: %v",
		e.Dir, e.Major, found, installHint(e.Major), e.Major, e.Cause)
}

func (e *VersionError) Unwrap() error { return e.Cause }

// MissingError says that no Postgres was found and none could be obtained.
type MissingError struct{ Cause error }

func (e *MissingError) Error() string {
	return fmt.Sprintf("embedded postgres: no Postgres of version %d or later was found, nor could one be obtained: %s: %v",
		minMajor, installHint(0), e.Cause)
}

func (e *MissingError) Unwrap() error { return e.Cause }

// Find returns the installation that Start would use for a new directory,
// obtaining one where there is none.
func Find(ctx context.Context, c Config) (Installation, error) {
	if c.Dir == "" {
		c.Dir = os.TempDir()
	}
	c, err := c.withDefaults()
	if err != nil {
		return Installation{}, err
	}
	a, err := serverAccount(filepath.Join(c.Dir, "data"))
	if err != nil {
		return Installation{}, err
	}
	return find(ctx, c, a, 0)
}

// find returns an installation of the major version, of any that is supported
// when it is 0, for the account to run.
func find(ctx context.Context, c Config, a account, major int) (Installation, error) {
	var others []Installation
	var rejected []error
	for _, dir := range candidates(ctx, c) {
		in, err := inspect(ctx, a, dir)
		switch {
		case err != nil:
			rejected = append(rejected, err)
		case in.Major == major, major == 0 && in.Major >= minMajor:
			return in, nil
		default:
			others = append(others, in)
		}
	}
	if ctx.Err() != nil {
		return Installation{}, fmt.Errorf("embedded postgres: look for Postgres: %w", ctx.Err())
	}
	want := major
	if want == 0 {
		want = defaultMajor
	}
	in, err := obtain(ctx, c, a, want)
	if err == nil {
		return in, nil
	}
	cause := errors.Join(append(rejected, err)...)
	if major != 0 {
		return in, &VersionError{Dir: c.Dir, Major: major, Found: others, Cause: cause}
	}
	return in, &MissingError{Cause: cause}
}

// systemDirs are where distributions and package managers put Postgres aside
// from the PATH. One major version each, the newest is tried first.
var systemDirs = []string{
	"/usr/lib/postgresql/*/bin", // Debian
	"/usr/pgsql-*/bin",          // PGDG on Red Hat
	"/usr/lib/postgresql*/bin",  // SUSE
	"/usr/libexec/postgresql*",  // Alpine
	"/usr/local/pgsql/bin",      // built from source
	"/opt/homebrew/opt/postgresql@*/bin",
	"/usr/local/opt/postgresql@*/bin",
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",
	"/Applications/Postgres.app/Contents/Versions/*/bin",
	"/opt/local/lib/postgresql*/bin", // MacPorts
	"/Library/PostgreSQL/*/bin",
	"/opt/PostgreSQL/*/bin",
}

// candidates lists directories that may hold a Postgres, in order of preference.
func candidates(ctx context.Context, c Config) []string {
	var dirs []string
	add := func(dir string) {
		real, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres"))
		if err != nil {
			return
		}
		if dir := filepath.Dir(real); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	if !c.NoSystem {
		if path, err := exec.LookPath("postgres"); err == nil {
			add(filepath.Dir(path))
		}
		if path, err := exec.LookPath("pg_config"); err == nil {
			if out, err := exec.CommandContext(ctx, path, "--bindir").Output(); err == nil {
				add(strings.TrimSpace(string(out)))
			}
		}
		for _, pattern := range systemDirs {
			addAll(pattern, add)
		}
	}
	if c.CacheDir != "" {
		addAll(filepath.Join(binaryCache(c), "*", "bin"), add)
	}
	return dirs
}

var digits = regexp.MustCompile(`\d+`)

// addAll adds what matches the pattern, the highest number in the path first.
func addAll(pattern string, add func(string)) {
	matches, _ := filepath.Glob(pattern)
	number := func(path string) int {
		last := 0
		for _, d := range digits.FindAllString(path, -1) {
			n, _ := strconv.Atoi(d)
			last = max(last, n)
		}
		return last
	}
	slices.SortStableFunc(matches, func(a, b string) int { return number(b) - number(a) })
	for _, dir := range matches {
		add(dir)
	}
}

var versionText = regexp.MustCompile(`\(PostgreSQL\) ((\d+)[0-9A-Za-z.]*)`)

// inspect asks the programs in dir for their version, as the user who will run
// them.
func inspect(ctx context.Context, a account, dir string) (Installation, error) {
	if !a.canEnter(dir) {
		return Installation{}, fmt.Errorf("%s: the user %s may not enter it", dir, a.name)
	}
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return Installation{}, fmt.Errorf("%s: not a whole Postgres: %w", dir, err)
	}
	out, err := runTool(ctx, a, filepath.Join(dir, "postgres"), "--version")
	if err != nil {
		return Installation{}, fmt.Errorf("%s: %w", dir, err)
	}
	match := versionText.FindStringSubmatch(out)
	if match == nil {
		return Installation{}, fmt.Errorf("%s: postgres --version says %q", dir, strings.TrimSpace(out))
	}
	major, err := strconv.Atoi(match[2])
	if err != nil {
		return Installation{}, fmt.Errorf("%s: %w", dir, err)
	}
	return Installation{BinDir: dir, Version: match[1], Major: major}, nil
}

// installHint names the command that installs a Postgres here; major 0 is any.
func installHint(major int) string {
	hint := func(command, versioned string) string {
		if major != 0 {
			command = fmt.Sprintf(versioned, major)
		}
		return "install one (" + command + ")"
	}
	release, _ := os.ReadFile("/etc/os-release")
	has := func(path string) bool { _, err := os.Stat(path); return err == nil }
	switch like := string(release); {
	case has("/usr/bin/sw_vers"):
		return hint(fmt.Sprintf("brew install postgresql@%d", defaultMajor), "brew install postgresql@%d")
	case strings.Contains(like, "alpine"):
		return hint("apk add postgresql", "apk add postgresql%d")
	case strings.Contains(like, "fedora"), strings.Contains(like, "rhel"):
		return hint("dnf install postgresql-server", "dnf install postgresql%d-server")
	case strings.Contains(like, "arch"):
		return hint("pacman -S postgresql", "pacman -S postgresql, if that is version %d")
	case strings.Contains(like, "suse"):
		return hint("zypper install postgresql-server", "zypper install postgresql%d-server")
	default:
		return hint("apt-get install postgresql", "apt-get install postgresql-%d")
	}
}
