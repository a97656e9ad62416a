package simulated_test

import (
	"testing"

	"millrace"
	"millrace/provider/simulated"
)

// BenchmarkAuthorizeWithCapture is the call that a bench of the pipeline makes for each order.
func BenchmarkAuthorizeWithCapture(b *testing.B) {
	stored := setup(b, simulated.Config{})
	for name, g := range map[string]millrace.Gateway{"postgres": stored.Gateway(), "instant": simulated.Instant().Gateway()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r := authorize("pm_ok")
					r.WithCapture = true
					if _, err := g.Authorize(b.Context(), r); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}
