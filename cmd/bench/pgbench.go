package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

var tpsLine = regexp.MustCompile(`tps = ([0-9.]+) \(without initial connection time\)`)

// pgbench runs a script, one transaction or more for each order, with prepared statements, and returns orders a second.
func pgbench(ctx context.Context, program, databaseURL, script string, clients int, d time.Duration) (float64, error) {
	file := filepath.Join(os.TempDir(), fmt.Sprintf("millrace-bench-%d.sql", os.Getpid()))
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		return 0, err
	}
	defer os.Remove(file)
	command := exec.CommandContext(ctx, program, "--no-vacuum", "--protocol=prepared", "--file="+file, fmt.Sprintf("--client=%d", clients),
		"--jobs=2", fmt.Sprintf("--time=%d", int(d.Seconds())), databaseURL)
	out, err := command.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("pgbench: %w: %s", err, out)
	}
	m := tpsLine.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("pgbench printed no rate: %s", out)
	}
	return strconv.ParseFloat(string(m[1]), 64)
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
