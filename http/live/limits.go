package live

import (
	"encoding/json"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"millrace"
)

// limits counts the open streams by who holds them.
type limits struct {
	node, perSubject, perAddr int

	mu       sync.Mutex
	open     int
	subjects map[string]int
	addrs    map[string]int
}

// admit takes a place for v, to be given back by release, or says which limit is reached.
func (l *limits) admit(v Viewer) *millrace.Error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.open >= l.node:
		return millrace.Errorf(millrace.CodeBusy, "This server has as many open streams as it can take: try again shortly.")
	case l.subjects[v.Subject] >= l.perSubject:
		return millrace.Errorf(millrace.CodeBusy, "You have %d open streams, which is the limit: close one, then try again.", l.perSubject)
	case l.addrs[v.Addr] >= l.perAddr:
		return millrace.Errorf(millrace.CodeBusy, "There are %d open streams from your address, which is the limit: close one, then try again.", l.perAddr)
	}
	l.open++
	l.subjects[v.Subject]++
	l.addrs[v.Addr]++
	return nil
}

func (l *limits) release(v Viewer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.subjects[v.Subject]--; l.subjects[v.Subject] == 0 {
		delete(l.subjects, v.Subject)
	}
	if l.addrs[v.Addr]--; l.addrs[v.Addr] == 0 {
		delete(l.addrs, v.Addr)
	}
}

// refuse answers a request that gets no stream. Where trying again may help, the answer says when, spread so that not all come back
// at once.
func (h *Hub) refuse(w http.ResponseWriter, r *http.Request, err *millrace.Error) {
	h.rejected.Add(1)
	if err.Code == millrace.CodeBusy || err.Code == millrace.CodeUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(int(spread(2*time.Second, 5*time.Second).Seconds())))
	}
	w.Header().Set("Cache-Control", "no-store")
	h.config.WriteError(w, r, err)
}

// writeProblem answers with an RFC 9457 document.
func writeProblem(w http.ResponseWriter, _ *http.Request, err *millrace.Error) {
	status := http.StatusInternalServerError
	switch err.Code { //nolint:exhaustive // these are the codes that this package gives
	case millrace.CodeInvalid:
		status = http.StatusBadRequest
	case millrace.CodeBusy, millrace.CodeUnavailable:
		status = http.StatusServiceUnavailable
	}
	body, _ := json.Marshal(map[string]any{ // strings and numbers always encode
		"type": "about:blank", "title": http.StatusText(status), "status": status, "code": err.Code, "detail": err.Message,
	})
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client is gone if this fails
}

// spread is a random time between a and b.
func spread(a, b time.Duration) time.Duration {
	return a + rand.N(max(b-a, 0)+1) //nolint:gosec // apart from others, not a secret
}
