package dbtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"millrace/db/embedded"
)

const (
	// privatePrefix names the directories of private servers.
	privatePrefix = "millrace-dbtest-"
	// room is what a private server's directory may need.
	room = 1 << 30
	// unused is the age at which a cached cluster is removed.
	unused = 14 * 24 * time.Hour
)

// settings keep a private server small, since one runs for each package that is
// tested, and quiet: nothing but the tests' own sessions is at work in it.
var settings = map[string]string{
	"autovacuum": "off",
	// In the data directory, so that a server that is killed leaves nothing elsewhere.
	"dynamic_shared_memory_type": "mmap",
	"max_wal_senders":            "0",
	"max_wal_size":               "256MB",
	"shared_buffers":             "32MB",
	"wal_level":                  "minimal",
}

// privateServer is the embedded server of this process.
type privateServer struct {
	server *embedded.Server
	dir    string
}

// startServer returns the server that tests shall use, which is private to this
// process unless TEST_DATABASE_URL names one.
func startServer(ctx context.Context, template Template) (address, *privateServer, error) {
	if text := os.Getenv("TEST_DATABASE_URL"); text != "" {
		on, err := parseAddress(text)
		return on, nil, err
	}
	config := embedded.Config{Throwaway: true, MaxConnections: 200, Settings: settings}
	seed, err := preparedSeed(ctx, config, template)
	if err != nil {
		return address{}, nil, err
	}
	parent := memoryDir()
	removeAbandoned(ctx, parent)
	dir, err := privateDir(parent)
	if err != nil {
		return address{}, nil, err
	}
	config.Dir, config.Seed = dir, seed
	server, err := embedded.Start(ctx, config)
	if err != nil {
		return address{}, nil, errors.Join(err, embedded.Remove(context.WithoutCancel(ctx), dir))
	}
	on, err := parseAddress(server.URL("postgres"))
	return on, &privateServer{server: server, dir: dir}, err
}

// stop ends the server and leaves nothing of it.
func (p *privateServer) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return errors.Join(p.server.Err(), p.server.Stop(ctx), embedded.Remove(ctx, p.dir))
}

// preparedSeed returns the directory of a stopped server that holds the
// template, from the cache or made now. It is "" where there is no cache, and
// the private server then has to do all the work itself.
func preparedSeed(ctx context.Context, config embedded.Config, template Template) (string, error) {
	cache, err := embedded.CacheDir()
	if err != nil {
		return "", nil //nolint:nilerr // there is no cache, and it is done without
	}
	cache = filepath.Join(cache, "dbtest")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", nil //nolint:nilerr // likewise
	}
	in, err := embedded.Find(ctx, config)
	if err != nil {
		return "", err
	}
	seed := filepath.Join(cache, template.database()+"-"+shortHash(in.Version, in.BinDir))
	now := time.Now()
	if os.Chtimes(seed, now, now) == nil {
		return seed, nil
	}
	err = embedded.Prepare(ctx, seed, config, func(ctx context.Context, server *embedded.Server) error {
		on, err := parseAddress(server.URL("postgres"))
		if err != nil {
			return err
		}
		return template.ensure(ctx, on)
	})
	if err != nil {
		return "", err
	}
	removeUnused(ctx, cache)
	return seed, nil
}

// removeUnused keeps the cache from growing with each change of a migration.
func removeUnused(ctx context.Context, cache string) {
	seeds, _ := filepath.Glob(filepath.Join(cache, "template_*"))
	for _, seed := range seeds {
		if olderThan(seed, unused) && embedded.Remove(ctx, seed) == nil {
			os.Remove(seed + ".lock")
		}
	}
}

// removeAbandoned removes the directories of test processes that were killed.
// A young one may belong to a process that has not locked it yet; one that is in
// use is left alone by Remove.
func removeAbandoned(ctx context.Context, parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, privatePrefix+"*"))
	for _, dir := range dirs {
		if olderThan(dir, time.Minute) {
			_ = embedded.Remove(ctx, dir) // one that is in use stays, and one that cannot be removed is tried again next time
		}
	}
}

func privateDir(parent string) (string, error) {
	dir, err := os.MkdirTemp(parent, privatePrefix)
	if err != nil {
		return "", fmt.Errorf("dbtest: %w", err)
	}
	// The server may run as another user than this process.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", fmt.Errorf("dbtest: %w", err)
	}
	return dir, nil
}

func olderThan(path string, age time.Duration) bool {
	info, err := os.Stat(path)
	return err == nil && time.Since(info.ModTime()) > age
}

// memoryDir is where a private server's files go: to memory where there is room,
// since they are many, and gone after a minute.
func memoryDir() string {
	const memory = "/dev/shm"
	var fs syscall.Statfs_t
	if err := syscall.Statfs(memory, &fs); err == nil && fs.Bavail*uint64(fs.Bsize) >= room {
		return memory
	}
	return os.TempDir()
}
