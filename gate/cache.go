package gate

import (
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/singleflight"
)

// credentialHash is the SHA-256 of a session token or an API key.
type credentialHash = [sha256.Size]byte

// cacheTTL bounds how long a revoked credential can go on working when the news of its revocation is lost.
const cacheTTL = 4 * time.Second

// credentialCache remembers for a few seconds whom a credential belongs to, so that a busy client costs the database one
// query every few seconds. News of a revocation empties the entry at once.
type credentialCache struct {
	mu      sync.Mutex
	entries *simplelru.LRU[credentialHash, cacheEntry]
	epoch   uint64 // counts revocations: a load that began before one must not be stored after it
	flight  singleflight.Group
	now     func() time.Time
}

type cacheEntry struct {
	principal *Principal // nil: known to be bad
	until     time.Time
}

func newCredentialCache(size int) *credentialCache {
	entries, err := simplelru.NewLRU[credentialHash, cacheEntry](size, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &credentialCache{entries: entries, now: time.Now}
}

// get returns the principal of a credential, from memory or by load. Concurrent callers share one load.
func (c *credentialCache) get(ctx context.Context, hash credentialHash, load func(context.Context, credentialHash) (*Principal, error)) (*Principal, error) {
	now := c.now()
	c.mu.Lock()
	entry, ok := c.entries.Get(hash)
	epoch := c.epoch
	c.mu.Unlock()
	if ok && now.Before(entry.until) {
		if entry.principal == nil || !entry.principal.Expires.IsZero() && !now.Before(entry.principal.Expires) {
			return nil, errBadCredential
		}
		return entry.principal, nil
	}
	v, err, _ := c.flight.Do(string(hash[:]), func() (any, error) {
		// The load serves every waiting request, so one client that goes away must not fail the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		p, err := load(ctx, hash)
		if err != nil && !errors.Is(err, errBadCredential) {
			return nil, err
		}
		ttl := cacheTTL
		if p == nil {
			ttl = time.Second
		}
		c.mu.Lock()
		if c.epoch == epoch {
			c.entries.Add(hash, cacheEntry{principal: p, until: now.Add(ttl)})
		}
		c.mu.Unlock()
		return p, err
	})
	if err != nil {
		return nil, err
	}
	return v.(*Principal), nil
}

// forget drops every entry that the revocation concerns.
func (c *credentialCache) forget(r revocation) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for _, hash := range c.entries.Keys() {
		if entry, ok := c.entries.Peek(hash); ok && (entry.principal == nil || r.concerns(entry.principal)) {
			c.entries.Remove(hash)
		}
	}
}
