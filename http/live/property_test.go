package live

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"millrace"
)

// Whatever writers, watchers, cut connections, lost rings, broken LISTEN connections and restarts do at the same time: every watcher of
// an order gets its versions 1..n, each once, and every watcher of many gets every version of every order, in order.
func TestEveryWatcherGetsEveryVersion(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	bell := newDoorbell(t, s)
	rapid.Check(t, func(r *rapid.T) {
		var lose sync.Map // orders whose rings are lost
		s.ring = func(order, customer uuid.UUID) {
			if _, lost := lose.Load(order); !lost {
				bell.Ring(order, customer)
			}
		}
		tiny := rapid.Bool().Draw(r, "tiny buffers")
		options := nodeOptions{configure: func(c *Config) {
			heartbeats(c)
			c.Sweep = 50 * time.Millisecond
			if tiny {
				c.Window, c.Buffer = 1, 2
			}
		}}
		nodes := &cluster{t: t, s: s, options: options}
		nodes.start()
		defer func() { nodes.current().stop() }()

		customers := []uuid.UUID{uuidNew(), uuidNew()}
		orders := make([]millrace.Ring, rapid.IntRange(2, 5).Draw(r, "orders"))
		writes := make([]int, len(orders)) // transactions for each
		size := rapid.IntRange(1, 4).Draw(r, "events a transaction")
		want := map[uuid.UUID]int32{}
		of := map[uuid.UUID]map[uuid.UUID]int32{customers[0]: {}, customers[1]: {}}
		for i := range orders {
			orders[i] = s.order(customers[i%2])
			writes[i] = rapid.IntRange(1, 15).Draw(r, "transactions")
			if rapid.IntRange(0, 3).Draw(r, "lose rings") == 0 {
				lose.Store(orders[i].OrderID, true)
			}
			want[orders[i].OrderID] = int32(writes[i] * size)
			of[orders[i].CustomerID][orders[i].OrderID] = want[orders[i].OrderID]
		}
		type watch struct {
			many bool
			of   uuid.UUID // order, or customer, or Nil
			cut  int       // events after which the client drops its connection, 0 for never
		}
		watches := []watch{{many: true}, {many: true, of: customers[0]}, {many: true, of: customers[1], cut: 3}}
		for i := range orders {
			watches = append(watches, watch{of: orders[i].OrderID, cut: rapid.IntRange(0, 4).Draw(r, "cut")})
		}
		faults := rapid.SliceOfN(rapid.SampledFrom([]string{"terminate", "restart"}), 0, 2).Draw(r, "faults")

		var watching, writing sync.WaitGroup
		errs := make(chan error, len(watches)+len(orders)+len(faults))
		var opened sync.WaitGroup
		for _, w := range watches {
			opened.Add(1)
			watching.Go(func() {
				expect := want
				if w.many && w.of != uuid.Nil {
					expect = of[w.of]
				} else if !w.many {
					expect = map[uuid.UUID]int32{w.of: want[w.of]}
				}
				errs <- follow(nodes, w.many, w.of, w.cut, expect, want, opened.Done)
			})
		}
		opened.Wait() // streams of many begin with now
		for i, o := range orders {
			writing.Go(func() {
				for range writes[i] {
					if err := s.write(t.Context(), o, size); err != nil {
						errs <- err
						return
					}
				}
			})
		}
		for _, f := range faults {
			if f == "restart" {
				nodes.current().stop()
				nodes.start()
			} else if _, err := s.pool.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE application_name IN ('millrace listener', 'millrace doorbell') AND datname = current_database()`); err != nil {
				errs <- err
			}
		}
		writing.Wait()
		watching.Wait()
		close(errs)
		for err := range errs {
			if err != nil {
				r.Error(err)
			}
		}
	})
}

// cluster is the node that clients reach, which may be replaced.
type cluster struct {
	t       *testing.T
	s       *store
	options nodeOptions
	mu      sync.Mutex
	node    *node
}

func (c *cluster) start() {
	n := newNode(c.t, c.s, c.options)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.node = n
}

func (c *cluster) current() *node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.node
}

var errDropped = errors.New("the client dropped the connection")

// follow watches until it has what is expected, coming back with Last-Event-ID whenever the stream breaks.
func follow(nodes *cluster, many bool, of uuid.UUID, cut int, expect, all map[uuid.UUID]int32, opened func()) error {
	l := newLedger()
	ctx, cancel := context.WithTimeout(nodes.t.Context(), patience)
	defer cancel()
	lastID := ""
	for !l.has(expect) {
		if ctx.Err() != nil {
			return fmt.Errorf("many=%v: have %v, want %v", many, l.versions, expect)
		}
		n := nodes.current()
		url := n.manyURL(of)
		if !many {
			url = n.orderURL(millrace.Ring{OrderID: of})
		}
		id, err := followOnce(ctx, n, url, lastID, cut, l, expect, all, &opened)
		cut *= 2 // a client that never stays for a whole transaction would see the same one again and again
		if id != "" {
			lastID = id
		}
		if _, hole := errors.AsType[holeError](err); hole {
			return fmt.Errorf("many=%v: %w", many, err)
		}
	}
	if !many && l.repeats > 0 {
		return fmt.Errorf("%d repeats on a stream of one order", l.repeats)
	}
	return nil
}

// holeError is a defect, where other errors are a reason to come back.
type holeError struct{ error }

func followOnce(ctx context.Context, n *node, url, lastID string, cut int, l *ledger, expect, all map[uuid.UUID]int32, opened *func()) (string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := n.server.Client().Do(r)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusBadRequest {
		return "", holeError{errors.New("the id of the last event was refused")}
	}
	c := newClient(n.t, resp)
	for events := 0; !l.has(expect); {
		b, err := c.next()
		if err != nil {
			return c.lastID, err
		}
		if *opened != nil && b.comment == "open" {
			(*opened)()
			*opened = nil
		}
		if b.data == "" {
			continue
		}
		if _, expected := expect[b.body.OrderID]; !expected {
			if _, foreign := all[b.body.OrderID]; foreign {
				return c.lastID, holeError{errors.New("another's event")}
			}
			continue // a cursor that an old transaction holds back may bring up orders of the checks before this one
		}
		if err := l.add(b); err != nil {
			return c.lastID, holeError{err}
		}
		if events++; events == cut {
			return c.lastID, errDropped
		}
	}
	return c.lastID, nil
}
