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

const (
	// cacheTTL bounds how long a revoked credential can go on working when the news of its revocation is lost.
	cacheTTL = 4 * time.Second
	// cacheRenew is the age at which an entry that is asked for is loaded anew, in the background: a busy client never waits.
	cacheRenew = 2 * time.Second
	// cacheBad is how long a credential that is not good is remembered.
	cacheBad = time.Second
)

type loadCredential func(context.Context, credentialHash) (*Principal, error)

// credentialCache remembers for a few seconds whom a credential belongs to, so that a busy client costs the database one
// query every few seconds. News of a revocation empties the entry at once.
type credentialCache struct {
	mu      sync.Mutex
	entries *simplelru.LRU[credentialHash, *cacheEntry]
	epoch   uint64 // counts revocations: a load that began before one must not be stored after it
	flight  singleflight.Group
	renewal sync.WaitGroup
	now     func() time.Time
}

type cacheEntry struct {
	principal *Principal // nil: known to be bad
	loaded    time.Time
	renewing  bool
}

func newCredentialCache(size int) *credentialCache {
	entries, err := simplelru.NewLRU[credentialHash, *cacheEntry](size, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &credentialCache{entries: entries, now: time.Now}
}

// close waits for what is being loaded in the background.
func (c *credentialCache) close() { c.renewal.Wait() }

// get returns the principal of a credential, from memory or by load. Concurrent callers share one load.
func (c *credentialCache) get(ctx context.Context, hash credentialHash, load loadCredential) (*Principal, error) {
	now := c.now()
	principal, known, renew := c.lookup(hash, now)
	if !known {
		return c.load(ctx, hash, load)
	}
	if renew {
		c.renewal.Go(func() {
			// Should it fail, whoever asks once the entry is too old learns why.
			_, _ = c.load(ctx, hash, load)
		})
	}
	if principal == nil || !principal.Expires.IsZero() && !now.Before(principal.Expires) {
		return nil, errBadCredential
	}
	return principal, nil
}

// lookup returns what is remembered, and whether the caller should see to it that it is loaded anew.
func (c *credentialCache) lookup(hash credentialHash, now time.Time) (p *Principal, known, renew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries.Get(hash)
	if !ok {
		return nil, false, false
	}
	age := now.Sub(e.loaded)
	if age >= cacheTTL || e.principal == nil && age >= cacheBad {
		return nil, false, false
	}
	renew = e.principal != nil && age >= cacheRenew && !e.renewing
	e.renewing = e.renewing || renew
	return e.principal, true, renew
}

func (c *credentialCache) load(ctx context.Context, hash credentialHash, load loadCredential) (*Principal, error) {
	v, err, _ := c.flight.Do(string(hash[:]), func() (any, error) {
		// The load serves every waiting request, so one client that goes away must not fail the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		c.mu.Lock()
		epoch, started := c.epoch, c.now()
		c.mu.Unlock()
		p, err := load(ctx, hash)
		c.mu.Lock()
		defer c.mu.Unlock()
		if err != nil && !errors.Is(err, errBadCredential) {
			if e, ok := c.entries.Peek(hash); ok {
				e.renewing = false
			}
			return nil, err
		}
		if c.epoch == epoch {
			c.entries.Add(hash, &cacheEntry{principal: p, loaded: started})
		} else {
			c.entries.Remove(hash)
		}
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
		if e, ok := c.entries.Peek(hash); ok && (e.principal == nil || r.concerns(e.principal)) {
			c.entries.Remove(hash)
		}
	}
}
