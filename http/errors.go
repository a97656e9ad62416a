package http

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"millrace"
)

// Codes of failures that only HTTP knows.
const (
	codeNotAllowed  millrace.Code = "method_not_allowed"     // the path is right, the method is not
	codeMediaType   millrace.Code = "unsupported_media_type" // the body is not JSON
	codeBodyTimeout millrace.Code = "request_timeout"        // the body did not arrive in time
)

// statuses is the one table from error code to HTTP status.
var statuses = map[millrace.Code]int{
	millrace.CodeInvalid:      http.StatusBadRequest,
	millrace.CodeUnauthorized: http.StatusUnauthorized,
	millrace.CodeForbidden:    http.StatusForbidden,
	millrace.CodeNotFound:     http.StatusNotFound,
	millrace.CodeConflict:     http.StatusConflict,
	millrace.CodeKeyReused:    http.StatusUnprocessableEntity,
	millrace.CodeInFlight:     http.StatusConflict,
	millrace.CodeTooLarge:     http.StatusRequestEntityTooLarge,
	millrace.CodeOutOfStock:   http.StatusConflict,
	millrace.CodeDeclined:     http.StatusPaymentRequired,
	millrace.CodeBusy:         http.StatusServiceUnavailable,
	millrace.CodeUnavailable:  http.StatusServiceUnavailable,
	millrace.CodeUnknown:      http.StatusServiceUnavailable,
	millrace.CodeInternal:     http.StatusInternalServerError,
	codeNotAllowed:            http.StatusMethodNotAllowed,
	codeMediaType:             http.StatusUnsupportedMediaType,
	codeBodyTimeout:           http.StatusRequestTimeout,
}

// retryAfter is what a client is told to wait, in seconds, where the same request may succeed later; "" where it will not.
func retryAfter(code millrace.Code) string {
	switch code { //nolint:exhaustive // most failures are for good
	case millrace.CodeInFlight, millrace.CodeBusy, millrace.CodeUnknown:
		return "1"
	case millrace.CodeUnavailable:
		return "2"
	}
	return ""
}

// Problem is the body of every answer that is not a success: RFC 9457 with a stable code.
type Problem struct { //nolint:errname // RFC 9457 calls it so, and so does the OpenAPI document
	Type      string         `json:"type" doc:"always about:blank: the code tells problems apart"`
	Title     string         `json:"title" doc:"the status in words"`
	Status    int            `json:"status" doc:"the HTTP status"`
	Code      string         `json:"code" doc:"what kind of failure it is; stable"`
	Detail    string         `json:"detail" doc:"what is wrong and what to do, for a person"`
	Errors    []ProblemError `json:"errors,omitempty" doc:"the parts of the request that are at fault"`
	RequestID string         `json:"request_id,omitempty" doc:"names this request when you ask for help"`
}

// ProblemError is one part of a request that is at fault.
type ProblemError struct {
	Location string `json:"location" doc:"where it is, such as body.lines[0].quantity, header.Idempotency-Key or query.cursor"`
	Message  string `json:"message" doc:"what is wrong with it"`
}

// Error is the problem's detail.
func (p *Problem) Error() string { return p.Detail }

// GetStatus is the HTTP status, for Huma.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is that of problems, for Huma.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// problemOf makes the public side of an error. What is not a millrace.Error is a defect and says nothing.
func problemOf(err error) *Problem {
	e := asError(err)
	status := Status(e.Code)
	p := &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: string(e.Code), Detail: e.Message}
	if e.Field != "" {
		p.Errors = []ProblemError{{Location: location(e.Field), Message: e.Message}}
	}
	return p
}

// asError is the millrace.Error in err's chain; any other error becomes one that says nothing about it.
func asError(err error) *millrace.Error {
	if e, ok := errors.AsType[*millrace.Error](err); ok {
		return e
	}
	return millrace.WrapError(millrace.CodeInternal, err, "Something is wrong on our side. It has been logged; try again later.")
}

// location is where a field is in the request. Fields of the domain are those of the body.
func location(field string) string {
	part, _, _ := strings.Cut(field, ".")
	switch part {
	case "body", "header", "query", "path":
		return field
	case "Last-Event-ID": // as the streams call it
		return "header." + field
	}
	return "body." + field
}

// WriteError answers a request with a problem and notes the cause for the log. It is for handlers outside the API's operations, such
// as live.Config.WriteError.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	writeProblem(w, exchangeOf(r.Context()).failed(w.Header(), err))
}

func writeProblem(w http.ResponseWriter, p *Problem) {
	body, err := json.Marshal(p)
	if err != nil {
		body = []byte(`{"code":"internal_error"}`) // strings and numbers always encode
	}
	h := w.Header()
	h.Set("Content-Type", p.ContentType(""))
	h.Set("Cache-Control", "no-store")
	h.Del("Content-Length")
	h.Del("Etag")
	w.WriteHeader(p.Status)
	_, _ = w.Write(body) // a client that is gone cannot be told
}

// problemFromHuma replaces Huma's own errors, which would tell clients the text of any error. It gets what Huma finds wrong with a
// request, and what handlers return.
func problemFromHuma(ctx huma.Context, status int, _ string, errs ...error) huma.StatusError {
	err := errorFromHuma(status, errs)
	if ctx == nil {
		return problemOf(err)
	}
	r, w := humago.Unwrap(ctx)
	return exchangeOf(r.Context()).failed(w.Header(), err)
}

func errorFromHuma(status int, errs []error) error {
	var details []ProblemError
	for _, err := range errs {
		if _, ok := errors.AsType[*millrace.Error](err); ok {
			return err
		}
		if detail, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			details = append(details, ProblemError{Location: detail.Location, Message: detail.Message})
		}
	}
	switch {
	case len(details) > 0:
		return &mismatchError{details}
	case status >= http.StatusBadRequest && status < http.StatusInternalServerError:
		return millrace.Errorf(millrace.CodeInvalid, "A JSON body is required: see /openapi.json for its fields.")
	}
	return errors.Join(append(errs, fmt.Errorf("status %d", status))...)
}

// mismatchError is a request that does not match the OpenAPI document, in one or more places.
type mismatchError struct{ details []ProblemError }

func (e *mismatchError) Error() string {
	first := e.details[0]
	text := fmt.Sprintf("%s: %s.", first.Location, first.Message)
	if more := len(e.details) - 1; more > 0 {
		text += fmt.Sprintf(" (And %d more, see errors.)", more)
	}
	return text
}

// failed turns an error into the problem to answer, sets the headers that go with it, and notes the error for the log.
func (x *exchange) failed(h http.Header, err error) *Problem {
	var p *Problem
	if mismatch, ok := errors.AsType[*mismatchError](err); ok {
		p = problemOf(millrace.Errorf(millrace.CodeInvalid, "%s", mismatch.Error()))
		p.Errors = mismatch.details[:min(len(mismatch.details), maxDetails)]
	} else {
		p = problemOf(err)
	}
	p.RequestID = x.id
	if wait := retryAfter(millrace.Code(p.Code)); wait != "" && h.Get("Retry-After") == "" {
		h.Set("Retry-After", wait)
	}
	if p.Status == http.StatusUnauthorized {
		h.Set("Www-Authenticate", `Bearer realm="millrace"`)
	}
	x.err = cmp.Or(x.err, err)
	return p
}

// maxDetails bounds how many faults of one request are listed.
const maxDetails = 20
