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

	"millrace/db"
)

type growthCmd struct {
	commonFlags
	SKUs        int `name:"skus" default:"1000" help:"Products that orders are spread over."`
	Orders      int `default:"2000000" help:"Orders that are stored beforehand, of the last 90 days. 2,000,000 take about 8 GB."`
	Few         int `default:"5000" help:"Orders stored in what it is compared with: as good as empty, yet with full pages to list."`
	Connections int `default:"96" help:"Connections that send orders."`
}

// sized is a database with a number of orders, and what was measured on it.
type sized struct {
	name             string
	url              string
	orders           int
	intake, pipeline []float64
	lists            [len(lists)][]float64 // p50, milliseconds
}

// list is a question for a page of orders; its answer's time must not grow with what is stored. A page of few finds less than it
// wants, the hardest of questions.
type list struct {
	name     string
	query    string
	operator bool
}

var lists = [...]list{
	{name: "a customer's orders", query: "limit=50"},
	{name: "all orders", query: "limit=50", operator: true},
	{name: "completed orders", query: "limit=50&status=completed", operator: true},
	{name: "orders on hold (60 in all)", query: "limit=50&status=on_hold", operator: true},
	{name: "orders in process (none)", query: "limit=50&status=processing", operator: true},
}

// Run measures.
func (c *growthCmd) Run(ctx context.Context, stdio stdio) (err error) {
	if c.Few < fewest || c.Orders < c.Few {
		return fmt.Errorf("--few must be at least %d, and --orders no less than that", fewest)
	}
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
		if s.url, err = b.database(ctx, c.SKUs); err != nil {
			return err
		}
		if err := fillOrders(ctx, b, s.url, s.orders, c.SKUs); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
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

// measure takes the lists, intake and the pipeline on a database, and then removes what intake and pipeline left undone.
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
	for i, l := range lists {
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

// measureList asks for first and second pages, one after the other, and returns their times in microseconds.
func (c *growthCmd) measureList(ctx context.Context, addr string, identities *issuer, l list) (*hdrhistogram.Histogram, error) {
	h := hdrhistogram.New(1, 120_000_000, 3)
	client := &http.Client{Transport: &http.Transport{}, Timeout: time.Minute}
	defer client.CloseIdleConnections()
	const regulars = 8 // customers with the most orders
	for n, end := 0, time.Now().Add(c.Time/time.Duration(len(lists))); n < regulars || time.Now().Before(end); n++ {
		token := identities.customer(n % regulars)
		if l.operator {
			token = identities.operator()
		}
		next := ""
		for range 2 {
			begun := time.Now()
			cursor, err := getPage(ctx, client, "http://"+addr+"/v1/orders?"+l.query+next, token)
			if err != nil {
				return nil, err
			}
			if n > 0 { // the first opens the connection
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
	for i, l := range lists {
		r.add(l.name+", "+few.name+", p50", "ms", few.lists[i]...)
		r.add(l.name+", "+many.name+", p50", "ms", many.lists[i]...)
		name := "list of " + l.name + ", many stored orders against few"
		r.atMost(name, r.add(name, "times", ratios(many.lists[i], few.lists[i])...), 1.5)
	}
}

// settle removes orders that came after the first n and have not ended, with their jobs, so that nothing is left to do.
func settle(ctx context.Context, databaseURL string, n int) error {
	pool, err := db.NewPool(ctx, databaseURL, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	for _, sql := range []string{
		"TRUNCATE river.river_job",
		fmt.Sprintf(`CREATE TEMP TABLE undone AS SELECT id FROM orders WHERE received_seq > %d AND status NOT IN ('completed', 'canceled', 'failed', 'expired')`, n),
		"DELETE FROM order_lines t USING undone u WHERE t.order_id = u.id",
		"DELETE FROM order_events t USING undone u WHERE t.order_id = u.id",
		"DELETE FROM reservations t USING undone u WHERE t.order_id = u.id",
		"DELETE FROM payment_transactions t USING undone u WHERE t.order_id = u.id",
		"DELETE FROM shipments t USING undone u WHERE t.order_id = u.id",
		"DELETE FROM orders t USING undone u WHERE t.id = u.id",
		"UPDATE counters SET value = (SELECT value FROM counters WHERE name = 'received') WHERE name = 'allocated'",
		"VACUUM ANALYZE orders, order_lines, order_events, reservations, payment_transactions, shipments, inventory_levels, counters",
		"CHECKPOINT",
	} {
		if _, err := pool.Exec(ctx, sql); err != nil {
			return fmt.Errorf("settle: %w", err)
		}
	}
	return nil
}
