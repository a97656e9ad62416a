package live

import (
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"strconv"

	"millrace"
)

const (
	lastEventHeader = "Last-Event-ID"
	lastEventQuery  = "last_event_id"
)

// lastEventID is where the client wants to go on from, "" for a fresh start. The header is what an EventSource sends when it
// reconnects by itself, so it is newer than a parameter of the page's URL.
func lastEventID(r *http.Request) string {
	if id := r.Header.Get(lastEventHeader); id != "" {
		return id
	}
	return r.URL.Query().Get(lastEventQuery)
}

// parseVersion reads the Last-Event-ID of one order's stream. newest is the order's version.
func parseVersion(id string, newest int32) (int32, *millrace.Error) {
	if id == "" {
		return 0, nil
	}
	for i := range len(id) {
		if id[i] < '0' || id[i] > '9' {
			return 0, millrace.InvalidField(lastEventHeader, "Last-Event-ID must be a whole number, the id of the last event that "+
				"was received; leave it out to get all events.")
		}
	}
	if v, err := strconv.ParseInt(id, 10, 32); err == nil && v <= int64(newest) {
		return int32(v), nil
	}
	return 0, millrace.InvalidField(lastEventHeader, "Last-Event-ID is past this order's last event, which is %d: give the id of "+
		"the last event that was received, or leave it out to get all events.", newest)
}

// A cursor is a watermark: the stream has carried every event of transactions below it. Its text begins with a letter that tells it from
// cursors of a later form.
const cursorForm = 'a'

func encodeCursor(tx int64) []byte {
	b := []byte{cursorForm}
	return base64.RawURLEncoding.AppendEncode(b, binary.AppendUvarint(nil, uint64(tx)))
}

func parseCursor(id string) (int64, *millrace.Error) {
	if len(id) > 1 && len(id) < 20 && id[0] == cursorForm {
		if raw, err := base64.RawURLEncoding.DecodeString(id[1:]); err == nil {
			if tx, n := binary.Uvarint(raw); n == len(raw) && int64(tx) > 0 && string(encodeCursor(int64(tx))) == id {
				return int64(tx), nil
			}
		}
	}
	return 0, millrace.InvalidField(lastEventHeader, "Last-Event-ID is not an id of this stream: give the id of the last event that "+
		"was received here, or leave it out to begin with what happens from now on.")
}

var errFutureCursor = millrace.InvalidField(lastEventHeader, "Last-Event-ID is an id that this stream has not reached yet: give the id "+
	"of the last event that was received here, or leave it out to begin with what happens from now on.")
