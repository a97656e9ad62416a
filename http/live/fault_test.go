package live

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace"
)

// dial opens a stream without a client's machinery: nothing reads but the test. The response's head and first block are read.
func (n *node) dial(path string, headers ...string) net.Conn {
	n.t.Helper()
	conn, err := dialSmall(n.t.Context(), "tcp", n.server.Listener.Addr().String())
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: test\r\n"+strings.Join(append(headers, "\r\n"), "\r\n")); err != nil {
		n.t.Fatal(err)
	}
	var head []byte
	for one := make([]byte, 1); !strings.HasSuffix(string(head), ": open\n"); {
		if _, err := conn.Read(one); err != nil {
			n.t.Fatalf("%v after %q", err, head)
		}
		head = append(head, one[0])
	}
	return conn
}

func TestStalledReaderIsClosedAndSlowsNobody(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{configure: func(c *Config) { c.SocketBuffer = 4 << 10 }})
	o := s.order(uuidNew())
	path := "/orders/" + o.OrderID.String() + "/stream"
	for range 3 {
		n.dial(path)
	}
	c := n.open(n.orderURL(o))
	var version int32
	// The stalled take what fits into the sockets, then their windows and queues fill, then they are cut; the reader gets each event.
	for n.hub.Stats().Overflows+n.hub.Stats().Stalled < 3 {
		s.mustWrite(o, 10)
		c.wantVersions(version+1, version+10)
		version += 10
	}
	eventually(t, "the stalled streams are gone", func() bool { return n.hub.Stats().OrderStreams == 1 })
	s.mustWrite(o, 1)
	c.wantVersions(version+1, version+1)
}

func TestClientThatTakesNothingIsClosedAtTheWriteDeadline(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{configure: func(c *Config) {
		c.SocketBuffer, c.WriteTimeout, c.ManyBuffer = 4<<10, 100*time.Millisecond, 1<<20
	}})
	o := s.order(uuidNew())
	n.dial("/stream?customer=" + o.CustomerID.String())
	for n.hub.Stats().Stalled == 0 {
		s.mustWrite(o, 100)
	}
	eventually(t, "the stream is gone", func() bool { return n.hub.Stats().ManyStreams == 0 })
	if got := n.hub.Stats().Overflows; got != 0 {
		t.Errorf("%d overflows: the queue was to take all", got)
	}
}

// The queue of a live stream overflows; what the client has not got by then it gets when it comes back.
func TestOverflowClosesTheStreamAndItResumes(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{configure: func(c *Config) { c.Window, c.Buffer, c.ManyBuffer = 8, 1, 256 }})
	o := s.order(uuidNew())
	// A stream of one order may be given up by its write deadline instead, if the client stopped before it had read the history.
	givenUp := func() uint64 { return n.hub.Stats().Overflows + n.hub.Stats().Stalled }
	for _, url := range []string{n.orderURL(o), n.manyURL(o.CustomerID)} {
		before := givenUp()
		var version int32
		c := n.open(url)
		for unread := 0; givenUp() == before; unread += 100 {
			if unread < 10_000 { // more than fits on the way to the client, and no more than is soon read again
				s.mustWrite(o, 100)
			}
			<-time.After(5 * time.Millisecond)
		}
		for {
			b, err := c.event()
			if err != nil {
				break
			}
			version = b.body.Version
		}
		var total int32
		if err := s.pool.QueryRow(t.Context(), `SELECT version FROM test_orders WHERE id = $1`, o.OrderID).Scan(&total); err != nil {
			t.Fatal(err)
		}
		headers := []string{"Last-Event-ID", c.lastID}
		c = n.open(url, headers...)
		l := newLedger()
		l.versions[o.OrderID] = version
		c.read(l, map[uuid.UUID]int32{o.OrderID: total})
		c.close()
	}
	if n.hub.Stats().Overflows == 0 {
		t.Error("no stream overflowed")
	}
}

func TestNoHoleWhenTheListenConnectionIsCutWhileEventsAreWritten(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	// Sweeps are out of the way: what rings missed must come from the reset.
	n := newNode(t, s, nodeOptions{configure: func(c *Config) { c.Sweep = time.Hour }})
	o := s.order(uuidNew())
	one, many := n.open(n.orderURL(o)), n.open(n.manyURL(o.CustomerID))
	l := newLedger()
	var version int32
	for round := range 5 {
		resets := n.hub.Stats().Resets
		var killed int
		if err := s.pool.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE application_name = 'millrace listener' AND datname = current_database()`).Scan(&killed); err != nil || killed != 1 {
			t.Fatalf("round %d: killed %d, %v", round, killed, err)
		}
		for range 20 {
			s.mustWrite(o, 1)
		}
		version += 20
		one.wantVersions(version-19, version)
		many.read(l, map[uuid.UUID]int32{o.OrderID: version})
		eventually(t, "the listener is back", func() bool { return n.hub.Stats().Resets > resets && n.listener.Healthy() })
	}
	if l.repeats != 0 {
		t.Errorf("%d repeats on a stream that never broke", l.repeats)
	}
}

func TestStreamsOutliveADatabaseThatCannotBeRead(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{})
	o := s.order(uuidNew())
	one, many := n.open(n.orderURL(o)), n.open(n.manyURL(o.CustomerID))
	many.close()
	s.failing.Store(true)
	s.mustWrite(o, 3)
	resumed := n.open(n.manyURL(o.CustomerID), "Last-Event-ID", many.lastID)
	eventually(t, "reads fail", func() bool { return n.hub.Stats().ReadErrors >= 3 })
	s.blind.Store(true)
	resp := n.get(n.manyURL(o.CustomerID))
	if resp.status != http.StatusServiceUnavailable || strings.Contains(resp.text, "the test says") {
		t.Errorf("a new stream without a watermark: %d: %s", resp.status, resp.text)
	}
	s.failing.Store(false)
	s.blind.Store(false)
	one.wantVersions(1, 3)
	resumed.read(newLedger(), map[uuid.UUID]int32{o.OrderID: 3})
}

func TestStreamsResumeAtAnotherNodeAfterARestart(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	first := newNode(t, s, nodeOptions{})
	o := s.order(uuidNew())
	s.mustWrite(o, 2)
	one, many := first.open(first.orderURL(o)), first.open(first.manyURL(o.CustomerID))
	one.wantVersions(1, 2)
	s.mustWrite(o, 1)
	one.wantVersions(3, 3)
	l := newLedger()
	l.versions[o.OrderID] = 2
	many.read(l, map[uuid.UUID]int32{o.OrderID: 3})
	first.stop()
	if _, err := one.event(); err == nil {
		t.Error("a stream outlived its node")
	}
	s.mustWrite(o, 2)
	second := newNode(t, s, nodeOptions{})
	one, many = second.open(second.orderURL(o), "Last-Event-ID", one.lastID), second.open(second.manyURL(o.CustomerID), "Last-Event-ID", many.lastID)
	one.wantVersions(4, 5)
	many.read(l, map[uuid.UUID]int32{o.OrderID: 5})
	s.mustWrite(o, 1)
	one.wantVersions(6, 6)
	many.read(l, map[uuid.UUID]int32{o.OrderID: 6})
}

func TestDrainEndsStreamsWithAHintAndLetsNobodyIn(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	n := newNode(t, s, nodeOptions{deaf: true})
	o := s.order(uuidNew())
	s.mustWrite(o, 2)
	s.settle()
	one, many := n.open(n.orderURL(o)), n.open(n.manyURL(o.CustomerID))
	one.wantVersions(1, 2)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := n.hub.Drain(ctx); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*client{"one": one, "many": many} {
		id := c.lastID
		b, err := c.next()
		if err != nil || b.comment != "reconnect" || b.retry == "" || b.id != id {
			t.Errorf("%s: last block %+v, %v; want a retry hint with id %q", name, b, err, id)
		}
		if b, err := c.next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: after the end: %+v, %v", name, b, err)
		}
	}
	resp := n.get(n.orderURL(o))
	if resp.status != http.StatusServiceUnavailable || resp.header.Get("Retry-After") == "" {
		t.Errorf("a new stream while draining: %d, Retry-After %q", resp.status, resp.header.Get("Retry-After"))
	}
	if err := n.hub.Drain(ctx); err != nil {
		t.Errorf("draining again: %v", err)
	}
}

func TestDrainCutsWhoeverDoesNotReadInTime(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{configure: func(c *Config) { c.SocketBuffer, c.ManyBuffer, c.WriteTimeout = 4<<10, 1<<20, time.Hour }})
	o := s.order(uuidNew())
	n.dial("/stream?customer=" + o.CustomerID.String())
	var before uint64
	for first := true; first || n.hub.Stats().Delivered != before; first = false { // until the socket takes no more
		before = n.hub.Stats().Delivered
		for range 20 {
			s.mustWrite(o, 100)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.hub.Drain(ctx); !errors.Is(err, context.Canceled) || !strings.Contains(fmt.Sprint(err), "1 streams") {
		t.Errorf("drain: %v", err)
	}
}

func TestOldStreamIsRotatedWithAHint(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{configure: func(c *Config) {
		heartbeats(c)
		c.RotateMin, c.RotateMax = 50*time.Millisecond, 100*time.Millisecond
	}})
	o := s.order(uuidNew())
	c := n.open(n.orderURL(o))
	beats := 0
	for {
		b, err := c.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		beats++
		if b.comment != "quiet" && b.comment != "reconnect" {
			t.Errorf("unexpected block %+v", b)
		}
	}
	if got := n.hub.Stats().Rotated; beats == 0 || got != 1 {
		t.Errorf("%d beats, %d rotated", beats, got)
	}
	s.mustWrite(o, 1)
	n.open(n.orderURL(o), "Last-Event-ID", "0").wantVersions(1, 1)
}

// A write deadline that is left on the response would end a stream that is merely quiet.
func TestQuietStreamOutlivesItsWriteDeadlines(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("http2=%v", http2), func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			newDoorbell(t, s)
			n := newNode(t, s, nodeOptions{http2: http2, configure: func(c *Config) {
				c.WriteTimeout = 200 * time.Millisecond
				c.HeartbeatMin, c.HeartbeatMax = 500*time.Millisecond, 600*time.Millisecond
			}})
			o := s.order(uuidNew())
			c := n.open(n.orderURL(o))
			if want := map[bool]int{false: 1, true: 2}[http2]; c.resp.ProtoMajor != want {
				t.Fatalf("HTTP/%d, want %d", c.resp.ProtoMajor, want)
			}
			for range 3 {
				if b, err := c.next(); err != nil || b.comment != "quiet" {
					t.Fatalf("%+v, %v", b, err)
				}
			}
			s.mustWrite(o, 1)
			c.wantVersions(1, 1)
		})
	}
}

// After a stream has ended, its connection serves the next request as any other.
func TestConnectionIsOfUseAfterAStream(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	n := newNode(t, s, nodeOptions{deaf: true, configure: func(c *Config) { c.EndWhenFinal, c.WriteTimeout = true, 50*time.Millisecond }})
	o := s.order(uuidNew())
	if err := s.writeStatus(t.Context(), o, 1, millrace.OrderFailed); err != nil {
		t.Fatal(err)
	}
	path := "/orders/" + o.OrderID.String() + "/stream"
	conn := n.dial(path)
	r := bufio.NewReader(conn)
	for i := range 3 {
		for { // the rest of the body
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
			if line == "0\r\n" {
				break
			}
		}
		if _, err := r.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		<-time.After(100 * time.Millisecond) // a deadline that was left would have passed
		if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: test\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLagIsObservedForLiveEventsOnly(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	var observed atomic.Int64
	n := newNode(t, s, nodeOptions{configure: func(c *Config) {
		c.ObserveLag = func(d time.Duration) {
			if d >= 0 && d < patience {
				observed.Add(1)
			}
		}
	}})
	o := s.order(uuidNew())
	s.mustWrite(o, 4)
	c := n.open(n.orderURL(o))
	c.wantVersions(1, 4)
	eventually(t, "history is read", func() bool {
		n.hub.mu.Lock()
		defer n.hub.mu.Unlock()
		return !n.hub.orders[o.OrderID].conns[0].behind
	})
	s.mustWrite(o, 2)
	c.wantVersions(5, 6)
	eventually(t, "two lags", func() bool { return observed.Load() == 2 })
}
