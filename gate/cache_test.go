package gate

import (
	"context"
	"crypto/sha256"
	"testing"
	"time"
)

func TestTheCacheForgetsAndDoesNotMixUp(t *testing.T) {
	t.Parallel()
	c := newCredentialCache(100)
	now := time.Now()
	c.now = func() time.Time { return now }
	loads := 0
	load := func(_ context.Context, h credentialHash) (*Principal, error) { //nolint:unparam // the cache wants it so
		loads++
		return &Principal{Credential: string(h[:1]), Subject: "u"}, nil
	}
	a, z := sha256.Sum256([]byte("a")), sha256.Sum256([]byte("z"))
	for range 3 {
		if p, err := c.get(t.Context(), a, load); err != nil || p.Credential != string(a[:1]) {
			t.Fatal(p, err)
		}
		if p, err := c.get(t.Context(), z, load); err != nil || p.Credential != string(z[:1]) {
			t.Fatal(p, err)
		}
	}
	if loads != 2 {
		t.Errorf("%d loads", loads)
	}
	c.forget(revocation{Credential: string(a[:1])})
	_, _ = c.get(t.Context(), a, load)
	_, _ = c.get(t.Context(), z, load)
	if loads != 3 {
		t.Errorf("%d loads after one was forgotten", loads)
	}
	now = now.Add(cacheRenew) // nobody waits, but it is loaded anew
	for range 3 {
		if _, err := c.get(t.Context(), z, load); err != nil {
			t.Fatal(err)
		}
		c.close()
	}
	if loads != 4 {
		t.Errorf("%d loads after one was due", loads)
	}
	loads = 3
	now = now.Add(cacheTTL)
	_, _ = c.get(t.Context(), a, load)
	if loads != 4 {
		t.Errorf("%d loads after the time to live", loads)
	}
	// What was read before a revocation must not be remembered after it.
	stale := func(ctx context.Context, h credentialHash) (*Principal, error) {
		p, err := load(ctx, h)
		c.forget(revocation{Credential: p.Credential})
		return p, err
	}
	now = now.Add(cacheTTL)
	_, _ = c.get(t.Context(), z, stale)
	before := loads
	_, _ = c.get(t.Context(), z, load)
	if loads != before+1 {
		t.Error("a revoked credential was remembered")
	}
}
