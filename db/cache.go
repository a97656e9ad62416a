package db

import "sync"

// cache remembers values by key. It holds two generations of at most maxCached each, so that what is in use stays and memory is
// bounded. The zero value is empty and ready; it is safe for concurrent use.
type cache[K comparable, V any] struct {
	mu              sync.Mutex
	young, previous map[K]V
}

const maxCached = 10_000

func (c *cache[K, V]) get(key K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.young[key]
	if ok {
		return v, true
	}
	if v, ok = c.previous[key]; ok {
		c.store(key, v)
	}
	return v, ok
}

func (c *cache[K, V]) put(key K, value V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store(key, value)
}

func (c *cache[K, V]) store(key K, value V) {
	if len(c.young) >= maxCached || c.young == nil {
		c.previous, c.young = c.young, make(map[K]V)
	}
	c.young[key] = value
}
