package notify

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"millrace"
)

func TestPayloadsCarryAllRingsWithinPostgresLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		rings := make([]millrace.Ring, rapid.IntRange(0, 1000).Draw(r, "rings"))
		for i := range rings {
			rings[i] = ring()
		}
		from := node(rapid.SliceOfN(rapid.Byte(), nodeSize, nodeSize).Draw(r, "node"))
		payloads := encodePayloads(from, rings)
		if want := max(1, (len(rings)+ringsPerPayload-1)/ringsPerPayload); len(payloads) != want {
			r.Fatalf("%d payloads for %d rings, want %d", len(payloads), len(rings), want)
		}
		var got []millrace.Ring
		for _, p := range payloads {
			if len(p) > maxPayload {
				r.Fatalf("a payload of %d bytes", len(p))
			}
			who, part, err := decodePayload(p)
			if err != nil || who != from {
				r.Fatalf("from %v: %v", who, err)
			}
			got = append(got, part...)
		}
		if !slices.Equal(got, rings) {
			r.Fatal("rings were lost or changed")
		}
	})
}

func TestDecodeRefusesOtherPayloads(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		text := rapid.String().Draw(r, "payload")
		from, rings, err := decodePayload(text)
		clean := strings.NewReplacer("\r", "", "\n", "").Replace(text) // which base64 leaves out
		if err == nil && !slices.Equal(encodePayloads(from, rings), []string{clean}) {
			r.Fatalf("%q was taken for %d rings", text, len(rings))
		}
	})
}
