package simulated_test

import (
	"testing"

	"millrace"
	"millrace/provider/simulated"
)

func TestOKApproves(t *testing.T) {
	t.Parallel()
	b := setup(t, simulated.Config{})
	r := authorize("pm_ok")
	r.WithCapture = true
	got, err := b.Gateway().Authorize(t.Context(), r)
	if err != nil || got.Outcome != millrace.OutcomeApproved || !got.Captured {
		t.Fatalf("got %+v, %v", got, err)
	}
}
