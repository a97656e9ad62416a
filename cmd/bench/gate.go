package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

type gateCmd struct {
	commonFlags
	Rate        float64       `default:"1000" help:"Requests a second at which latencies are compared."`
	Connections int           `default:"32" help:"Connections that send requests."`
	Streams     int           `default:"10000" help:"Idle streams to open through the gate: as many of them as it may open files for, two each."`
	Quiet       time.Duration `default:"15s" help:"How long idle streams are left alone before they are measured; each gets a heartbeat every 10s, the first sooner."`
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
	postFigure        = "gate by a cached key, small posts"
	gateStreamFigure  = "memory of a proxied idle stream (gate RSS)"
	stormFigure       = "p99 during the storm of logins, against before"
)

// Run measures.
func (c *gateCmd) Run(ctx context.Context, stdio stdio) (err error) {
	b, err := c.newBed(ctx, stdio, (3*turns+9)*c.Rounds+1)
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
		if err := s.withGate(ctx, b, 0, func(g *gateServer) (err error) {
			one := gateRound{gateCmd: c, b: b, s: s, g: g, name: fmt.Sprintf("round %d", round+1), f: f}
			if one.cookies, err = s.logIn(ctx, g); err != nil {
				return err
			}
			if err := one.latencies(ctx); err != nil {
				return err
			}
			return one.throughput(ctx)
		}); err != nil {
			return nil, err
		}
		if err := s.withGate(ctx, b, millraceReuse, func(g *gateServer) error {
			one := gateRound{gateCmd: c, b: b, s: s, g: g, name: fmt.Sprintf("round %d", round+1), f: f}
			_, err := one.rate(ctx, "gate by a cached key, tokens shared", g.addr, g.pid(), gets(g.addr, one.byKey))
			return err
		}); err != nil {
			return nil, err
		}
		// A gate of their own: memory that requests left behind would hide what streams take.
		b.step("round %d: %d idle streams", round+1, c.Streams)
		if err := s.withGate(ctx, b, 0, func(g *gateServer) error { return c.idle(ctx, g, f) }); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// gateRound is a round on a gate that has served nothing yet.
type gateRound struct {
	*gateCmd
	b       *bed
	s       *gateStage
	g       *gateServer
	name    string
	f       *liveFigures
	cookies []string // of sessions
}

func (c gateRound) byKey(conn int) string {
	return "Authorization: Bearer " + c.g.keys[conn%len(c.g.keys)]
}

func (c gateRound) byCookie(conn int) string { return "Cookie: " + c.cookies[conn%len(c.cookies)] }

// byBoth has every other connection ask by key, the rest by session.
func (c gateRound) byBoth(conn int) string {
	if conn%2 == 0 {
		return c.byKey(conn / 2)
	}
	return c.byCookie(conn / 2)
}

// send sends a load and returns its answers and the processor time that a process took meanwhile.
func (c gateRound) send(ctx context.Context, name string, pid int, l load) (answers, time.Duration, error) {
	c.b.step("%s: %s", c.name, name)
	l.conns = c.Connections
	var u usage
	also := l.during
	l.during = func(ctx context.Context) (err error) {
		var wg sync.WaitGroup
		var alsoErr error
		if also != nil {
			wg.Go(func() { alsoErr = also(ctx) })
		}
		u, err = usageOver(ctx, nil, l.time, map[string][]int{"server": {pid}})
		wg.Wait()
		return errors.Join(err, alsoErr)
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

// turns is how often what latencies compares takes its turn in a round: what else the machine does then falls on each alike.
const turns = 5

func newLatencies() *hdrhistogram.Histogram { return hdrhistogram.New(1, 120_000_000, 3) } // microseconds, as those of a load

// latencies measures requests at a rate: straight to the upstream, through a bare proxy, through the gate, and there once more while
// many log in.
func (c gateRound) latencies(ctx context.Context) error {
	at := fmt.Sprintf(" at %g requests/s", c.Rate)
	ways := []struct {
		name string
		to   *process
		addr string
		took *hdrhistogram.Histogram
	}{
		{"upstream alone" + at, c.s.upstream.process, c.s.upstream.addr, newLatencies()},
		{"bare proxy" + at, c.s.bare.process, c.s.bare.addr, newLatencies()},
		{"gate" + at, c.g.process, c.g.addr, newLatencies()},
	}
	for range turns {
		for _, w := range ways {
			a, _, err := c.send(ctx, w.name, w.to.pid(), load{addr: w.addr, rate: c.Rate, request: gets(w.addr, c.byBoth), warm: 500 * time.Millisecond, time: c.Time / turns})
			if err != nil {
				return err
			}
			w.took.Merge(a.latencies)
		}
	}
	var p50, p99 [3]float64
	for i, w := range ways {
		p50[i], p99[i] = float64(w.took.ValueAtQuantile(50))/1000, c.f.noteLag(w.name, w.took)
	}
	c.f.note("added by a bare proxy, p50", "ms", p50[1]-p50[0])
	c.f.note("added by a bare proxy, p99", "ms", p99[1]-p99[0])
	c.f.note(addedFigure+", p50", "ms", p50[2]-p50[0])
	c.f.note(addedFigure+", p99", "ms", p99[2]-p99[0])

	var stormed logins
	const inStorm = ", in a storm of logins"
	l := load{addr: c.g.addr, rate: c.Rate, request: gets(c.g.addr, c.byBoth), warm: 2 * time.Second, time: c.Time}
	l.during = func(ctx context.Context) (err error) {
		stormed, err = c.s.storm(ctx, c.g, c.Time)
		return err
	}
	a, _, err := c.send(ctx, "gate"+at+inStorm, c.g.pid(), l)
	if err != nil {
		return err
	}
	c.f.note(stormFigure, "times", c.f.noteLag("gate"+at+inStorm, a.latencies)/p99[2])
	c.f.note("passwords checked in the storm", "1/s", float64(stormed.in+stormed.refused)/stormed.took.Seconds())
	c.f.note("logins in the storm turned away as too many to check", "1/s", float64(stormed.busy)/stormed.took.Seconds())
	return nil
}

// rate measures how many requests are answered when each connection sends the next after an answer.
func (c gateRound) rate(ctx context.Context, name, addr string, pid int, request func(buf []byte, conn, n int) []byte) (float64, error) {
	a, cpu, err := c.send(ctx, name, pid, load{addr: addr, request: request, warm: 2 * time.Second, time: c.Time})
	if err != nil {
		return 0, err
	}
	c.f.note(name, "requests/s", a.perSecond())
	c.f.note(name+", its processor time a request", "us", float64(cpu.Microseconds())/float64(a.accepted))
	return a.perSecond(), nil
}

// throughput measures how many requests bare proxies and the gate answer.
func (c gateRound) throughput(ctx context.Context) error {
	bare, err := c.rate(ctx, "bare proxy", c.s.bare.addr, c.s.bare.pid(), gets(c.s.bare.addr, c.byKey))
	if err != nil {
		return err
	}
	pooled, err := c.rate(ctx, "bare proxy that uses buffers again", c.s.pooled.addr, c.s.pooled.pid(), gets(c.s.pooled.addr, c.byKey))
	if err != nil {
		return err
	}
	key, err := c.rate(ctx, "gate by a cached key", c.g.addr, c.g.pid(), gets(c.g.addr, c.byKey))
	if err != nil {
		return err
	}
	cookie, err := c.rate(ctx, "gate by a cached session", c.g.addr, c.g.pid(), gets(c.g.addr, c.byCookie))
	if err != nil {
		return err
	}
	if _, err := c.rate(ctx, "bare proxy that uses buffers again, small posts", c.s.pooled.addr, c.s.pooled.pid(), posts(c.s.pooled.addr, c.byKey)); err != nil {
		return err
	}
	if _, err := c.rate(ctx, postFigure, c.g.addr, c.g.pid(), posts(c.g.addr, c.byKey)); err != nil {
		return err
	}
	c.f.note(keyRatioFigure, "times", key/bare)
	c.f.note(cookieRatioFigure, "times", cookie/bare)
	c.f.note("gate by a cached key, against one that uses buffers again", "times", key/pooled)
	c.f.note("gate by a cached session, against one that uses buffers again", "times", cookie/pooled)
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

// posts makes requests with a body of the size of an order, as gets makes those without one.
func posts(host string, header func(conn int) string) func(buf []byte, conn, n int) []byte {
	body := `{"text":"` + strings.Repeat("a", postSize-len(`{"text":""}`)) + `"}`
	head := "POST " + pagePath + " HTTP/1.1\r\nHost: " + host + "\r\nContent-Type: application/json\r\nContent-Length: " + itoa(len(body)) + "\r\n"
	return func(buf []byte, conn, _ int) []byte {
		buf = append(append(buf, head...), header(conn)...)
		return append(append(buf, "\r\n\r\n"...), body...)
	}
}

// gets makes requests for the upstream's page, with a header that names who asks on each connection.
func gets(host string, header func(conn int) string) func(buf []byte, conn, n int) []byte {
	return func(buf []byte, conn, _ int) []byte {
		buf = append(append(buf, "GET "+pagePath+" HTTP/1.1\r\nHost: "...), host...)
		buf = append(append(buf, "\r\n"...), header(conn)...)
		return append(buf, "\r\n\r\n"...)
	}
}
