package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// issuer signs identities as a gate does whose upstream lets requests share them, for servers that are measured without one, and publishes
// its key on loopback.
type issuer struct {
	signer jose.Signer
	addr   string
	server *http.Server
	done   chan struct{}
	mu     sync.Mutex
	tokens map[string]signed
}

// signed is a token and when to make the next.
type signed struct {
	token string
	until time.Time
}

// tokenLife is how long a token lasts; one is replaced after two thirds of it.
const tokenLife = time.Minute

// newIssuer makes a key and serves it. Close it.
func newIssuer(ctx context.Context) (*issuer, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	const kid = "bench"
	i := &issuer{done: make(chan struct{}), tokens: make(map[string]signed)}
	i.signer, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: jose.JSONWebKey{Key: private, KeyID: kid}}, nil)
	if err != nil {
		return nil, err
	}
	jwks, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: public, KeyID: kid, Algorithm: "EdDSA", Use: "sig"}}})
	if err != nil {
		return nil, err
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i.addr = l.Addr().String()
	i.server = &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(jwks) // a server that went away asks again
	})}
	go func() {
		defer close(i.done)
		_ = i.server.Serve(l) // until close
	}()
	return i, nil
}

func (i *issuer) jwksURL() string { return "http://" + i.addr + "/jwks.json" }

// close ends the listener.
func (i *issuer) close() error {
	err := i.server.Close()
	<-i.done
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// customer is the token of the nth customer, operator that of an operator: headers' values, valid for a third of tokenLife at least.
func (i *issuer) customer(n int) string { return i.token(fmt.Sprintf("bench-%d", n), "customer") }

func (i *issuer) operator() string { return i.token("bench-operator", "operator") }

func (i *issuer) token(subject, role string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	if s, ok := i.tokens[subject]; ok && now.Before(s.until) {
		return s.token
	}
	claims := map[string]any{"iss": "gate", "aud": "millrace", "sub": subject, "email": subject + "@example.com", "name": "Bench", "roles": []string{role},
		"scope": "*", "sid": "bench", "iat": now.Unix(), "nbf": now.Unix(), "exp": now.Add(tokenLife).Unix()}
	token, err := jwt.Signed(i.signer).Claims(claims).Serialize()
	if err != nil {
		return "" // refused by the server, which the bench reports
	}
	i.tokens[subject] = signed{token, now.Add(tokenLife * 2 / 3)}
	return token
}
