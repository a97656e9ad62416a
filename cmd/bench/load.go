package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// load is requests to send over connections that stay open. It shares the machine with what it measures, so it does little: requests
// are bytes made ahead, and of an answer only the status and the length are read.
type load struct {
	addr  string
	conns int
	// rate is the requests to send a second, whatever becomes of them: latencies then count from when a request was due. 0 sends the
	// next on each connection as soon as the last was answered.
	rate float64
	// patience is how late a request may be sent; one that is later, since all connections were busy, is left out. 0: any.
	patience   time.Duration
	warm, time time.Duration // before and while answers count
	// request appends the nth request of a connection to buf.
	request func(buf []byte, conn, n int) []byte
	// during, if set, runs while answers count.
	during func(ctx context.Context) error
}

// answers is what came of a load while answers counted.
type answers struct {
	took      time.Duration
	accepted  int64 // 2xx
	refused   int64 // 503 with a Retry-After
	leftOut   int64 // due while all connections were busy
	latencies *hdrhistogram.Histogram
}

// perSecond is how many requests were accepted a second.
func (a answers) perSecond() float64 { return float64(a.accepted) / a.took.Seconds() }

// quantile is a latency of accepted requests in milliseconds.
func (a answers) quantile(q float64) float64 {
	return float64(a.latencies.ValueAtQuantile(q)) / 1000
}

// generator is a load under way.
type generator struct {
	load
	begun    time.Time // when the first request is due
	next     atomic.Int64
	counting atomic.Bool
	mu       sync.Mutex
	answers  answers
}

// run sends the load. Any answer but 2xx and a proper 503, and any broken connection, is an error that ends it.
func (l load) run(ctx context.Context) (answers, error) {
	g := &generator{load: l, answers: answers{latencies: hdrhistogram.New(1, 120_000_000, 3)}} // microseconds
	sending, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	conns, err := g.dial(ctx)
	if err != nil {
		return answers{}, err
	}
	g.begun = time.Now()
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			defer c.Close()
			if err := g.drive(sending, i, c); err != nil {
				stop(err)
			}
		})
	}
	err = g.count(sending)
	stop(nil)
	// A request under way is answered soon or its connection is cut.
	deadline := time.Now().Add(10 * time.Second)
	for _, c := range conns {
		_ = c.SetDeadline(deadline) // of one that is closed already
	}
	wg.Wait()
	return g.answers, err
}

func (l load) dial(ctx context.Context) (conns []net.Conn, err error) {
	dialer := net.Dialer{Timeout: 10 * time.Second}
	for range l.conns {
		c, err := dialer.DialContext(ctx, "tcp", l.addr)
		if err != nil {
			for _, c := range conns {
				_ = c.Close() // the error that led here is the one to report
			}
			return nil, err
		}
		conns = append(conns, c)
	}
	return conns, nil
}

// count lets answers count for a while after the warm-up.
func (g *generator) count(ctx context.Context) error {
	if err := sleep(ctx, g.warm); err != nil {
		return context.Cause(ctx)
	}
	g.counting.Store(true)
	begun := time.Now()
	errs := make(chan error, 1)
	if g.during != nil {
		go func() { errs <- g.during(ctx) }()
	} else {
		errs <- nil
	}
	err := sleep(ctx, g.time)
	g.counting.Store(false)
	g.answers.took = time.Since(begun)
	if err != nil {
		err = context.Cause(ctx)
	}
	return errors.Join(err, <-errs)
}

// drive sends requests over a connection until ctx ends.
func (g *generator) drive(ctx context.Context, conn int, c net.Conn) error {
	in := bufio.NewReaderSize(c, 2048)
	var buf []byte
	for n := 0; ctx.Err() == nil; n++ {
		due := time.Now()
		if g.rate > 0 {
			var ok bool
			if due, ok = g.await(ctx); !ok {
				return nil
			}
		}
		buf = g.request(buf[:0], conn, n)
		_ = c.SetDeadline(time.Now().Add(30 * time.Second)) // a closed connection says so at the write
		if _, err := c.Write(buf); err != nil {
			return g.broken(ctx, err)
		}
		a, err := readAnswer(in)
		if err != nil {
			return g.broken(ctx, err)
		}
		if err := g.note(a, time.Since(due)); err != nil {
			return err
		}
	}
	return nil
}

// broken is the error of a connection that broke, none once the load has ended.
func (g *generator) broken(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return fmt.Errorf("connection to %s: %w", g.addr, err)
	}
	return nil
}

// await waits until the next request is due, and says when that was.
func (g *generator) await(ctx context.Context) (due time.Time, ok bool) {
	for {
		n := g.next.Add(1) - 1
		due = g.begun.Add(time.Duration(float64(n) / g.rate * float64(time.Second)))
		wait := time.Until(due)
		if g.patience > 0 && wait < -g.patience {
			g.skip(n)
			continue
		}
		return due, wait <= 0 || sleep(ctx, wait) == nil
	}
}

// skip leaves out the requests that are too late by now.
func (g *generator) skip(n int64) {
	now := int64((time.Since(g.begun) - g.patience).Seconds() * g.rate)
	left := int64(1)
	if now > n+1 && g.next.CompareAndSwap(n+1, now) {
		left = now - n
	}
	if g.counting.Load() {
		g.mu.Lock()
		g.answers.leftOut += left
		g.mu.Unlock()
	}
}

func (g *generator) note(a answer, latency time.Duration) error {
	accepted, refused := a.status/100 == 2, a.status == 503 && a.retryAfter
	if !accepted && !refused {
		return fmt.Errorf("%s answered %d: %s", g.addr, a.status, a.body)
	}
	if !g.counting.Load() {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if refused {
		g.answers.refused++
		return nil
	}
	g.answers.accepted++
	return g.answers.latencies.RecordValue(latency.Microseconds())
}

// answer is what was read of an HTTP/1.1 response. body is only kept of those that are not 2xx.
type answer struct {
	status     int
	retryAfter bool
	body       []byte
}

// maxBody bounds the body of an answer, maxHeader the number of its header's lines.
const (
	maxBody   = 1 << 20
	maxHeader = 100
)

var (
	contentLength = []byte("content-length")
	retryAfter    = []byte("retry-after")
)

// readAnswer reads a response whose length its header tells.
func readAnswer(in *bufio.Reader) (answer, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return answer{}, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return answer{}, fmt.Errorf("not a response: %q", line)
	}
	var a answer
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return answer{}, fmt.Errorf("not a status: %q", line)
	}
	length := -1
	for n := 0; ; n++ {
		if line, err = in.ReadSlice('\n'); err != nil {
			return answer{}, err
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			break
		}
		if n == maxHeader {
			return answer{}, errors.New("a response with too long a header")
		}
		key, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(key, contentLength):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil || length < 0 {
				return answer{}, fmt.Errorf("not a length: %q", value)
			}
		case bytes.EqualFold(key, retryAfter):
			a.retryAfter = true
		}
	}
	if length < 0 || length > maxBody {
		return answer{}, fmt.Errorf("status %d with a body of no length, or of one over %d bytes", a.status, maxBody)
	}
	if a.status/100 == 2 {
		_, err = in.Discard(length)
		return a, err
	}
	a.body = make([]byte, length)
	_, err = io.ReadFull(in, a.body)
	return a, err
}
