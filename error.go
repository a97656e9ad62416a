package millrace

import (
	"errors"
	"fmt"
)

// Code says what kind of failure an error is. It is stable: clients, the HTTP layer and the job runner decide by it.
type Code string

// The codes. Package http maps each to a status, package jobs to a job's fate; a test in each proves that none is missing.
const (
	CodeInvalid      Code = "invalid"        // the request can never succeed as it is
	CodeUnauthorized Code = "unauthorized"   // nobody is logged in
	CodeForbidden    Code = "forbidden"      // somebody is, who may not do this
	CodeNotFound     Code = "not_found"      // there is no such thing, or not for this caller
	CodeConflict     Code = "conflict"       // the thing is in a state that does not allow it
	CodeKeyReused    Code = "key_reused"     // an idempotency key came with another request
	CodeInFlight     Code = "in_flight"      // the first request under this key has not been answered yet
	CodeTooLarge     Code = "too_large"      // the body is larger than allowed
	CodeOutOfStock   Code = "out_of_stock"   // there is not enough to reserve
	CodeDeclined     Code = "declined"       // a provider said no, for good
	CodeBusy         Code = "busy"           // a queue or a limit is full; try again shortly
	CodeUnavailable  Code = "unavailable"    // a provider or the database cannot be reached now
	CodeUnknown      Code = "unknown"        // it may or may not have happened; the same request under the same key settles it
	CodeInternal     Code = "internal_error" // a defect on our side
)

// Codes lists every code, for tests that prove a mapping complete.
func Codes() []Code {
	return []Code{CodeInvalid, CodeUnauthorized, CodeForbidden, CodeNotFound, CodeConflict, CodeKeyReused, CodeInFlight,
		CodeTooLarge, CodeOutOfStock, CodeDeclined, CodeBusy, CodeUnavailable, CodeUnknown, CodeInternal}
}

// Error is a failure with a public side and a private one. Message is written for the caller and says what to do; Cause is for
// the log and never leaves the process. Field names the part of the request at fault as a JSON path ("lines[2].sku"), if any.
type Error struct {
	Code    Code
	Message string
	Field   string
	Cause   error
}

func (e *Error) Error() string {
	if e.Cause != nil {
		return fmt.Sprintf("%s: %s: %v", e.Code, e.Message, e.Cause)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Message)
}

func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes an Error with a public message.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// InvalidField makes a CodeInvalid error that names the part of the request at fault.
func InvalidField(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Message: fmt.Sprintf(format, args...), Field: field}
}

// WrapError gives a private cause a code and a public message.
func WrapError(code Code, cause error, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...), Cause: cause}
}

// ErrorCode is the code of err: that of the first Error in its chain, CodeInternal for any other, "" for nil.
func ErrorCode(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}
