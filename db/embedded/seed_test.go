package embedded

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

func fillNotes(ctx context.Context, s *Server) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "CREATE TABLE notes AS SELECT 'from the seed' AS text")
	return err
}

func TestASeedIsPreparedOnceAndStartedFromOften(t *testing.T) {
	t.Parallel()
	top := openDir(t)
	seed := filepath.Join(top, "cache", "seed")
	t.Cleanup(func() {
		if err := Remove(context.Background(), seed); err != nil {
			t.Error(err)
		}
	})
	// What a preparation that was killed left behind.
	abandoned := seed + ".new-1"
	if err := os.MkdirAll(filepath.Join(abandoned, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	var filled atomic.Int32
	prepare := func() error {
		return Prepare(t.Context(), seed, Config{Throwaway: true}, func(ctx context.Context, s *Server) error {
			filled.Add(1)
			return fillNotes(ctx, s)
		})
	}
	const n = 4
	results := make(chan error)
	for range n {
		go func() { results <- prepare() }()
	}
	for range n {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if err := prepare(); err != nil {
		t.Error(err)
	}
	if got := filled.Load(); got != 1 {
		t.Errorf("it was filled %d times", got)
	}
	if exists(abandoned) {
		t.Errorf("%s is still there", abandoned)
	}

	before := fingerprint(t, filepath.Join(seed, "data"))
	for _, config := range []Config{{Dir: filepath.Join(top, "a"), Seed: seed}, {Dir: filepath.Join(top, "b"), Seed: seed, Throwaway: true}} {
		s := mustStart(t, config)
		t.Cleanup(func() { Remove(context.Background(), config.Dir) })
		if got := value(t, s.URL("postgres"), "SELECT text FROM notes"); got != "from the seed" {
			t.Errorf("it holds %q", got)
		}
		execute(t, s.URL("postgres"), "DROP TABLE notes")
		stop(t, s)
		// The seed is for an empty directory only.
		s = mustStart(t, config)
		if got := value(t, s.URL("postgres"), "SELECT count(*)::text FROM pg_tables WHERE tablename = 'notes'"); got != "0" {
			t.Error("the second start began with the seed again")
		}
		stop(t, s)
	}
	if after := fingerprint(t, filepath.Join(seed, "data")); after != before {
		t.Error("the seed changed")
	}
}

func TestAPreparationThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	top := openDir(t)
	seed := filepath.Join(top, "seed")
	broken := errors.New("a broken migration")
	err := Prepare(t.Context(), seed, Config{Throwaway: true}, func(context.Context, *Server) error { return broken })
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.Name() != "seed.lock" {
			t.Errorf("%s is left", entry.Name())
		}
	}
}

func TestASeedInUseIsRefused(t *testing.T) {
	t.Parallel()
	top := openDir(t)
	used := mustStart(t, Config{Dir: filepath.Join(top, "used"), Throwaway: true})
	t.Cleanup(func() {
		stop(t, used)
		Remove(context.Background(), filepath.Join(top, "used"))
	})
	dir := filepath.Join(top, "new")
	if _, err := Start(t.Context(), Config{Dir: dir, Seed: filepath.Join(top, "used")}); err == nil || !strings.Contains(err.Error(), "stop its server first") {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "data*")); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
}
