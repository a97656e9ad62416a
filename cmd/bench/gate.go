package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

type gateCmd struct {
	commonFlags
	Rate        float64       `default:"1000" help:"Requests a second at which latencies are compared."`
	Connections int           `default:"32" help:"Connections that send requests."`
	Streams     int           `default:"10000" help:"Idle streams to open through the gate: as many of them as it may open files for, two each."`
	Quiet       time.Duration `default:"15s" help:"How long idle streams are left alone before they are measured; each gets a heartbeat every 10s."`
	Logins      int           `default:"50" help:"Logins that are under way at any time in a storm of them, every other one with a wrong password."`
}

// Validate is called by kong.
func (c *gateCmd) Validate() error {
	if c.Rate <= 0 || c.Connections < 2 || c.Streams < 1 || c.Logins < 2 || c.Rounds < 1 || c.Time <= 0 {
		return errors.New("--rate, --streams, --rounds and --time must be above 0, --connections and --logins above 1")
	}
	return nil
}

// Names of the figures that are held against something.
const (
	addedFigure       = "added by the gate"
	keyRatioFigure    = "gate by a cached key, against a bare proxy"
	cookieRatioFigure = "gate by a cached session, against a bare proxy"
	gateStreamFigure  = "memory of a proxied idle stream (gate RSS)"
	stormFigure       = "p99 during the storm of logins, against before"
)

// Run measures.
func (c *gateCmd) Run(ctx context.Context, stdio stdio) (err error) {
	b, err := c.newBed(ctx, stdio, 8*c.Rounds+1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close(ctx)) }()
	r := &report{Command: "gate"}
	if r.Machine, r.Settings, err = describe(ctx, b.url); err != nil {
		return err
	}
	r.Settings["rate"], r.Settings["connections"], r.Settings["logins"] = fmt.Sprintf("%g requests/s", c.Rate), itoa(c.Connections), itoa(c.Logins)
	if r.Settings["streams"], err = c.fitStreams(); err != nil {
		return err
	}
	f, err := c.measure(ctx, b)
	if err != nil {
		return err
	}
	c.report(r, f)
	return r.write(stdio.out, c.JSON)
}

// fitStreams takes fewer streams where the gate may not open files for all, and says how many they are, and why.
func (c *gateCmd) fitStreams() (string, error) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return "", err
	}
	const others = 200
	fit := (int(min(files.Max, 1<<30)) - others) / 2 // the Go runtime raises the soft limit to the hard one
	if fit < 1 {
		return "", fmt.Errorf("a process may open only %d files here: raise it with ulimit -Hn", files.Max)
	}
	if fit >= c.Streams {
		return itoa(c.Streams), nil
	}
	wanted := c.Streams
	c.Streams = fit
	return fmt.Sprintf("%d (of %d: a process may open only %d files here)", fit, wanted, files.Max), nil
}

// measure takes what is compared in turn, round after round.
func (c *gateCmd) measure(ctx context.Context, b *bed) (f *liveFigures, err error) {
	b.step("build the gate and what is beside it")
	s, err := newGateStage(ctx, b, c.Logins)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	f = &liveFigures{}
	for round := range c.Rounds {
		if err := s.withGate(ctx, b, func(g *gateServer) error { return c.requests(ctx, b, s, g, round, f) }); err != nil {
			return nil, err
		}
		// A gate of their own: memory that requests left behind would hide what streams take.
		b.step("round %d: %d idle streams", round+1, c.Streams)
		if err := s.withGate(ctx, b, func(g *gateServer) error { return c.idle(ctx, g, f) }); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// requests measures plain requests: at a rate, in a storm of logins, and as many as can be.
func (c *gateCmd) requests(ctx context.Context, b *bed, s *gateStage, g *gateServer, round int, f *liveFigures) error {
	cookies, err := s.logIn(ctx, g)
	if err != nil {
		return err
	}
	byKey := func(conn int) string { return "Authorization: Bearer " + g.keys[conn%len(g.keys)] }
	byCookie := func(conn int) string { return "Cookie: " + cookies[conn%len(cookies)] }
	byBoth := func(conn int) string {
		if conn%2 == 0 {
			return byKey(conn / 2)
		}
		return byCookie(conn / 2)
	}
	run := func(l load, name string, pid int) (answers, time.Duration, error) {
		b.step("round %d: %s", round+1, name)
		l.conns, l.warm, l.time = c.Connections, min(2*time.Second, c.Time), c.Time
		also := l.during
		var u usage
		l.during = func(ctx context.Context) (err error) {
			done := make(chan error, 1)
			go func() {
				if also != nil {
					done <- also(ctx)
					return
				}
				done <- nil
			}()
			u, err = usageOver(ctx, nil, c.Time, map[string][]int{"server": {pid}})
			return errors.Join(err, <-done)
		}
		a, err := l.run(ctx)
		if err == nil && a.accepted == 0 {
			err = errors.New("nothing was answered: give it more --time")
		}
		if err != nil {
			return a, 0, fmt.Errorf("%s: %w", name, err)
		}
		return a, u.cpu["server"], nil
	}

	upstream := load{addr: s.upstream.addr, rate: c.Rate, request: gets(s.upstream.addr, byBoth)}
	bare := load{addr: s.bare.addr, rate: c.Rate, request: gets(s.bare.addr, byBoth)}
	gated := load{addr: g.addr, rate: c.Rate, request: gets(g.addr, byBoth)}
	at := fmt.Sprintf(" at %g requests/s", c.Rate)
	direct, _, err := run(upstream, "upstream alone"+at, s.upstream.pid())
	if err != nil {
		return err
	}
	f.noteLag("upstream alone"+at, direct.latencies)
	forwarded, _, err := run(bare, "bare proxy"+at, s.bare.pid())
	if err != nil {
		return err
	}
	f.noteLag("bare proxy"+at, forwarded.latencies)
	passed, _, err := run(gated, "gate"+at, g.pid())
	if err != nil {
		return err
	}
	before := f.noteLag("gate"+at, passed.latencies)
	for _, q := range []float64{50, 99} {
		f.note(fmt.Sprintf("added by a bare proxy, p%g", q), "ms", forwarded.quantile(q)-direct.quantile(q))
		f.note(fmt.Sprintf("%s, p%g", addedFigure, q), "ms", passed.quantile(q)-direct.quantile(q))
	}

	storm := gated
	var stormed logins
	storm.during = func(ctx context.Context) (err error) {
		stormed, err = s.storm(ctx, g, c.Time)
		return err
	}
	shaken, _, err := run(storm, "gate, in a storm of logins", g.pid())
	if err != nil {
		return err
	}
	f.note(stormFigure, "times", f.noteLag("gate"+at+", in a storm of logins", shaken.latencies)/before)
	f.note("passwords checked in the storm", "1/s", float64(stormed.in+stormed.refused)/stormed.took.Seconds())
	f.note("logins in the storm turned away as too many to check", "1/s", float64(stormed.busy)/stormed.took.Seconds())

	var bareRate float64
	for _, way := range []struct {
		name, ratio string
		load        load
		pid         int
	}{
		{"bare proxy", "", load{addr: s.bare.addr, request: gets(s.bare.addr, byKey)}, s.bare.pid()},
		{"gate by a cached key", keyRatioFigure, load{addr: g.addr, request: gets(g.addr, byKey)}, g.pid()},
		{"gate by a cached session", cookieRatioFigure, load{addr: g.addr, request: gets(g.addr, byCookie)}, g.pid()},
	} {
		a, cpu, err := run(way.load, way.name, way.pid)
		if err != nil {
			return err
		}
		f.note(way.name, "requests/s", a.perSecond())
		f.note(way.name+", its processor time a request", "us", float64(cpu.Microseconds())/float64(a.accepted))
		if way.ratio == "" {
			bareRate = a.perSecond()
			continue
		}
		f.note(way.ratio, "times", a.perSecond()/bareRate)
	}
	return nil
}

// idle measures what streams on which nothing happens cost the gate.
func (c *gateCmd) idle(ctx context.Context, g *gateServer, f *liveFigures) (err error) {
	// What the first streams set up once for all is not theirs.
	first, err := g.streams(min(c.Streams, 200)).open(ctx)
	if err != nil {
		return err
	}
	if err := first.close(); err != nil {
		return err
	}
	if err := sleep(ctx, c.Quiet/5); err != nil {
		return err
	}
	memory, begun := residentMB(g.pid()), time.Now()
	open, err := g.streams(c.Streams).open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, open.close()) }()
	f.note("proxied streams opened", "1/s", float64(c.Streams)/time.Since(begun).Seconds())
	if err := sleep(ctx, c.Quiet); err != nil {
		return err
	}
	f.note(gateStreamFigure, "kB", (residentMB(g.pid())-memory)*1024/float64(c.Streams))
	used := cpuTime(g.pid())
	if err := sleep(ctx, c.Time); err != nil {
		return err
	}
	f.note("gate's processor time of all idle streams", "ms/s", float64((cpuTime(g.pid())-used).Milliseconds())/c.Time.Seconds())
	return nil
}

// report holds the figures of the rounds against what they must reach.
func (c *gateCmd) report(r *report, f *liveFigures) {
	medians := make(map[string]float64)
	for _, name := range f.names {
		medians[name] = r.add(name, f.units[name], f.samples[name]...)
	}
	r.atMost(fmt.Sprintf("%s at %g requests/s, p50, ms", addedFigure, c.Rate), medians[addedFigure+", p50"], 0.3)
	r.atMost(fmt.Sprintf("%s at %g requests/s, p99, ms", addedFigure, c.Rate), medians[addedFigure+", p99"], 2)
	r.atLeast(keyRatioFigure, medians[keyRatioFigure], 0.6)
	r.atLeast(cookieRatioFigure, medians[cookieRatioFigure], 0.6)
	r.atMost(fmt.Sprintf("%s, of %d, kB", gateStreamFigure, c.Streams), medians[gateStreamFigure], 60)
	r.atMost(stormFigure, medians[stormFigure], 3)
}

// gets makes requests for the upstream's page, with a header that names who asks on each connection.
func gets(host string, header func(conn int) string) func(buf []byte, conn, n int) []byte {
	return func(buf []byte, conn, _ int) []byte {
		buf = append(append(buf, "GET "+pagePath+" HTTP/1.1\r\nHost: "...), host...)
		buf = append(append(buf, "\r\n"...), header(conn)...)
		return append(buf, "\r\n\r\n"...)
	}
}
