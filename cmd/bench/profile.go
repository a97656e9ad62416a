package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// modeNamed is the mode whose name begins so.
func modeNamed(name string) (mode, error) {
	modes := append([]mode{millraceMode()}, append(textbookModes(), riverDefaults())...)
	names := make([]string, len(modes))
	for i, m := range modes {
		if names[i] = m.name; strings.HasPrefix(m.name, name) {
			return m, nil
		}
	}
	return mode{}, fmt.Errorf("there is no mode %q: choose from %s", name, strings.Join(names, "; "))
}

// profile measures one mode and says where the time of this process and of Postgres went.
func (c *pipelineCmd) profile(ctx context.Context, stdio stdio) (err error) {
	m, err := modeNamed(c.Mode)
	if err != nil {
		return err
	}
	b, err := c.newBedWith(ctx, stdio, 1, map[string]string{"shared_preload_libraries": "pg_stat_statements"})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	if err := b.exec(ctx, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"); err != nil {
		return err
	}
	f, err := os.Create(c.Profile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	waits := b.watchWaits(ctx)
	before, postgres := cpuTime(os.Getpid()), cpuTime(b.postgresPIDs()...)
	rate := c.Rate
	var took time.Duration
	if c.Rate > 0 {
		h, err := c.measureLatency(ctx, b, m, c.Rate)
		if err != nil {
			return errors.Join(err, waits.stop())
		}
		took = 2*time.Second + max(c.Time, 10*time.Second)
		fmt.Fprintf(stdio.out, "post to completed: p50 %.1f ms, p90 %.1f, p99 %.1f, most %.1f, of %d\n", float64(h.ValueAtQuantile(50))/1000,
			float64(h.ValueAtQuantile(90))/1000, float64(h.ValueAtQuantile(99))/1000, float64(h.Max())/1000, h.TotalCount())
	} else {
		if rate, err = c.measure(ctx, b, m); err != nil {
			return errors.Join(err, waits.stop())
		}
		took = c.Time + warmUp
	}
	fmt.Fprintf(stdio.out, "%s: %.0f orders/s; processor time an order: Go %.0f us, Postgres %.0f us\n", m.name, rate,
		float64((cpuTime(os.Getpid())-before).Microseconds())/rate/took.Seconds(), float64((cpuTime(b.postgresPIDs()...)-postgres).Microseconds())/rate/took.Seconds())
	if err := waits.stop(); err != nil {
		return err
	}
	waits.print(stdio.out)
	return b.statements(ctx, stdio.out)
}

// waits are what the sessions of a Postgres were seen doing.
type waits struct {
	cancel  context.CancelFunc
	done    chan struct{}
	err     error // once done is closed
	samples int
	seen    map[string]int
}

// watchWaits looks at all sessions a hundred times a second, until stop.
func (b *bed) watchWaits(ctx context.Context) *waits {
	ctx, cancel := context.WithCancel(ctx)
	w := &waits{cancel: cancel, done: make(chan struct{}), seen: make(map[string]int)}
	go func() {
		defer close(w.done)
		if err := w.run(ctx, b.url); ctx.Err() == nil {
			w.err = err
		}
	}()
	return w
}

func (w *waits) run(ctx context.Context, databaseURL string) error {
	conn, err := pgx.Connect(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for sleep(ctx, 10*time.Millisecond) == nil {
		rows, err := conn.Query(ctx, `SELECT state || ': ' || coalesce(wait_event_type || ' ' || wait_event, 'running') || CASE WHEN state <> 'idle' THEN ' in ' || regexp_replace(left(query, 60), '\s+', ' ', 'g') ELSE '' END
			FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND state <> 'idle'`)
		if err != nil {
			return err
		}
		seen, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		w.samples++
		for _, s := range seen {
			w.seen[s]++
		}
	}
	return nil
}

// stop ends the watch and waits for it.
func (w *waits) stop() error {
	w.cancel()
	<-w.done
	return w.err
}

// print says how many sessions were in each state on average.
func (w *waits) print(out io.Writer) {
	names := slices.SortedFunc(maps.Keys(w.seen), func(a, b string) int { return cmp.Or(cmp.Compare(w.seen[b], w.seen[a]), cmp.Compare(a, b)) })
	fmt.Fprintln(out, "  sessions  what they did")
	for _, name := range names[:min(len(names), 25)] {
		fmt.Fprintf(out, "%10.2f  %s\n", float64(w.seen[name])/float64(w.samples), name)
	}
}
