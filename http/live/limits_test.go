package live

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

func TestStreamsPastALimitAreRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		limit       func(*Config)
		first, same []string // viewers of the stream that is open, and of one that is over the limit
		other       []string // of one that is not
		says        string
	}{
		"for one subject": {
			limit: func(c *Config) { c.MaxPerSubject = 2 },
			first: []string{"Subject", "a", "Addr", "1"}, same: []string{"Subject", "a", "Addr", "2"}, other: []string{"Subject", "b", "Addr", "1"},
			says: "You have 2 open streams",
		},
		"from one address": {
			limit: func(c *Config) { c.MaxPerAddr = 2 },
			first: []string{"Subject", "a", "Addr", "1"}, same: []string{"Subject", "b", "Addr", "1"}, other: []string{"Subject", "a", "Addr", "2"},
			says: "There are 2 open streams from your address",
		},
		"in one process": {
			limit: func(c *Config) { c.MaxStreams = 2 },
			first: []string{"Subject", "a", "Addr", "1"}, same: []string{"Subject", "b", "Addr", "2"},
			says: "as many open streams as it can take",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			n := newNode(t, s, nodeOptions{deaf: true, configure: c.limit})
			o := s.order(uuidNew())
			held := n.open(n.orderURL(o), c.first...)
			n.open(n.manyURL(o.CustomerID), c.first...)
			resp := n.get(n.orderURL(o), c.same...)
			var problem struct{ Code, Detail string }
			if err := json.Unmarshal([]byte(resp.text), &problem); err != nil {
				t.Fatalf("%v: %s", err, resp.text)
			}
			if resp.status != http.StatusServiceUnavailable || problem.Code != "busy" || !strings.Contains(problem.Detail, c.says) {
				t.Errorf("%d: %s", resp.status, resp.text)
			}
			if after, err := strconv.Atoi(resp.header.Get("Retry-After")); err != nil || after < 1 {
				t.Errorf("Retry-After: %q", resp.header.Get("Retry-After"))
			}
			if c.other != nil {
				n.open(n.orderURL(o), c.other...)
			}
			held.close()
			eventually(t, "a place is free again", func() bool {
				n.hub.limits.mu.Lock()
				defer n.hub.limits.mu.Unlock()
				open := 1
				if c.other != nil {
					open = 2
				}
				return n.hub.limits.open == open
			})
			n.open(n.orderURL(o), c.same...)
		})
	}
}

// It counts the goroutines of its process, so it is not parallel.
func TestIdleStreamCostsFourGoroutines(t *testing.T) { //nolint:paralleltest // as said
	s := newStore(t)
	n := newNode(t, s, nodeOptions{deaf: true})
	o := s.order(uuidNew())
	one, many := "/orders/"+o.OrderID.String()+"/stream", "/stream?customer="+o.CustomerID.String()
	n.dial(one, "Subject: warm")
	const streams = 100
	before := runtime.NumGoroutine()
	for i := range streams {
		path := one
		if i%2 == 0 {
			path = many
		}
		n.dial(path, "Subject: "+strconv.Itoa(i))
	}
	eventually(t, "four goroutines a stream", func() bool { return runtime.NumGoroutine()-before <= 4*streams })
}
