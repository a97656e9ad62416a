package http

import (
	"net/http"

	"millrace"
)

// Status is the HTTP status of a code, for the pages, so that there is one table.
func Status(c millrace.Code) int {
	if status, ok := statuses[c]; ok {
		return status
	}
	return http.StatusInternalServerError
}
