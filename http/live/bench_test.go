package live

import (
	"context"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"millrace"
)

func BenchmarkEncode(b *testing.B) {
	e := &millrace.Event{OrderID: uuidNew(), Version: 7, Type: millrace.EventPaymentAuthorized, Status: millrace.OrderProcessing,
		PaymentStatus: millrace.PaymentAuthorized, FulfillmentStatus: millrace.FulfillmentUnfulfilled, At: time.Now(),
		Data: []byte(`{"amount_minor": 4200, "currency": "EUR", "reference": "sim_0123456789"}`)}
	b.ReportAllocs()
	for b.Loop() {
		(&encoder{event: e}).forOrder()
	}
}

// memory is a Source without a database, so that a benchmark shows the hub alone.
type memory struct {
	mu     sync.Mutex
	orders map[uuid.UUID][]millrace.Event
}

func (m *memory) EventsAfter(_ context.Context, cursors []millrace.EventCursor, limitEach int) (events []millrace.Event, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range cursors {
		rest := m.orders[c.OrderID]
		rest = rest[min(int(c.After), len(rest)):]
		events = append(events, rest[:min(limitEach, len(rest))]...)
	}
	return events, nil
}

func (m *memory) Watermark(context.Context) (int64, error) { return 1, nil }

func (m *memory) CustomerEventsSince(context.Context, uuid.UUID, int64, millrace.EventPosition, int) ([]millrace.Event, error) {
	return nil, nil
}

func (m *memory) write(r millrace.Ring) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.orders[r.OrderID] = append(m.orders[r.OrderID], millrace.Event{OrderID: r.OrderID, CustomerID: r.CustomerID, Tx: 1,
		Version: int32(len(m.orders[r.OrderID])) + 1, Type: millrace.EventStockReserved, Status: millrace.OrderProcessing,
		PaymentStatus: millrace.PaymentUnpaid, FulfillmentStatus: millrace.FulfillmentUnfulfilled, Data: []byte(`{"n": 1}`), At: time.Now()})
}

// nowhere is a response that costs nothing to write.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header              { return n.header }
func (n *nowhere) WriteHeader(int)                  {}
func (n *nowhere) Write(p []byte) (int, error)      { return len(p), nil }
func (n *nowhere) FlushError() error                { return nil }
func (n *nowhere) SetWriteDeadline(time.Time) error { return nil }
func (n *nowhere) SetReadDeadline(time.Time) error  { return nil }

// BenchmarkFanOut delivers one event to each of 1000 streams, through the hub and r3labs/sse, to nowhere.
func BenchmarkFanOut(b *testing.B) {
	for name, orders := range map[string]int{"1 order x 1000 watchers": 1, "1000 orders x 1 watcher": 1000} {
		b.Run(name, func(b *testing.B) {
			const streams = 1000
			m := &memory{orders: make(map[uuid.UUID][]millrace.Event)}
			var delivered atomic.Int64
			var want int64
			round := make(chan struct{}, 1)
			h := NewHub(Config{Source: m, MaxPerSubject: streams, MaxPerAddr: streams, ObserveLag: func(time.Duration) {
				if delivered.Add(1)%streams == 0 {
					round <- struct{}{}
				}
			}})
			ctx, cancel := context.WithCancel(b.Context())
			var running sync.WaitGroup
			running.Go(func() { _ = h.Run(ctx) })
			defer running.Wait()
			defer cancel()
			rings := make([]millrace.Ring, orders)
			for i := range rings {
				rings[i] = millrace.Ring{OrderID: uuidNew(), CustomerID: uuidNew()}
			}
			for i := range streams {
				running.Go(func() {
					r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "/", nil)
					r.ProtoMajor = 1
					h.ServeOrder(&nowhere{header: make(http.Header)}, r, Viewer{}, &millrace.Order{ID: rings[i%orders].OrderID})
				})
			}
			eventually(b, "all are live", func() bool {
				h.mu.Lock()
				defer h.mu.Unlock()
				live := 0
				for c := range h.conns {
					if !c.behind {
						live++
					}
				}
				return live == streams
			})
			b.ReportAllocs()
			for b.Loop() {
				for _, r := range rings {
					m.write(r)
				}
				h.Rung(rings...)
				<-round
				want += streams
			}
			b.ReportMetric(float64(want)/b.Elapsed().Seconds(), "deliveries/s")
		})
	}
}

// BenchmarkCommitToClient is one event from its commit, over the doorbell's NOTIFY and a socket, to a client.
func BenchmarkCommitToClient(b *testing.B) {
	s := newStore(b)
	newDoorbell(b, s)
	n := newNode(b, s, nodeOptions{})
	o := s.order(uuidNew())
	c := n.open(n.orderURL(o))
	var total time.Duration
	for b.Loop() {
		s.mustWrite(o, 1)
		committed := time.Now()
		if _, err := c.event(); err != nil {
			b.Fatal(err)
		}
		total += time.Since(committed)
	}
	b.ReportMetric(float64(total.Microseconds())/float64(b.N), "µs/commit-to-client")
}

// BenchmarkIdleStreams opens streams over TCP and shows what one costs this process, both ends of the sockets included.
func BenchmarkIdleStreams(b *testing.B) {
	s := newStore(b)
	const streams = 4000
	n := newNode(b, s, nodeOptions{configure: func(c *Config) { c.MaxPerSubject, c.MaxPerAddr = 2*streams, 2*streams }})
	o := s.order(uuidNew())
	s.mustWrite(o, 7)
	for b.Loop() {
		before, rss := usage(), resident(b)
		goroutines := runtime.NumGoroutine()
		var open []net.Conn
		for i := range streams {
			path := "/orders/" + o.OrderID.String() + "/stream"
			if i%4 == 0 {
				path = "/stream?customer=" + o.CustomerID.String()
			}
			open = append(open, n.dial(path))
		}
		b.ReportMetric((usage()-before)/streams, "B/stream")
		b.ReportMetric((resident(b)-rss)/streams, "RSS-B/stream")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/streams, "goroutines/stream")
		for _, c := range open {
			c.Close()
		}
		eventually(b, "all are gone", func() bool { s := n.hub.Stats(); return s.OrderStreams+s.ManyStreams == 0 })
	}
}

func usage() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}

// resident is the process' resident memory, 0 where the system does not tell.
func resident(b *testing.B) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	pages, err := strconv.Atoi(strings.Fields(string(status))[1])
	if err != nil {
		b.Fatal(err)
	}
	return float64(pages * os.Getpagesize())
}
