package gate

import (
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxAhead is how long a token may wait for its request. It leaves an upstream most of the token's life.
const maxAhead = tokenLifetime / 6

// ahead keeps, for credentials that ask often, the token of the next request: who asks then does not wait for a signature. Each token is
// given out once.
type ahead struct {
	mu     sync.Mutex
	tokens *simplelru.LRU[issuedFor, aheadToken]
}

// aheadToken is the token of a request that has not come yet. Without a text it says that the credential asked.
type aheadToken struct {
	text    string
	request string // the id that the request will have
	at      time.Time
	signing bool // it is about to be replaced by one with a text
}

func newAhead() ahead {
	tokens, err := simplelru.NewLRU[issuedFor, aheadToken](maxIssued, nil)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return ahead{tokens: tokens}
}

// take returns the token that was signed ahead, one without a text if there is none, and whether the caller is to have the next signed:
// if the credential asked a moment ago, and nobody else is.
func (a *ahead) take(what issuedFor, now time.Time) (t aheadToken, next bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, known := a.tokens.Get(what)
	switch {
	case !known || now.Sub(t.at) >= maxAhead:
		a.tokens.Add(what, aheadToken{at: now})
		return aheadToken{}, false
	case t.signing:
		return aheadToken{}, false
	}
	a.tokens.Add(what, aheadToken{at: now, signing: true})
	return t, true
}

func (a *ahead) put(what issuedFor, t aheadToken) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokens.Add(what, t)
}
