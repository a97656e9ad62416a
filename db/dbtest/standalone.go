package dbtest

import (
	"context"
	"os"
	"testing"
	"time"

	"millrace/db/embedded"
)

// StartServer starts an empty server for one test alone, for those that restart
// it, crash it, or need roles and settings of their own; others share one through
// [New]. It is stopped and removed when the test ends. c.Dir is chosen here.
func StartServer(t testing.TB, c embedded.Config) *embedded.Server {
	t.Helper()
	parent := memoryDir()
	ctx, cancel := context.WithTimeout(t.Context(), setupLimit)
	defer cancel()
	removeAbandoned(ctx, parent)
	dir, err := privateDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = dir
	server, err := embedded.Start(ctx, c)
	if err != nil {
		os.RemoveAll(dir)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := server.Stop(ctx); err != nil {
			t.Error(err)
		}
		if err := embedded.Remove(ctx, dir); err != nil {
			t.Error(err)
		}
	})
	return server
}
