package http_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"

	orderhttp "millrace/http"
)

func ExampleNewOps() {
	ops := httptest.NewServer(orderhttp.NewOps(orderhttp.OpsConfig{
		Ready: map[string]func(context.Context) error{
			"database": func(context.Context) error { return nil },
			"listen":   func(context.Context) error { return errors.New("connection refused") },
		},
		Logger: slog.New(slog.DiscardHandler), // gets the cause
	}))
	defer ops.Close()
	resp, err := ops.Client().Get(ops.URL + "/readyz")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(resp.StatusCode)
	// Output: 503
}
