package http

import (
	"bytes"
	"context"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json"

	"millrace"
)

// express takes orders that are as they should be past Huma, which decodes a body twice and asks reflection about each field. It takes
// a request only where Huma would find nothing to object to; all others go on to Huma as they came, and it says what is wrong.
// A test holds the two against each other.
func (s *Server) express(huma http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.config.Store.IntakeIsFull() { // at once, before any work is done for it
			WriteError(w, r, millrace.Errorf(millrace.CodeBusy, "Too many orders are waiting right now: try again shortly."))
			return
		}
		p := exchangeOf(r.Context()).principal
		key, ok := expressKey(r)
		if !ok || participants.admits(p) != nil {
			huma(w, r)
			return
		}
		body, err := s.bodyOf(w, r)
		if err != nil {
			WriteError(w, r, err)
			return
		}
		var request OrderRequest
		if !decodeExpress(body, &request) {
			r.Body = unread(body)
			huma(w, r)
			return
		}
		ctx, cancel := bounded(r.Context())
		defer cancel()
		s.answerExpress(ctx, w, r, &placeOrderInput{Key: key, Body: request})
	}
}

func (s *Server) answerExpress(ctx context.Context, w http.ResponseWriter, r *http.Request, in *placeOrderInput) {
	created, err := s.placeOrder(ctx, in)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Location", created.Location)
	h.Set("Content-Type", created.ContentType)
	h.Set("Content-Length", strconv.Itoa(len(created.Body)))
	if created.Replayed != "" {
		h.Set("Idempotency-Replayed", created.Replayed)
	}
	w.WriteHeader(http.StatusCreated)
	_, _ = w.Write(created.Body) // a client that is gone asks again under its key
}

// expressKey is the Idempotency-Key of a request that has nothing else to look at: one key as it should be, and no query.
func expressKey(r *http.Request) (idempotencyKey, bool) {
	keys := r.Header["Idempotency-Key"]
	if len(keys) != 1 || len(keys[0]) == 0 || len(keys[0]) > 255 || r.URL.RawQuery != "" {
		return "", false
	}
	for _, c := range []byte(keys[0]) {
		if c < ' ' || c > '~' {
			return "", false
		}
	}
	return idempotencyKey(keys[0]), true
}

// decodeExpress decodes an order, and reports whether it is one that Huma and the domain would take. It is strict: no name twice, none
// unknown or in other letters.
func decodeExpress(body []byte, request *OrderRequest) bool {
	if mayBeEmpty(body) {
		return false
	}
	if err := json.Unmarshal(body, request, json.RejectUnknownMembers(true)); err != nil {
		return false
	}
	d := request.domain()
	return d.Validate() == nil
}

// mayBeEmpty reports whether a body may have a field that is there and null or "", which the domain takes for one left out and Huma
// does not.
func mayBeEmpty(body []byte) bool {
	return bytes.Contains(body, []byte(`""`)) || bytes.Contains(body, []byte("null"))
}
