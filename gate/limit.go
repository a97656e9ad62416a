package gate

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// What a rate is counted by.
const (
	byAddress = "address"
	byAccount = "account"
)

// maxTracked bounds how many clients one limiter remembers; the least recently seen is forgotten first.
const maxTracked = 50_000

// limiter counts the requests of each client in this process. A nil limiter lets everything pass.
type limiter struct {
	name     string
	requests int
	per      time.Duration
	burst    int

	mu      sync.Mutex
	clients *simplelru.LRU[string, *rate.Limiter]
}

func newLimiter(name string, r Rate) *limiter {
	if r.Requests <= 0 {
		return nil
	}
	clients, err := simplelru.NewLRU[string, *rate.Limiter](maxTracked, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &limiter{name: name, requests: r.Requests, per: max(time.Duration(r.Per), time.Millisecond), burst: max(r.Burst, 1), clients: clients}
}

// quota is what is left for a client after a request was counted.
type quota struct {
	limiter   *limiter
	remaining int
	wait      time.Duration // until the next request may come; zero: at once
}

// take counts one request of the client named key, and reports false if it is one too many.
func (l *limiter) take(key string, now time.Time) (quota, bool) {
	if l == nil {
		return quota{}, true
	}
	l.mu.Lock()
	c, ok := l.clients.Get(key)
	if !ok {
		c = rate.NewLimiter(rate.Limit(float64(l.requests)/l.per.Seconds()), l.burst)
		l.clients.Add(key, c)
	}
	l.mu.Unlock()
	allowed := c.AllowN(now, 1)
	tokens := c.TokensAt(now)
	q := quota{limiter: l, remaining: max(int(tokens), 0)}
	if tokens < 1 {
		q.wait = time.Duration((1 - tokens) / float64(c.Limit()) * float64(time.Second))
	}
	return q, allowed
}

// tighter returns whichever quota has less left.
func (q quota) tighter(other quota) quota {
	if q.limiter == nil || other.limiter != nil && other.remaining < q.remaining {
		return other
	}
	return q
}

// write tells the client its quota in the form of draft-ietf-httpapi-ratelimit-headers.
func (q quota) write(h http.Header) {
	if q.limiter == nil {
		return
	}
	window := max(int(q.limiter.per.Seconds()), 1)
	h.Set("RateLimit-Policy", fmt.Sprintf(`%q;q=%d;w=%d`, q.limiter.name, q.limiter.requests, window))
	h.Set("RateLimit", `"`+q.limiter.name+`";r=`+strconv.Itoa(q.remaining)+`;t=`+strconv.Itoa(int((q.wait+time.Second-1)/time.Second)))
}

// addressKey is what an address is counted by: an IPv6 client usually owns a whole /64.
func addressKey(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.String()
		}
	}
	return a.String()
}
