package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"sync"
)

// recent remembers tokens whose signature was found good, since a gate uses one for several requests of the same credential and
// checking it costs more than most of what follows. It keeps two generations of at most maxRecent tokens each, by their hash.
// What is remembered is the signature alone: times, audience and whether the key is still trusted are checked at every use.
type recent struct {
	mu       sync.Mutex
	young    map[[sha256.Size]byte]verified
	previous map[[sha256.Size]byte]verified
}

// verified is a payload and the key that signed it.
type verified struct {
	keyID  string
	key    ed25519.PublicKey
	claims tokenClaims
}

const maxRecent = 4096

func (r *recent) find(token string) (verified, bool) {
	h := sha256.Sum256([]byte(token))
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.young[h]; ok {
		return v, true
	}
	v, ok := r.previous[h]
	return v, ok
}

func (r *recent) remember(token string, v verified) {
	h := sha256.Sum256([]byte(token))
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.young == nil || len(r.young) >= maxRecent {
		r.previous, r.young = r.young, make(map[[sha256.Size]byte]verified)
	}
	r.young[h] = v
}
