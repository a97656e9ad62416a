package http

import (
	"errors"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"millrace"
)

func TestEveryCodeHasAStatus(t *testing.T) {
	t.Parallel()
	for _, code := range millrace.Codes() {
		status, ok := statuses[code]
		require.True(t, ok, "%s has no status", code)
		require.GreaterOrEqual(t, status, 400, "%s is a failure", code)
	}
	for code, status := range statuses {
		require.NotEmpty(t, http.StatusText(status), code)
		require.Equal(t, status, Status(code))
	}
	for code, status := range statuses {
		again := status == http.StatusServiceUnavailable || code == millrace.CodeInFlight
		require.Equal(t, again, retryAfter(code) != "", "%s says when to come back, if that helps", code)
	}
}

func TestAProblemNeverTellsACause(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"a wrapped cause":      millrace.WrapError(millrace.CodeUnavailable, errors.New("secret"), "Try again."),
		"an error of any kind": errors.New("secret"),
		"a wrapped error":      errors.Join(errors.New("secret"), millrace.Errorf(millrace.CodeConflict, "No.")),
		"a code of nobody":     millrace.WrapError("teapot", errors.New("secret"), "Short and stout."),
	} {
		p := problemOf(err)
		require.NotContains(t, p.Detail, "secret", name)
		require.NotEmpty(t, p.Detail, name)
		require.GreaterOrEqual(t, p.Status, 400, name)
	}
}

func TestIfNoneMatch(t *testing.T) {
	t.Parallel()
	const etag = `"3-0a1b2c"`
	for header, want := range map[string]bool{
		"": false, etag: true, "W/" + etag: true, "*": true, `"1", ` + etag: true, `"1",W/"2"`: false, "3-0a1b2c": false,
	} {
		require.Equal(t, want, matches(header, etag), header)
	}
}
