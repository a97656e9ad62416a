package notify

import (
	"encoding/base64"
	"errors"
	"fmt"

	"millrace"
)

// DefaultChannel is the channel that doorbells and listeners meet on.
const DefaultChannel = "millrace_orders"

// A payload is base64 of the sender's id followed by pairs of order and customer ids. No pair at all means that anything may have
// changed. Postgres takes less than 8000 bytes.
const (
	maxPayload = 7999
	nodeSize   = 8
	ringSize   = 32
	// ringsPerPayload is how many pairs fit.
	ringsPerPayload = (maxPayload*3/4 - nodeSize) / ringSize
)

var encoding = base64.RawStdEncoding.Strict()

// node tells the rings of this process from those of others.
type node [nodeSize]byte

// encodePayloads spreads rings over as many payloads as they need. None are one payload: "anything may have changed".
func encodePayloads(from node, rings []millrace.Ring) []string {
	payloads := make([]string, 0, len(rings)/ringsPerPayload+1)
	var buf []byte
	for first := true; first || len(rings) > 0; first = false {
		n := min(len(rings), ringsPerPayload)
		buf = append(buf[:0], from[:]...)
		for _, r := range rings[:n] {
			buf = append(append(buf, r.OrderID[:]...), r.CustomerID[:]...)
		}
		payloads = append(payloads, encoding.EncodeToString(buf))
		rings = rings[n:]
	}
	return payloads
}

// jobsChannel is where River's clients learn of new jobs. They read the queue off an announcement and overlook what else it says.
const jobsChannel = "river.river_insert"

// encodeAnnouncement names a queue that has new jobs, in the form that River's clients read, and who says so.
func encodeAnnouncement(from node, queue string) string {
	return fmt.Sprintf(`{"queue": %q`, queue) + from.signature()
}

// signature is how an announcement ends that this process sends.
func (n node) signature() string { return fmt.Sprintf(`, "from": "%x"}`, n[:]) }

var errPayload = errors.New("a notification on the doorbell's channel is not a doorbell's")

func decodePayload(payload string) (node, []millrace.Ring, error) {
	raw, err := encoding.DecodeString(payload)
	if err != nil || len(raw) < nodeSize || (len(raw)-nodeSize)%ringSize != 0 {
		return node{}, nil, errPayload
	}
	from, raw := node(raw[:nodeSize]), raw[nodeSize:]
	rings := make([]millrace.Ring, len(raw)/ringSize)
	for i := range rings {
		pair := raw[i*ringSize:]
		rings[i] = millrace.Ring{OrderID: [16]byte(pair[:16]), CustomerID: [16]byte(pair[16:32])}
	}
	return from, rings, nil
}
