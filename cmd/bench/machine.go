package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// machine is what a report was taken on.
type machine struct {
	CPU      string `json:"cpu"`
	Cores    int    `json:"cores"`
	MemoryGB int    `json:"memory_gb"`
	OS       string `json:"os"`
	Go       string `json:"go"`
	Postgres string `json:"postgres"`
	// What a system call takes, and to wake a thread that waits for a byte: much of what is measured here is made of these, and machines
	// that look alike differ in them by a factor of ten.
	SyscallNS float64 `json:"syscall_ns"`
	WakeupUS  float64 `json:"wakeup_us"`
}

// String says it in a line.
func (m machine) String() string {
	return fmt.Sprintf("%s, %d cores, %d GB, %s, %s, PostgreSQL %s; a system call takes %.0f ns, waking a thread %.1f us",
		m.CPU, m.Cores, m.MemoryGB, m.OS, m.Go, m.Postgres, m.SyscallNS, m.WakeupUS)
}

// describe reads what this machine and the Postgres in use are, and the settings that bear on durability and speed.
func describe(ctx context.Context, databaseURL string) (machine, map[string]string, error) {
	m := machine{CPU: procField("/proc/cpuinfo", "model name"), Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
	m.SyscallNS = syscallCost().Seconds() * 1e9
	wakeup, err := wakeupCost()
	if err != nil {
		return m, nil, fmt.Errorf("measure what it takes to wake a thread: %w", err)
	}
	m.WakeupUS = wakeup.Seconds() * 1e6
	if kb, err := strconv.Atoi(strings.Fields(procField("/proc/meminfo", "MemTotal") + " 0")[0]); err == nil {
		m.MemoryGB = (kb + 1<<19) >> 20
	}
	c, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return m, nil, err
	}
	defer c.Close(ctx)
	settings := map[string]string{}
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size", "min_wal_size", "max_connections", "wal_sync_method", "checkpoint_timeout"} {
		var v string
		if err := c.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&v); err != nil {
			return m, nil, err
		}
		settings[name] = v
	}
	if settings["fsync"] != "on" || settings["synchronous_commit"] != "on" {
		return m, nil, fmt.Errorf("this Postgres gives up durability (fsync=%s, synchronous_commit=%s): figures taken on it mean nothing", settings["fsync"], settings["synchronous_commit"])
	}
	if settings["huge_pages_status"], err = hugePages(ctx, c); err != nil {
		return m, nil, err
	}
	return m, settings, c.QueryRow(ctx, "SELECT current_setting('server_version')").Scan(&m.Postgres)
}

// hugePages says whether Postgres keeps what it shares in huge pages: on, off, or unknown. Before version 17 only its memory map tells.
func hugePages(ctx context.Context, c *pgx.Conn) (string, error) {
	var status *string
	var pid int
	if err := c.QueryRow(ctx, "SELECT current_setting('huge_pages_status', true), pg_backend_pid()").Scan(&status, &pid); err != nil {
		return "", err
	}
	if status != nil {
		return *status, nil
	}
	return hugePagesOf(pid), nil
}

func hugePagesOf(pid int) string {
	memory, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	switch {
	case err != nil: // on another machine, or of another user
		return "unknown"
	case bytes.Contains(memory, []byte("/anon_hugepage")):
		return "on"
	default:
		return "off"
	}
}

// syscallCost is what the simplest system call takes.
func syscallCost() time.Duration {
	const calls = 20_000
	begun := time.Now()
	for range calls {
		syscall.Getppid()
	}
	return time.Since(begun) / calls
}

// wakeupCost is what it takes to write a byte to a pipe and have the thread that waits for it go on.
func wakeupCost() (time.Duration, error) {
	const turns = 2000
	var there, back [2]int
	if err := syscall.Pipe(there[:]); err != nil {
		return 0, err
	}
	if err := syscall.Pipe(back[:]); err != nil {
		return 0, errors.Join(err, syscall.Close(there[0]), syscall.Close(there[1]))
	}
	echo := func(from, to int) error {
		var b [1]byte
		for range turns {
			if n, err := syscall.Read(from, b[:]); n == 0 {
				return cmp.Or(err, io.ErrUnexpectedEOF)
			}
			if _, err := syscall.Write(to, b[:]); err != nil {
				return err
			}
		}
		return nil
	}
	answered := make(chan error, 1)
	begun := time.Now()
	go func() { answered <- echo(there[0], back[1]) }()
	_, err := syscall.Write(there[1], []byte{0})
	if err == nil {
		err = echo(back[0], there[1]) // the last byte stays in the pipe
	}
	took := time.Since(begun)
	err = errors.Join(err, syscall.Close(there[1]), <-answered) // a closed pipe ends the wait for another byte
	return took / (2 * turns), errors.Join(err, syscall.Close(there[0]), syscall.Close(back[0]), syscall.Close(back[1]))
}

// procField is the value of the first line of a /proc file that starts with name; "" where there is none.
func procField(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		key, value, ok := strings.Cut(lines.Text(), ":")
		if ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// cpuTime is the processor time, in user and kernel mode, that processes have used, by pid; those that are gone count as 0.
func cpuTime(pids ...int) time.Duration {
	var ticks uint64
	for _, pid := range pids {
		body, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		fields := strings.Fields(string(body[strings.LastIndexByte(string(body), ')')+1:]))
		for _, f := range fields[11:15] { // its own and that of children it has waited for; the fields start with the third
			n, _ := strconv.ParseUint(f, 10, 64)
			ticks += n
		}
	}
	const ticksPerSecond = 100 // USER_HZ, the same on every Linux that Go runs on
	return time.Duration(ticks) * time.Second / ticksPerSecond
}

// childrenOf are the processes whose parent is pid, and pid itself: a postmaster and its backends.
func childrenOf(pid int) []int {
	pids := []int{pid}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		body, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := strings.Fields(string(body[strings.LastIndexByte(string(body), ')')+1:]))
		if len(fields) > 1 && fields[1] == strconv.Itoa(pid) {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, child)
		}
	}
	return pids
}

// residentMB is a process' resident memory in MB (2^20), 0 where it is gone.
func residentMB(pid int) float64 {
	kb, _ := strconv.ParseFloat(strings.TrimSuffix(procField(fmt.Sprintf("/proc/%d/status", pid), "VmRSS"), " kB"), 64)
	return kb / 1024
}
