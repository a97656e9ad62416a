package live

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace"
)

// untilEnd reads a chunked body up to its end.
func untilEnd(t *testing.T, r *bufio.Reader) {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "0\r\n" {
			break
		}
	}
	if line, err := r.ReadString('\n'); err != nil || line != "\r\n" {
		t.Fatalf("after the last chunk: %q, %v", line, err)
	}
}

func quietNode(t *testing.T, s *store) *node {
	t.Helper()
	return newNode(t, s, nodeOptions{configure: func(c *Config) { c.HeartbeatMin, c.HeartbeatMax = time.Hour, time.Hour }})
}

// A handler that stayed would keep its stack and the request.
func TestHandlerReturnsWhileItsStreamGoesOn(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := quietNode(t, s)
	returned := make(chan struct{}, 2)
	inner := n.server.Config.Handler
	n.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(w, r)
		returned <- struct{}{}
	})
	o := s.order(uuidNew())
	one, many := n.open(n.orderURL(o)), n.open(n.manyURL(o.CustomerID))
	<-returned
	<-returned
	s.mustWrite(o, 3)
	one.wantVersions(1, 3)
	many.read(newLedger(), map[uuid.UUID]int32{o.OrderID: 3})
}

// No heartbeat comes to its aid.
func TestHangUpOfAQuietClientIsNoticed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	n := quietNode(t, s)
	o := s.order(uuidNew())
	conn := n.dial("/orders/" + o.OrderID.String() + "/stream")
	eventually(t, "the stream is there", func() bool { return n.hub.Stats().OrderStreams == 1 })
	conn.Close()
	eventually(t, "the stream is gone", func() bool { return n.hub.Stats().OrderStreams == 0 })
}

// What a client sends before its stream has ended is not read: it could be sent without an end. Nor is it taken for a request later.
func TestClientThatSendsMoreKeepsItsStreamAndLosesItsConnection(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := quietNode(t, s)
	o := s.order(uuidNew())
	path := "/orders/" + o.OrderID.String() + "/stream"
	next := "GET " + path + " HTTP/1.1\r\nHost: test\r\n\r\n"
	late := n.dial(path)
	if _, err := io.WriteString(late, next); err != nil {
		t.Fatal(err)
	}
	for name, conn := range map[string]net.Conn{"with its request": n.dial(path, "X: y\r\n\r\n"+strings.TrimSuffix(next, "\r\n\r\n")), "later": late} {
		r := bufio.NewReader(conn)
		s.mustWrite(o, 1)
		for {
			line, err := r.ReadString('\n')
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if strings.HasPrefix(line, "data: {") {
				break
			}
		}
		for _, c := range n.hub.open() {
			if c.out.taken.conn.RemoteAddr().String() == conn.LocalAddr().String() {
				c.finish()
			}
		}
		untilEnd(t, r)
		if rest, err := io.ReadAll(r); len(rest) > 0 {
			t.Errorf("%s: after the end: %q, %v", name, rest, err)
		}
	}
}

func TestConnectionEndsWithTheStream(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header string
		drain  bool
	}{
		"when the client asks for it": {header: "Connection: close"},
		"when the server drains":      {header: "X: y", drain: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			n := newNode(t, s, nodeOptions{deaf: true, configure: func(c *Config) { c.EndWhenFinal = true }})
			o := s.order(uuidNew())
			r := bufio.NewReader(n.dial("/orders/"+o.OrderID.String()+"/stream", c.header))
			if c.drain {
				if err := n.hub.Drain(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else if err := s.writeStatus(t.Context(), o, 1, millrace.OrderFailed); err != nil {
				t.Fatal(err)
			}
			untilEnd(t, r)
			if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("after the end: %v, want EOF", err)
			}
		})
	}
}

// Without chunks, the end of the connection ends the body; net/http sees to that.
func TestHTTP10GetsAStream(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := quietNode(t, s)
	o := s.order(uuidNew())
	conn, err := dialSmall(t.Context(), "tcp", n.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /orders/"+o.OrderID.String()+"/stream HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if len(resp.TransferEncoding) > 0 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("header %v, transfer encoding %v", resp.Header, resp.TransferEncoding)
	}
	s.mustWrite(o, 2)
	newClient(t, resp).wantVersions(1, 2)
}

// Within a request, net/http would contain a panic; outside of one, it would end the process.
func TestPanicEndsItsStreamAlone(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	var panicked atomic.Bool
	n := newNode(t, s, nodeOptions{configure: func(c *Config) {
		c.ObserveLag = func(time.Duration) {
			if panicked.CompareAndSwap(false, true) {
				panic("the test says so")
			}
		}
	}})
	o := s.order(uuidNew())
	one, other := n.open(n.manyURL(o.CustomerID)), n.open(n.manyURL(o.CustomerID))
	s.mustWrite(o, 1)
	eventually(t, "one of the streams is gone", func() bool { return n.hub.Stats().ManyStreams == 1 })
	s.mustWrite(o, 1)
	ended := 0
	for _, c := range []*client{one, other} {
		for want := int32(1); want <= 2; want++ {
			if b, err := c.event(); err != nil {
				ended++
				break
			} else if b.body.Version != want {
				t.Errorf("version %d, want %d", b.body.Version, want)
			}
		}
	}
	if ended != 1 {
		t.Errorf("%d streams ended, want the one that panicked", ended)
	}
}

// recorder is a connection that remembers what was written to it, call by call.
type recorder struct {
	net.Conn
	writes [][]byte
}

func (r *recorder) Write(p []byte) (int, error) {
	r.writes = append(r.writes, bytes.Clone(p))
	return len(p), nil
}

func TestBurstIsWrittenAsOneChunkAndItsBufferLetGo(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 15, 16, 255, 256, 4096, burstKept, 1 << 20} {
		r := &recorder{}
		c := &taken{conn: r}
		want := bytes.Repeat([]byte("x"), size)
		for part := range slices.Chunk(want, 1000) {
			c.collect(part)
		}
		if err := c.flush(); err != nil || len(r.writes) != 1 || c.burst != nil {
			t.Fatalf("%d bytes: %d writes, %v; buffer %v", size, len(r.writes), err, c.burst)
		}
		if err := c.flush(); err != nil || len(r.writes) != 1 {
			t.Errorf("%d writes, %v after a flush of nothing, which would end the body", len(r.writes), err)
		}
		got, err := io.ReadAll(httputil.NewChunkedReader(io.MultiReader(bytes.NewReader(r.writes[0]), strings.NewReader(chunkedEnd))))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
}
