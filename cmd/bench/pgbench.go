package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

var tpsLine = regexp.MustCompile(`tps = ([0-9.]+) \(without initial connection time\)`)

// pgbench runs a script, one transaction or more for each order, with prepared statements, and returns orders a second.
func pgbench(ctx context.Context, program, databaseURL, script string, clients int, d time.Duration, flags ...string) (float64, error) {
	file := filepath.Join(os.TempDir(), fmt.Sprintf("millrace-bench-%d.sql", os.Getpid()))
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return 0, err
	}
	defer os.Remove(file)
	flags = append(flags, "--no-vacuum", "--protocol=prepared", "--file="+file, fmt.Sprintf("--client=%d", clients), "--jobs=2",
		fmt.Sprintf("--time=%d", int(d.Seconds())), databaseURL)
	out, err := exec.CommandContext(ctx, program, flags...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	m := tpsLine.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("pgbench printed no rate: %s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
}

// pgbenchWarm is how long a script runs at a rate before what it takes counts: it connects and prepares its statements in that time.
const pgbenchWarm = time.Second

// pgbenchAt runs a script at a rate, orders a second, and returns the 99th percentile of what each took, from when it was due, in ms.
func pgbenchAt(ctx context.Context, program, databaseURL, script string, clients int, rate float64, d time.Duration) (float64, error) {
	dir, err := os.MkdirTemp("", "millrace-bench-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	prefix := filepath.Join(dir, "log")
	warm := time.Now().Add(pgbenchWarm).UnixMicro()
	if _, err := pgbench(ctx, program, databaseURL, script, clients, pgbenchWarm+d, fmt.Sprintf("--rate=%f", rate), "--log", "--log-prefix="+prefix); err != nil {
		return 0, err
	}
	logs, err := filepath.Glob(prefix + "*")
	if err != nil {
		return 0, err
	}
	took := newLatencies()
	for _, name := range logs {
		log, err := os.ReadFile(name)
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(log)) {
			var client, transaction, us, file, second, micro int64 // the last two: when it ended
			if _, err := fmt.Sscan(line, &client, &transaction, &us, &file, &second, &micro); err != nil {
				return 0, fmt.Errorf("read pgbench's log: %w: %q", err, line)
			}
			if second*1e6+micro < warm {
				continue
			}
			if err := took.RecordValue(us); err != nil {
				return 0, err
			}
		}
	}
	if took.TotalCount() == 0 {
		return 0, errors.New("pgbench did nothing at a rate: give it more --time")
	}
	return float64(took.ValueAtQuantile(99)) / 1000, nil
}

// bestOf runs a script at each number of clients and returns the best rate and what reached it.
func bestOf(ctx context.Context, program, databaseURL, script string, d time.Duration, clients ...int) (best float64, at int, err error) {
	for _, n := range clients {
		rate, err := pgbench(ctx, program, databaseURL, script, n, d)
		if err != nil {
			return 0, 0, err
		}
		if rate > best {
			best, at = rate, n
		}
	}
	return best, at, nil
}
