package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/jackc/pgx/v5"

	"millrace"
	"millrace/db"
	"millrace/db/migrations"
)

type growthCmd struct {
	commonFlags
	SKUs        int  `name:"skus" default:"1000" help:"Products that orders are spread over."`
	Orders      int  `default:"2000000" help:"Orders that are stored beforehand, of the last 90 days. 2,000,000 take about 8 GB."`
	Few         int  `default:"25000" help:"Orders stored in what it is compared with: as good as empty, yet with as many as two pages look at."`
	Connections int  `default:"96" help:"Connections that send orders."`
	Keep        bool `help:"Leave the filled databases on the Postgres of DATABASE_URL, and use those that an earlier run left there."`
	FillOnly    bool `help:"Fill the databases and measure nothing, with --keep."`
}

// sized is a database with a number of orders, and what was measured on it.
type sized struct {
	name             string
	url              string
	orders           int
	size             string // on disk, when filled
	intake, pipeline []float64
	lists            [][]float64 // p50, milliseconds, of each of lists
}

// list is a question for a page of orders; its answer's time must not grow with what is stored.
type list struct {
	name     string
	query    string
	operator bool
}

// lists asks by everything that orders can be listed by. The hardest are those that find less than a page.
func lists() []list {
	monthAgo := time.Now().UTC().Add(-30 * 24 * time.Hour)
	all := []list{
		{name: "a customer's orders"},
		{name: "a customer's orders on hold (few or none)", query: "&status=on_hold"},
		{name: "all orders", operator: true},
		{name: "orders of a day a month ago", operator: true, query: "&" + url.Values{"from": {monthAgo.Format(time.RFC3339)},
			"to": {monthAgo.Add(24 * time.Hour).Format(time.RFC3339)}}.Encode()},
		{name: "orders of a product", operator: true, query: "&sku=" + sku(7)},
		{name: "orders of a product that nobody bought", operator: true, query: "&sku=NIL-000"},
		{name: "canceled orders of a product", operator: true, query: "&status=canceled&sku=" + sku(7)},
	}
	for _, s := range millrace.OrderStatuses() {
		all = append(all, list{name: "orders that are " + string(s), operator: true, query: "&status=" + string(s)})
	}
	return all
}

// Validate is called by kong.
func (c *growthCmd) Validate() error {
	switch {
	case c.Few < fewest || c.Orders < c.Few:
		return fmt.Errorf("--few must be at least %d, and --orders no less than that", fewest)
	case c.Keep && c.DatabaseURL == "":
		return errors.New("--keep needs a Postgres to keep databases on: set DATABASE_URL")
	case c.FillOnly && !c.Keep:
		return errors.New("--fill-only is of no use without --keep")
	}
	return nil
}

// Run measures.
func (c *growthCmd) Run(ctx context.Context, stdio stdio) (err error) {
	b, err := c.newBed(ctx, stdio, fillSteps(c.Orders)+fillSteps(c.Few)+c.Rounds*6+1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	r := &report{Command: "growth"}
	if r.Machine, r.Settings, err = describe(ctx, b.url); err != nil {
		return err
	}
	identities, err := newIssuer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, identities.close()) }()
	few, many := &sized{name: fmt.Sprintf("%d orders", c.Few), orders: c.Few}, &sized{name: fmt.Sprintf("%d orders", c.Orders), orders: c.Orders}
	for _, s := range []*sized{few, many} {
		if err := c.fill(ctx, b, s); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
		r.Settings["stored: "+s.name] = s.size
	}
	if c.FillOnly {
		return nil
	}
	for round := range c.Rounds {
		for _, s := range []*sized{few, many} {
			if err := c.measure(ctx, b, identities, s, round); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	c.report(r, few, many)
	return r.write(stdio.out, c.JSON)
}

// fill finds or makes the database. One that is kept gets its name when it is complete, so that one under that name is.
func (c *growthCmd) fill(ctx context.Context, b *bed, s *sized) error {
	kept := fmt.Sprintf("bench_grown_%d_%d", s.orders, c.SKUs)
	u, err := url.Parse(b.url)
	if err != nil {
		return err
	}
	u.Path = "/" + kept
	conn, err := pgx.Connect(ctx, b.url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var found bool
	if c.Keep {
		if err := conn.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_database WHERE datname = $1", kept).Scan(&found); err != nil {
			return err
		}
	}
	if found {
		s.url = u.String()
		if _, err := migrations.Up(ctx, s.url); err != nil {
			return err
		}
		if err := settle(ctx, s.url, s.orders); err != nil { // an earlier run may have been stopped
			return err
		}
	} else {
		if s.url, err = b.database(ctx, c.SKUs); err != nil {
			return err
		}
		if err := fillOrders(ctx, b, s.url, s.orders, c.SKUs); err != nil {
			return err
		}
	}
	if made := len(b.made) - 1; c.Keep && !found {
		if _, err := conn.Exec(ctx, "ALTER DATABASE "+b.made[made]+" RENAME TO "+kept); err != nil {
			return err
		}
		s.url, b.made = u.String(), b.made[:made]
	}
	named, err := pgx.ParseConfig(s.url)
	if err != nil {
		return err
	}
	return conn.QueryRow(ctx, "SELECT pg_size_pretty(pg_database_size($1::text))", named.Database).Scan(&s.size)
}

// measure takes the lists, intake and the pipeline on a database, and removes the orders that came with intake and pipeline.
func (c *growthCmd) measure(ctx context.Context, b *bed, identities *issuer, s *sized, round int) error {
	if err := c.measureServer(ctx, b, identities, s, round); err != nil {
		return err
	}
	if err := settle(ctx, s.url, s.orders); err != nil {
		return err
	}
	b.step("round %d: pipeline, %s", round+1, s.name)
	p, err := millraceMode().start(ctx, s.url)
	if err != nil {
		return err
	}
	rate, err := p.throughput(ctx, c.SKUs, 4000, 3*time.Second, c.Time)
	p.close()
	if err != nil {
		return err
	}
	s.pipeline = append(s.pipeline, rate)
	return settle(ctx, s.url, s.orders)
}

func (c *growthCmd) measureServer(ctx context.Context, b *bed, identities *issuer, s *sized, round int) (err error) {
	server, err := b.serve(ctx, serveConfig{databaseURL: s.url, jwksURL: identities.jwksURL()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	b.step("round %d: lists, %s", round+1, s.name)
	all := lists()
	if s.lists == nil {
		s.lists = make([][]float64, len(all))
	}
	if _, err := c.measureList(ctx, server.addr, identities, all[0]); err != nil { // a server's first second is slower, whatever is stored
		return err
	}
	for i, l := range all {
		h, err := c.measureList(ctx, server.addr, identities, l)
		if err != nil {
			return fmt.Errorf("list %s: %w", l.name, err)
		}
		s.lists[i] = append(s.lists[i], float64(h.ValueAtQuantile(50))/1000)
	}
	b.step("round %d: intake, %s", round+1, s.name)
	post := orderPosts(server.addr, c.SKUs, "Gate-Identity: ", func(conn int) string { return identities.customer(conn % 64) })
	a, err := load{addr: server.addr, conns: c.Connections, warm: 2 * time.Second, time: c.Time, request: post}.run(ctx)
	s.intake = append(s.intake, a.perSecond())
	return err
}

// measureList asks for first and second pages, one after the other, and returns their times in microseconds, but for the first times.
func (c *growthCmd) measureList(ctx context.Context, addr string, identities *issuer, l list) (*hdrhistogram.Histogram, error) {
	h := hdrhistogram.New(1, 120_000_000, 3)
	client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	const regulars = 8 // customers with hundreds of orders
	for n, end := 0, time.Now().Add(c.Time/time.Duration(len(lists()))); n < 2*regulars || time.Now().Before(end); n++ {
		token := identities.customer(n % regulars)
		if l.operator {
			token = identities.operator()
		}
		next := ""
		for range 2 {
			begun := time.Now()
			cursor, err := getPage(ctx, client, "http://"+addr+"/v1/orders?limit=50"+l.query+next, token)
			if err != nil {
				return nil, err
			}
			if n >= regulars { // each was asked once before, so that what Postgres keeps in memory is there
				if err := h.RecordValue(time.Since(begun).Microseconds()); err != nil {
					return nil, err
				}
			}
			if cursor == "" {
				break
			}
			next = "&cursor=" + url.QueryEscape(cursor)
		}
	}
	return h, nil
}

// getPage gets a page of orders and returns the next one's cursor.
func getPage(ctx context.Context, client *http.Client, page, token string) (next string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, page, http.NoBody)
	if err != nil {
		return "", err
	}
	r.Header.Set("Gate-Identity", token)
	resp, err := client.Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	var p struct {
		NextCursor string `json:"next_cursor"`
	}
	return p.NextCursor, json.Unmarshal(body, &p)
}

func (c *growthCmd) report(r *report, few, many *sized) {
	for _, part := range []struct {
		name      string
		few, many []float64
	}{{"intake", few.intake, many.intake}, {"pipeline", few.pipeline, many.pipeline}} {
		r.add(part.name+", "+few.name, "orders/s", part.few...)
		r.add(part.name+", "+many.name, "orders/s", part.many...)
		name := part.name + ", many stored orders against few"
		r.atLeast(name, r.add(name, "times", ratios(part.many, part.few)...), 0.9)
	}
	for i, l := range lists() {
		r.add(l.name+", "+few.name+", p50", "ms", few.lists[i]...)
		r.add(l.name+", "+many.name+", p50", "ms", many.lists[i]...)
		name := "list of " + l.name + ", many stored orders against few"
		r.atMost(name, r.add(name, "times", ratios(many.lists[i], few.lists[i])...), 1.5)
	}
}

// settle removes the orders that came after the first n, so that a database is as it was filled.
func settle(ctx context.Context, databaseURL string, n int) error {
	pool, err := db.NewPool(ctx, databaseURL, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	for _, sql := range []string{
		"SET statement_timeout = 0",
		"TRUNCATE river.river_job",
		fmt.Sprintf("CREATE TEMP TABLE later AS SELECT id FROM orders WHERE received_seq > %d", n),
		"ANALYZE later",
		"DELETE FROM order_lines t USING later u WHERE t.order_id = u.id",
		"DELETE FROM order_events t USING later u WHERE t.order_id = u.id",
		"DELETE FROM reservations t USING later u WHERE t.order_id = u.id",
		"DELETE FROM payment_transactions t USING later u WHERE t.order_id = u.id",
		"DELETE FROM shipments t USING later u WHERE t.order_id = u.id",
		"DELETE FROM idempotency_keys WHERE principal LIKE 'bench-%'",
		"DELETE FROM orders t USING later u WHERE t.id = u.id",
		setCounters(n),
		"VACUUM ANALYZE orders, order_lines, order_events, reservations, payment_transactions, shipments, idempotency_keys, inventory_levels, counters",
	} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
	}
	if err := insertOpenJobs(ctx, pool, n); err != nil {
		return err
	}
	for _, sql := range []string{"VACUUM ANALYZE river.river_job", "CHECKPOINT"} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
	}
	return nil
}
