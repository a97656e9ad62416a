package http

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"millrace"
)

// operation describes one call of the API: what Huma needs to know of it, and who may make it.
type operation struct {
	id, method, path string
	tag, summary     string
	description      string
	who              audience
	success          int                      // the status of a call that went well
	statuses         []int                    // statuses of problems beyond those that every operation has
	describe         func(op *huma.Operation) // adds what types do not say; may be nil
}

// handle registers an operation and its handler.
func handle[I, O any](s *Server, o operation, handler func(context.Context, *I) (*O, error)) {
	op := o.huma()
	op.Middlewares = huma.Middlewares{s.admit(o.who)}
	if hasBody(o.method) {
		op.Middlewares = append(op.Middlewares, s.readBody)
	}
	if o.describe != nil {
		o.describe(&op)
	}
	huma.Register(s.api, op, handler)
}

// huma is the operation as Huma describes it, with the problems that it may answer.
func (o operation) huma() huma.Operation {
	statuses := append([]int{http.StatusBadRequest, http.StatusInternalServerError, http.StatusServiceUnavailable}, o.statuses...)
	security := []map[string][]string{{"key": {}}, {"session": {}}}
	if o.who == public {
		security = append([]map[string][]string{{}}, security...)
	} else {
		statuses = append(statuses, http.StatusUnauthorized, http.StatusForbidden)
	}
	if strings.Contains(o.path, "{") {
		statuses = append(statuses, http.StatusNotFound)
	}
	if hasBody(o.method) {
		statuses = append(statuses, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	op := huma.Operation{OperationID: o.id, Method: o.method, Path: o.path, Tags: []string{o.tag}, Summary: o.summary,
		Description: o.description, DefaultStatus: o.success, Security: security, Responses: map[string]*huma.Response{},
		MaxBodyBytes: -1, BodyReadTimeout: -1} // readBody and hurry have limits of their own; Huma would leave its deadline behind
	problemRefs(op.Responses, statuses...)
	return op
}

func hasBody(method string) bool {
	return method == http.MethodPost || method == http.MethodPut || method == http.MethodPatch
}

// admit lets only the operation's audience through, and gives the call its deadline.
func (s *Server) admit(who audience) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		r, w := humago.Unwrap(ctx)
		if err := who.admits(exchangeOf(r.Context()).principal); err != nil {
			WriteError(w, r, err)
			return
		}
		r.Header.Del("Accept") // there is one format: nothing to negotiate
		deadline, cancel := bounded(ctx.Context())
		defer cancel()
		next(huma.WithContext(ctx, deadline))
	}
}

// readBody reads the body of a call before Huma does: whole, within a size, and only as UTF-8 text that says it is JSON.
func (s *Server) readBody(ctx huma.Context, next func(huma.Context)) {
	r, w := humago.Unwrap(ctx)
	body, err := s.bodyOf(w, r)
	if err != nil {
		WriteError(w, r, err)
		return
	}
	r.Body = unread(body)
	next(ctx)
}

// unread is a body as it came, for whoever reads it next.
func unread(body []byte) io.ReadCloser { return io.NopCloser(bytes.NewReader(body)) }

func (s *Server) bodyOf(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return nil, nil
	}
	if r.ContentLength > s.config.MaxBody {
		return nil, s.errTooLarge()
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.config.MaxBody))
	var tooLarge *http.MaxBytesError
	var network net.Error
	switch {
	case errors.As(err, &tooLarge):
		return nil, s.errTooLarge()
	case errors.As(err, &network) && network.Timeout():
		return nil, millrace.WrapError(codeBodyTimeout, err, "The body took longer than %s to arrive: send it at once.", s.config.BodyTimeout)
	case err != nil:
		return nil, millrace.WrapError(millrace.CodeInvalid, err, "The body could not be read to its end: send it again.")
	case len(body) == 0:
		return nil, nil
	}
	if err := checkMediaType(r.Header.Values("Content-Type")); err != nil {
		return nil, err
	}
	if r.Header.Get("Content-Encoding") != "" {
		return nil, millrace.Errorf(codeMediaType, "Send the body without a Content-Encoding.")
	}
	if !utf8.Valid(body) {
		return nil, millrace.InvalidField("body", "The body is not valid UTF-8.")
	}
	return body, nil
}

func (s *Server) errTooLarge() error {
	return millrace.Errorf(millrace.CodeTooLarge, "The body is larger than %d bytes: split the request.", s.config.MaxBody)
}

func checkMediaType(values []string) error {
	if len(values) == 1 && values[0] == "application/json" {
		return nil
	}
	if len(values) == 1 {
		mediaType, params, err := mime.ParseMediaType(values[0])
		charset := strings.ToLower(params["charset"])
		if err == nil && mediaType == "application/json" && (charset == "" || charset == "utf-8") {
			return nil
		}
	}
	return millrace.Errorf(codeMediaType, "Send the body as Content-Type: application/json, in UTF-8.")
}

// jsonFormat reads and writes bodies for Huma.
var jsonFormat = huma.Format{Marshal: writeJSON, Unmarshal: readJSON}

// writeJSON encodes before it writes, so that what cannot be encoded fails as a whole, and a client that is gone fails nothing.
func writeJSON(w io.Writer, v any) error {
	body, err := encodeJSON(v)
	if err != nil {
		return err
	}
	_, _ = w.Write(body)
	return nil
}

func encodeJSON(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return slices.Clip(b.Bytes()), nil
}

// readJSON decodes a body that Huma has read; its errors are shown to the client. Huma decodes twice: into any, which it validates,
// and then into the operation's type, which refuses only numbers that are whole but not written so, and those out of range.
func readJSON(body []byte, v any) error {
	err := json.Unmarshal(body, v)
	var mismatch *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &mismatch) && mismatch.Field != "":
		return fmt.Errorf("%s must be a whole number in plain digits, not %s", mismatch.Field, mismatch.Value)
	case errors.As(err, &mismatch):
		return fmt.Errorf("%s is out of range", mismatch.Value)
	case errors.As(err, &syntax):
		return fmt.Errorf("not valid JSON: %s, at byte %d", syntax.Error(), syntax.Offset)
	}
	return errors.New("not valid JSON")
}
