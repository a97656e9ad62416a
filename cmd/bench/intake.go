package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"millrace/db"
)

type intakeCmd struct {
	commonFlags
	SKUs          int      `name:"skus" default:"1000" help:"Products that orders are spread over."`
	Connections   int      `default:"256" help:"Connections that send orders at the maximum."`
	OverloadConns int      `default:"2500" help:"Connections that send ten times the maximum: more than callers find room for in the server."`
	Customers     int      `default:"64" help:"Customers who order."`
	Ways          []string `default:"directly,overload,gate" enum:"directly,overload,gate" help:"What to measure besides pgbench: directly, that and overload, gate."`
	Profile       string   `type:"path" placeholder:"FILE" help:"Write a CPU profile of the server at its maximum, taken directly in the last round, to a file. It costs a little."`
}

// intakeRound is what was measured of a way into the server, at its maximum, at half of it, and with ten times as much offered.
type intakeRound struct {
	max, half, over    answers
	usage, overUsage   usage
	postgres, measured bool // whether Postgres' processes are known; whether the overload was measured
}

// Run measures.
func (c *intakeCmd) Run(ctx context.Context, stdio stdio) (err error) {
	b, err := c.newBed(ctx, stdio, c.Rounds*7+2)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	r := &report{Command: "intake"}
	if r.Machine, r.Settings, err = describe(ctx, b.url); err != nil {
		return err
	}
	if err := c.measure(ctx, b, r); err != nil {
		return err
	}
	return r.write(stdio.out, c.JSON)
}

// measure takes pgbench, the server and the gate in turn, round after round.
func (c *intakeCmd) measure(ctx context.Context, b *bed, r *report) (err error) {
	identities, err := newIssuer(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, identities.close()) }()
	for _, name := range []string{"millrace", "gate"} {
		b.step("build %s", name)
		if _, err := b.program(ctx, name); err != nil {
			return err
		}
	}
	clients := []int{8, 16, 32}
	var plain, plainLate []float64
	var direct, gated []intakeRound
	for round := range c.Rounds {
		b.step("round %d: pgbench", round+1)
		if err := b.clear(ctx); err != nil {
			return err
		}
		url, err := b.database(ctx, c.SKUs)
		if err != nil {
			return err
		}
		rate, at, err := bestOf(ctx, b.pgbench(), url, intakeScript(c.SKUs, true), max(c.Time/2, time.Second), clients...)
		if err != nil {
			return err
		}
		b.step("round %d: pgbench, half of its best", round+1)
		late, err := pgbenchAt(ctx, b.pgbench(), url, intakeScript(c.SKUs, true), at, rate/2, c.Time)
		if err != nil {
			return err
		}
		plain, plainLate, clients = append(plain, rate), append(plainLate, late), []int{at}
		if c.takes("directly") || c.takes("overload") {
			if err := b.clear(ctx); err != nil {
				return err
			}
			one, err := c.directly(ctx, b, identities, round)
			if err != nil {
				return fmt.Errorf("directly: %w", err)
			}
			direct = append(direct, one)
		}
		if c.takes("gate") {
			if err := b.clear(ctx); err != nil {
				return err
			}
			one, err := c.throughGate(ctx, b, round)
			if err != nil {
				return fmt.Errorf("through the gate: %w", err)
			}
			gated = append(gated, one)
		}
	}
	r.add(fmt.Sprintf("pgbench, one order a transaction, %d clients", clients[0]), "orders/s", plain...)
	r.add("pgbench, an order at half of its best, p99", "ms", plainLate...)
	c.report(r, plain, direct, gated)
	return nil
}

// takes reports whether a way in is to be measured.
func (c *intakeCmd) takes(way string) bool { return slices.Contains(c.Ways, way) }

// directly measures a server that the bench signs identities for.
func (c *intakeCmd) directly(ctx context.Context, b *bed, identities *issuer, round int) (m intakeRound, err error) {
	url, err := b.database(ctx, c.SKUs)
	if err != nil {
		return m, err
	}
	s, err := b.serve(ctx, serveConfig{databaseURL: url, jwksURL: identities.jwksURL()})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	post := orderPosts(s.addr, c.SKUs, "Gate-Identity: ", func(conn int) string { return identities.customer(conn % c.Customers) })
	if m, err = c.measureAt(ctx, b, url, s, nil, s.addr, post, fmt.Sprintf("round %d: directly", round+1), round == c.Rounds-1); err != nil {
		return m, err
	}

	if !c.takes("overload") {
		return m, nil
	}
	b.step("round %d: directly, ten times as much", round+1)
	over := load{addr: s.addr, conns: c.OverloadConns, rate: 10 * m.max.perSecond(), patience: time.Second, warm: 2 * time.Second, time: c.Time, request: post}
	over.during = func(ctx context.Context) (err error) {
		m.overUsage, err = usageOver(ctx, nil, c.Time, map[string][]int{"server": {s.pid()}})
		return err
	}
	m.over, err = over.run(ctx)
	m.measured = true
	return m, err
}

// throughGate measures the same with a gate in front, whose customers have keys.
func (c *intakeCmd) throughGate(ctx context.Context, b *bed, round int) (m intakeRound, err error) {
	url, err := b.database(ctx, c.SKUs)
	if err != nil {
		return m, err
	}
	addr, err := freeAddress(ctx)
	if err != nil {
		return m, err
	}
	g, err := b.gate(ctx, url, addr, millraceReuse, c.Customers)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, g.stop()) }()
	s, err := b.serve(ctx, serveConfig{databaseURL: url, addr: addr, jwksURL: g.jwksURL()})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	post := orderPosts(g.addr, c.SKUs, "Authorization: Bearer ", func(conn int) string { return g.keys[conn%len(g.keys)] })
	return c.measureAt(ctx, b, url, s, g, g.addr, post, fmt.Sprintf("round %d: gate", round+1), false)
}

// measureAt sends orders to addr as fast as they are taken, and then half as many.
func (c *intakeCmd) measureAt(ctx context.Context, b *bed, databaseURL string, s *server, g *gateServer, addr string, post func([]byte, int, int) []byte, name string, last bool) (m intakeRound, err error) {
	pool, err := db.NewPool(ctx, databaseURL, 2)
	if err != nil {
		return m, err
	}
	defer pool.Close()
	b.step("%s", name)
	l := load{addr: addr, conns: c.Connections, warm: 2 * time.Second, time: c.Time, request: post}
	l.during = func(ctx context.Context) (err error) {
		pids := map[string][]int{"server": {s.pid()}, "Postgres": b.postgresPIDs(), "load generator": {os.Getpid()}}
		if g != nil {
			pids["gate"] = []int{g.pid()}
		}
		m.usage, err = usageOver(ctx, pool, c.Time, pids)
		return err
	}
	if c.Profile != "" && last {
		profiled, done := l.during, make(chan error, 1)
		l.during = func(ctx context.Context) error {
			go func() { done <- s.profile(ctx, c.Profile, c.Time) }()
			return errors.Join(profiled(ctx), <-done)
		}
	}
	if m.max, err = l.run(ctx); err != nil {
		return m, err
	}
	if m.max.accepted == 0 {
		return m, errors.New("no order was taken in: give it more --time")
	}
	m.postgres = b.server != nil
	b.step("%s, half of the maximum", name)
	l.rate, l.during, l.warm = m.max.perSecond()/2, nil, time.Second
	m.half, err = l.run(ctx)
	return m, err
}

// report adds what the rounds gave.
func (c *intakeCmd) report(r *report, plain []float64, direct, gated []intakeRound) {
	for _, way := range []struct {
		name    string
		rounds  []intakeRound
		atLeast float64
	}{{"directly", direct, 2}, {"through the gate", gated, 1.3}} {
		if len(way.rounds) == 0 {
			continue
		}
		each := func(f func(intakeRound) float64) []float64 {
			out := make([]float64, len(way.rounds))
			for i, m := range way.rounds {
				out[i] = f(m)
			}
			return out
		}
		rates := each(func(m intakeRound) float64 { return m.max.perSecond() })
		r.add("millrace, "+way.name, "orders/s", rates...)
		r.atLeast("intake "+way.name+" against pgbench", r.add(way.name+", against pgbench", "times", ratios(rates, plain)...), way.atLeast)
		r.add(way.name+", answer at the maximum, p50", "ms", each(func(m intakeRound) float64 { return m.max.quantile(50) })...)
		r.add(way.name+", answer at the maximum, p99", "ms", each(func(m intakeRound) float64 { return m.max.quantile(99) })...)
		r.add(way.name+", answer at half of it, p50", "ms", each(func(m intakeRound) float64 { return m.half.quantile(50) })...)
		r.atMost("p99 of the answer at half of the maximum, "+way.name,
			r.add(way.name+", answer at half of it, p99", "ms", each(func(m intakeRound) float64 { return m.half.quantile(99) })...), 25)
		for _, part := range []string{"server", "gate", "Postgres", "load generator"} {
			if _, there := way.rounds[0].usage.cpu[part]; there && (part != "Postgres" || way.rounds[0].postgres) {
				r.add(way.name+", CPU of "+part+" for 1,000 orders", "s",
					each(func(m intakeRound) float64 { return m.usage.cpu[part].Seconds() / float64(m.max.accepted) * 1000 })...)
			}
		}
		r.add(way.name+", WAL an order", "bytes", each(func(m intakeRound) float64 { return m.usage.wal / float64(m.max.accepted) })...)
		r.atMost("server's memory at the maximum, "+way.name,
			r.add(way.name+", server's memory at the maximum", "MB", each(func(m intakeRound) float64 { return slices.Max(m.usage.memory) })...), 200)
		if !way.rounds[0].measured {
			continue
		}
		r.add("millrace, ten times the maximum offered, taken", "orders/s", each(func(m intakeRound) float64 { return m.over.perSecond() })...)
		r.add("ten times the maximum offered, refused by 503", "requests/s", each(func(m intakeRound) float64 { return float64(m.over.refused) / m.over.took.Seconds() })...)
		r.add("ten times the maximum offered, no connection free", "requests/s", each(func(m intakeRound) float64 { return float64(m.over.leftOut) / m.over.took.Seconds() })...)
		r.atMost("server's memory at ten times the maximum offered",
			r.add("ten times the maximum offered, server's memory", "MB", each(func(m intakeRound) float64 { return slices.Max(m.overUsage.memory) })...), 200)
		r.atMost("server's memory flat at ten times the maximum offered",
			r.add("ten times the maximum offered, memory at the end against the beginning", "times", each(func(m intakeRound) float64 { return m.overUsage.growth() })...), 1.1)
	}
}

// usage is what processes used while a load ran.
type usage struct {
	cpu    map[string]time.Duration
	wal    float64
	memory []float64 // of the process named "server", MB, ten times a second
}

// growth is the memory in the last quarter of the time against that in the first.
func (u usage) growth() float64 {
	n := max(len(u.memory)/4, 1)
	return median(u.memory[len(u.memory)-n:]) / median(u.memory[:n])
}

// usageOver measures processes, by name, and the WAL written for a time. pool may be nil.
func usageOver(ctx context.Context, pool *pgxpool.Pool, d time.Duration, pids map[string][]int) (usage, error) {
	u := usage{cpu: map[string]time.Duration{}}
	read := func(sign float64) error {
		for name, p := range pids {
			u.cpu[name] += time.Duration(sign * float64(cpuTime(p...)))
		}
		if pool == nil {
			return nil
		}
		wal, err := walBytes(ctx, pool)
		u.wal += sign * wal
		return err
	}
	if err := read(-1); err != nil {
		return u, err
	}
	end := time.Now().Add(d)
	for time.Now().Before(end) {
		u.memory = append(u.memory, residentMB(pids["server"][0]))
		if err := sleep(ctx, min(100*time.Millisecond, time.Until(end))); err != nil {
			return u, err
		}
	}
	return u, read(1)
}

// orderPosts makes requests for orders of two lines, each under a key of its own. credential is a header's name and what precedes the
// value that value gives for a connection.
func orderPosts(host string, skus int, credential string, value func(conn int) string) func(buf []byte, conn, n int) []byte {
	const lines = `{"lines":[{"sku":"SKU-000000","quantity":1},{"sku":"SKU-000000","quantity":2}],"payment_method":"pm_ok","email":"bench@example.com",` +
		`"ship_to":{"name":"Ada Lovelace","line1":"12 Mill Lane","city":"Bath","postal_code":"BA1 1AA","country":"GB"}}`
	first, second := len(`{"lines":[{"sku":"SKU-000000`), len(`{"lines":[{"sku":"SKU-000000","quantity":1},{"sku":"SKU-000000`)
	head := "POST /v1/orders HTTP/1.1\r\nHost: " + host + "\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(lines)) + "\r\n" + credential
	return func(buf []byte, conn, n int) []byte {
		buf = append(append(buf, head...), value(conn)...)
		buf = append(buf, "\r\nIdempotency-Key: "...)
		key := uuid.New()
		buf = append(buf, key.String()...)
		buf = append(buf, "\r\n\r\n"...)
		body := len(buf)
		buf = append(buf, lines...)
		product := int(key[0])<<16 | int(key[1])<<8 | int(key[2])
		digits(buf[:body+first], product%skus)
		digits(buf[:body+second], (product+1)%skus)
		return buf
	}
}

// digits writes n over the digits at the end of b.
func digits(b []byte, n int) {
	for i := len(b) - 1; n > 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
}
