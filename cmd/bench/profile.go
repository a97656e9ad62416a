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

// newProfiledBed is a bed whose Postgres counts what its statements take.
func (f *commonFlags) newProfiledBed(ctx context.Context, stdio stdio) (*bed, error) {
	b, err := f.newBedWith(ctx, stdio, 1, map[string]string{"shared_preload_libraries": "pg_stat_statements"})
	if err != nil {
		return nil, err
	}
	if err := b.exec(ctx, "CREATE EXTENSION IF NOT EXISTS pg_stat_statements"); err != nil {
		return nil, errors.Join(err, b.close(ctx))
	}
	return b, nil
}

// profile writes a CPU profile of f to a file, and prints what f returns, the processor time each of its orders took, and what Postgres
// and its sessions did meanwhile.
func (b *bed) profile(ctx context.Context, out io.Writer, file string, f func() (summary string, orders float64, err error)) (err error) {
	to, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if err := pprof.StartCPUProfile(to); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	waits := b.watchWaits(ctx)
	before, postgres := cpuTime(os.Getpid()), cpuTime(b.postgresPIDs()...)
	summary, orders, err := f()
	if err := errors.Join(err, waits.stop()); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s; processor time an order: Go %.0f us, Postgres %.0f us\n", summary,
		float64((cpuTime(os.Getpid())-before).Microseconds())/orders, float64((cpuTime(b.postgresPIDs()...)-postgres).Microseconds())/orders)
	waits.print(out)
	return b.statements(ctx, out)
}

// profile measures one mode and says where the time of this process and of Postgres went.
func (c *pipelineCmd) profile(ctx context.Context, stdio stdio) (err error) {
	m, err := modeNamed(c.Mode)
	if err != nil {
		return err
	}
	b, err := c.newProfiledBed(ctx, stdio)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	return b.profile(ctx, stdio.out, c.Profile, func() (string, float64, error) {
		if c.Rate == 0 {
			rate, err := c.measure(ctx, b, m)
			return fmt.Sprintf("%s: %.0f orders/s", m.name, rate), rate * (c.Time + warmUp).Seconds(), err
		}
		h, err := c.measureLatency(ctx, b, m, c.Rate)
		if err != nil {
			return "", 0, err
		}
		ms := func(percentile float64) float64 { return float64(h.ValueAtQuantile(percentile)) / 1000 }
		return fmt.Sprintf("%s: %.0f orders/s, post to completed p50 %.1f ms, p90 %.1f, p99 %.1f, most %.1f, of %d", m.name, c.Rate,
			ms(50), ms(90), ms(99), ms(100), h.TotalCount()), c.Rate * (2*time.Second + max(c.Time, 10*time.Second)).Seconds(), nil
	})
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
