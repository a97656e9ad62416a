package identity

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxJWKS  = 64 << 10  // bytes of a key set that are read
	maxStale = time.Hour // how long keys are trusted that cannot be refreshed
)

// keySet caches the gate's public keys. Readers take no lock while the keys are fresh; one caller at a time fetches.
type keySet struct {
	cfg     Config
	current atomic.Pointer[fetchedKeys]

	mu          sync.Mutex // held during a fetch
	lastAttempt time.Time
	lastErr     error
}

type fetchedKeys struct {
	at   time.Time
	byID map[string]ed25519.PublicKey
}

// find returns the key named kid, fetching the set when kid is unknown or the set is old, at a bounded rate.
func (s *keySet) find(ctx context.Context, kid string) (ed25519.PublicKey, error) {
	if key, fresh := s.lookup(kid); key != nil && fresh {
		return key, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key, fresh := s.lookup(kid) // another caller may have fetched meanwhile
	if key != nil && fresh {
		return key, nil
	}
	now := s.cfg.Now()
	if s.lastAttempt.IsZero() || now.Sub(s.lastAttempt) >= s.cfg.RefetchInterval {
		s.lastAttempt = now
		// The fetch serves every waiting request, so one impatient client must not cut it short.
		s.lastErr = s.fetch(context.WithoutCancel(ctx))
		key, _ = s.lookup(kid)
	}
	if key != nil {
		return key, nil
	}
	if s.lastErr != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, s.lastErr)
	}
	return nil, fmt.Errorf("%w: unknown key", ErrInvalid)
}

// lookup returns the key, nil if it is unknown or too old to trust, and whether the set needs no refresh.
func (s *keySet) lookup(kid string) (key ed25519.PublicKey, fresh bool) {
	set := s.current.Load()
	if set == nil {
		return nil, false
	}
	age := s.cfg.Now().Sub(set.at)
	if age > maxStale {
		return nil, false
	}
	return set.byID[kid], age <= s.cfg.RefreshAfter
}

func (s *keySet) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.JWKSURL, nil)
	if err != nil {
		return fmt.Errorf("build the request for the gate's keys: %w", err)
	}
	res, err := s.cfg.HTTPClient.Do(req)
	if err != nil {
		return fmt.Errorf("fetch the gate's keys: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("fetch the gate's keys: status %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxJWKS+1))
	if err != nil {
		return fmt.Errorf("read the gate's keys: %w", err)
	}
	if len(body) > maxJWKS {
		return fmt.Errorf("the gate's key set exceeds %d bytes", maxJWKS)
	}
	var jwks jose.JSONWebKeySet
	if err := json.Unmarshal(body, &jwks); err != nil {
		return fmt.Errorf("decode the gate's keys: %w", err)
	}
	set := &fetchedKeys{at: s.cfg.Now(), byID: make(map[string]ed25519.PublicKey, len(jwks.Keys))}
	for _, k := range jwks.Keys {
		// Keys of any other kind are none of ours: trusting them would invite algorithm confusion.
		if public, ok := k.Key.(ed25519.PublicKey); ok && k.KeyID != "" {
			set.byID[k.KeyID] = public
		}
	}
	s.current.Store(set)
	return nil
}
