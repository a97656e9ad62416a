package gate

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
)

const (
	// tokenLifetime is how long an upstream may trust an identity token.
	tokenLifetime = 60 * time.Second
	// signerPurpose binds sealed signing keys to their use.
	signerPurpose = "signing key"
	// keyPrepublish is how long a key is published before it signs, so that upstreams know it by then, and how long one
	// stays published after it stopped.
	keyPrepublish = 10 * time.Minute
)

// signer makes the identity tokens. Its keys live in the database, shared by all processes, and change on schedule.
type signer struct {
	store    *Store
	vault    vault
	issuer   string
	rotation time.Duration
	ring     atomic.Pointer[keyring]
	issued   *lru.Cache[issuedFor, issuedToken]
	ahead    ahead
	now      func() time.Time
}

// issuedFor is all that a token says but its times and the request, and the key that signs it.
type issuedFor struct {
	kid, audience, subject, email, name, roles, scopes, credential string
	expires                                                        int64 // when the credential ends, Unix nanoseconds
}

func newIssuedFor(key signingKey, p *Principal, to *Upstream) issuedFor {
	return issuedFor{kid: key.kid, audience: to.Audience, subject: p.Subject, email: p.Email, name: p.Name, roles: strings.Join(p.Roles, " "),
		scopes: strings.Join(p.Scopes, " "), credential: p.Credential, expires: p.Expires.UnixNano()}
}

// issuedToken is a token and until when it is given out.
type issuedToken struct {
	token string
	until time.Time
}

const (
	// maxReuse is how long requests of the same credential may share a token at the most: it leaves an upstream half of its life.
	maxReuse = tokenLifetime / 2
	// maxIssued bounds the tokens that are kept for that.
	maxIssued = 8192
)

type signingKey struct {
	kid      string
	public   ed25519.PublicKey
	signer   jose.Signer
	activeAt time.Time
}

// keyring is the keys at one time, oldest first, and their public halves ready to be served.
type keyring struct {
	keys []signingKey
	jwks []byte
}

// current returns the newest key that is active already.
func (k *keyring) current(now time.Time) signingKey {
	best := k.keys[0]
	for _, key := range k.keys[1:] {
		if !key.activeAt.After(now) {
			best = key
		}
	}
	return best
}

func newSigner(ctx context.Context, store *Store, v vault, issuer string, rotation time.Duration) (*signer, error) {
	issued, err := lru.New[issuedFor, issuedToken](maxIssued)
	if err != nil {
		return nil, err
	}
	s := &signer{store: store, vault: v, issuer: issuer, rotation: rotation, issued: issued, ahead: newAhead(), now: time.Now}
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// refresh makes a new key when one is due, drops those that no valid token can name any more, and loads the rest. Processes
// take turns by an advisory lock held for the length of one short transaction.
func (s *signer) refresh(ctx context.Context) error {
	var ring *keyring
	err := pgx.BeginFunc(ctx, s.store.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, migrationLock+1); err != nil {
			return fmt.Errorf("lock the signing keys: %w", err)
		}
		var total int
		var due bool
		if err := tx.QueryRow(ctx, `SELECT count(*), coalesce(max(active_at) + $1::interval <= now(), true) FROM gate.signing_keys`,
			s.rotation).Scan(&total, &due); err != nil {
			return fmt.Errorf("read the signing keys' age: %w", err)
		}
		if due {
			delay := keyPrepublish
			if total == 0 {
				delay = 0
			}
			if err := s.insertKey(ctx, tx, delay); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, `DELETE FROM gate.signing_keys k WHERE EXISTS (
			SELECT FROM gate.signing_keys n WHERE n.active_at > k.active_at AND n.active_at < now() - $1::interval)`, keyPrepublish); err != nil {
			return fmt.Errorf("delete old signing keys: %w", err)
		}
		var err error
		ring, err = s.load(ctx, tx)
		return err
	})
	if err != nil {
		return err
	}
	s.ring.Store(ring)
	return nil
}

func (s *signer) insertKey(ctx context.Context, tx pgx.Tx, delay time.Duration) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("generate a signing key: %w", err)
	}
	kid := strings.ToLower(rand.Text()[:16])
	if _, err := tx.Exec(ctx, `INSERT INTO gate.signing_keys (kid, public_key, sealed_seed, active_at) VALUES ($1, $2, $3, now() + $4::interval)`,
		kid, []byte(public), s.vault.seal(signerPurpose, private.Seed()), delay); err != nil {
		return fmt.Errorf("insert a signing key: %w", err)
	}
	return nil
}

func (s *signer) load(ctx context.Context, tx pgx.Tx) (*keyring, error) {
	rows, err := tx.Query(ctx, `SELECT kid, sealed_seed, active_at FROM gate.signing_keys ORDER BY active_at, kid`)
	if err != nil {
		return nil, fmt.Errorf("read the signing keys: %w", err)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (signingKey, error) {
		var k signingKey
		var box []byte
		if err := row.Scan(&k.kid, &box, &k.activeAt); err != nil {
			return k, err
		}
		seed, err := s.vault.open(signerPurpose, box)
		if err != nil {
			return k, err
		}
		private := ed25519.NewKeyFromSeed(seed)
		k.public = private.Public().(ed25519.PublicKey)
		k.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: private, KeyID: k.kid}},
			(&jose.SignerOptions{}).WithType("JWT"))
		return k, err
	})
	if err != nil {
		return nil, fmt.Errorf("read the signing keys: %w", err)
	}
	set := jose.JSONWebKeySet{}
	for _, k := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.public, KeyID: k.kid, Algorithm: string(jose.EdDSA), Use: "sig"})
	}
	jwks, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode the key set: %w", err)
	}
	return &keyring{keys: keys, jwks: jwks}, nil
}

// identityClaims is the token's payload; package identity reads it.
type identityClaims struct {
	Issuer    string   `json:"iss"`
	Audience  string   `json:"aud"`
	Subject   string   `json:"sub"`
	Email     string   `json:"email"`
	Name      string   `json:"name"`
	Roles     []string `json:"roles"`
	Scope     string   `json:"scope"`
	SessionID string   `json:"sid"`
	RequestID string   `json:"rid,omitempty"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
	Expiry    int64    `json:"exp"`
}

// identityToken tells an upstream who makes a request.
type identityToken struct {
	text    string
	request string // the id of the request
	next    bool   // signNext is to be called once the request was answered
}

// identity is a token for a request, which is given the id unless the token was signed ahead and names another. Where the upstream shares
// tokens it is the one that the same credential had a moment ago, and names no request: signing a token and checking it cost more than
// all else that a gate does.
func (s *signer) identity(p *Principal, to *Upstream, id string) (identityToken, error) {
	now := s.now()
	key := s.ring.Load().current(now)
	what := newIssuedFor(key, p, to)
	if to.ReuseTokens > 0 {
		text, err := s.shared(key, what, p, to, now)
		return identityToken{text: text, request: id}, err
	}
	signed, next := s.ahead.take(what, now)
	if signed.text != "" {
		return identityToken{text: signed.text, request: signed.request, next: next}, nil
	}
	text, err := s.sign(key, p, to.Audience, id, now)
	return identityToken{text: text, request: id, next: next}, err
}

// shared is a token that names no request and is given out again for a while.
func (s *signer) shared(key signingKey, what issuedFor, p *Principal, to *Upstream, now time.Time) (string, error) {
	if known, ok := s.issued.Get(what); ok && now.Before(known.until) {
		return known.token, nil
	}
	token, err := s.sign(key, p, to.Audience, "", now)
	if err != nil {
		return "", err
	}
	until := now.Add(time.Duration(to.ReuseTokens))
	if !p.Expires.IsZero() && p.Expires.Before(until) {
		until = p.Expires
	}
	s.issued.Add(what, issuedToken{token, until})
	return token, nil
}

// signNext signs the token of a credential's next request.
func (s *signer) signNext(p *Principal, to *Upstream) {
	now := s.now()
	key := s.ring.Load().current(now)
	id := newRequestID()
	text, err := s.sign(key, p, to.Audience, id, now)
	if err != nil {
		return // the next request signs for itself, and says what is wrong
	}
	s.ahead.put(newIssuedFor(key, p, to), aheadToken{text: text, request: id, at: now})
}

// sign makes a token that is valid from now on. An empty id names no request.
func (s *signer) sign(key signingKey, p *Principal, audience, id string, now time.Time) (string, error) {
	expiry := now.Add(tokenLifetime)
	if !p.Expires.IsZero() && p.Expires.Before(expiry) {
		expiry = p.Expires
	}
	claims, err := json.Marshal(identityClaims{
		Issuer: s.issuer, Audience: audience, Subject: p.Subject, Email: p.Email, Name: p.Name, Roles: p.Roles,
		Scope: strings.Join(p.Scopes, " "), SessionID: p.Credential, RequestID: id,
		IssuedAt: now.Unix(), NotBefore: now.Unix(), Expiry: expiry.Unix(),
	})
	if err != nil {
		return "", fmt.Errorf("encode an identity: %w", err)
	}
	signed, err := key.signer.Sign(claims)
	if err != nil {
		return "", fmt.Errorf("sign an identity: %w", err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("sign an identity: %w", err)
	}
	return token, nil
}

// serveJWKS publishes the keys for upstreams.
func (s *signer) serveJWKS(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "public, max-age=60")
	if r.Method != http.MethodHead {
		_, _ = w.Write(s.ring.Load().jwks) // a client that went away cannot be told
	}
}
