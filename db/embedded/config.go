package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Config says what to run and where. Only Dir is required.
type Config struct {
	// Dir holds the cluster and all that belongs to it; see the package
	// comment for its layout. It is made where it does not exist.
	Dir string

	// Settings are Postgres settings by name, as in postgresql.conf, such as
	// "shared_buffers": "256MB". They override this package's defaults, but for
	// those that decide where the server listens, which are refused.
	Settings map[string]string

	// MaxConnections is Postgres' max_connections; 0 means 100.
	MaxConnections int

	// Throwaway turns fsync, full_page_writes and synchronous_commit off, for
	// data that nobody misses after a crash. Never set it for real orders.
	Throwaway bool

	// Seed is the Dir of a stopped server (see [Prepare]). Where Dir holds no
	// cluster yet, Seed's is copied instead of making an empty one.
	Seed string

	// CacheDir keeps downloaded binaries; "" means [CacheDir]'s answer.
	CacheDir string

	// NoSystem ignores the Postgres installations of this machine and uses
	// only those in CacheDir, obtaining one where there is none.
	NoSystem bool

	// StartTimeout bounds making the cluster and, apart from that, waiting for
	// the server to answer. 0 means 5 minutes: a first start takes a second on
	// a quiet disk and ten on a busy one, and recovery from a crash may take
	// longer still.
	StartTimeout time.Duration

	// Logger gets the server's own log (without statements or their data) and
	// this package's. nil discards it.
	Logger *slog.Logger

	// sources obtain binaries of the releases, in order; nil means the public
	// ones. Tests replace them.
	sources  []source
	releases map[int]release
}

var discard = slog.New(slog.DiscardHandler)

// withDefaults returns the configuration with every field set, or an error
// that names the field to change.
func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("embedded postgres: Config.Dir is empty: name the directory that shall hold the data")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, fmt.Errorf("embedded postgres: %w", err)
	}
	c.Dir = dir
	if c.MaxConnections < 0 {
		return c, fmt.Errorf("embedded postgres: Config.MaxConnections is %d: use a positive number, or 0 for the default", c.MaxConnections)
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = 100
	}
	if c.StartTimeout <= 0 {
		c.StartTimeout = 5 * time.Minute
	}
	if c.Logger == nil {
		c.Logger = discard
	}
	if c.CacheDir == "" {
		// Without one, an installed Postgres still serves.
		c.CacheDir, _ = CacheDir()
	} else if c.CacheDir, err = filepath.Abs(c.CacheDir); err != nil {
		return c, fmt.Errorf("embedded postgres: %w", err)
	}
	if c.sources == nil {
		c.sources = publicSources()
	}
	if c.releases == nil {
		c.releases = releases
	}
	for name := range c.Settings {
		if err := checkSetting(name); err != nil {
			return c, err
		}
	}
	return c, nil
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$`)

// ownSettings decide where the server keeps its data and listens. Another value
// would break a promise of this package.
var ownSettings = []string{
	"config_file", "data_directory", "external_pid_file", "hba_file", "ident_file",
	"listen_addresses", "log_destination", "log_line_prefix", "logging_collector", "max_connections", "port",
	"unix_socket_directories", "unix_socket_group", "unix_socket_permissions",
}

func checkSetting(name string) error {
	if !settingName.MatchString(name) {
		return fmt.Errorf("embedded postgres: %q is not the name of a Postgres setting", name)
	}
	if lower := strings.ToLower(name); slices.Contains(ownSettings, lower) {
		hint := "remove it from Config.Settings"
		if lower == "max_connections" {
			hint = "use Config.MaxConnections"
		}
		return fmt.Errorf("embedded postgres: the setting %s is not free to choose: %s", lower, hint)
	}
	return nil
}

// serverArgs are the server's command line: settings go there, and not into
// postgresql.conf, so that a start never depends on what an earlier one wrote.
func (c Config) serverArgs(data, socketDir string) []string {
	settings := map[string]string{
		"timezone":     "UTC",
		"log_timezone": "UTC",
		// The server's own life is logged, statements and their data are not:
		// their errors go to the client that sent them.
		"log_min_messages":        "log",
		"log_min_error_statement": "panic",
		"log_error_verbosity":     "terse",
		"log_checkpoints":         "off",
		"log_line_prefix":         "",
	}
	if c.Throwaway {
		settings["fsync"] = "off"
		settings["full_page_writes"] = "off"
		settings["synchronous_commit"] = "off"
	}
	for name, value := range c.Settings {
		settings[strings.ToLower(name)] = value
	}
	settings["listen_addresses"] = ""
	settings["log_destination"] = "stderr"
	settings["logging_collector"] = "off"
	settings["max_connections"] = strconv.Itoa(c.MaxConnections)
	settings["port"] = socketPort
	settings["unix_socket_directories"] = socketDir
	settings["unix_socket_permissions"] = "0700"

	args := []string{"-D", data}
	for name, value := range settings {
		args = append(args, "-c", name+"="+value)
	}
	return args
}
