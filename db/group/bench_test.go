package group_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/db/group"
)

// BenchmarkDo has callers ask one after another, each as soon as it was answered: of a flush that costs nothing, which leaves the price
// of grouping, and of one that waits as long as a commit, which shows what sharing it is worth.
func BenchmarkDo(b *testing.B) {
	for _, callers := range []int{1, 256} {
		for name, commit := range map[string]time.Duration{"nothing": 0, "1ms": time.Millisecond} {
			b.Run(fmt.Sprintf("callers=%d/commit=%s", callers, name), func(b *testing.B) { benchmarkDo(b, callers, commit) })
		}
	}
}

func benchmarkDo(b *testing.B, callers int, commit time.Duration) {
	b.Helper()
	var flushes atomic.Int64
	c := group.New(group.Config{Lanes: group.NewLanes(1, 0, 0), MaxGroup: 256, MaxQueue: 4096, Timeout: time.Minute},
		func(ctx context.Context, requests []int) ([]group.Outcome[int], error) {
			flushes.Add(1)
			if commit > 0 {
				wait := time.NewTimer(commit)
				defer wait.Stop()
				select {
				case <-wait.C:
				case <-ctx.Done():
				}
			}
			outcomes := make([]group.Outcome[int], len(requests))
			for i, n := range requests {
				outcomes[i].Answer = n
			}
			return outcomes, nil
		})
	defer c.Close()
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for n := int(next.Add(1)); n <= b.N; n = int(next.Add(1)) {
				if got, err := c.Do(b.Context(), n); err != nil || got != n {
					b.Errorf("request %d was answered %d, %v", n, got, err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/float64(max(flushes.Load(), 1)), "requests/flush")
}
