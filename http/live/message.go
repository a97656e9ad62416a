package live

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/r3labs/sse/v2"

	"millrace"
)

// message is one event as it is sent: encoded once, shared by all connections, never changed.
type message struct {
	sse     *sse.Event
	order   uuid.UUID
	version int32 // 0 for what is no event
	at      time.Time
}

// encoder makes an event's messages when the first connection wants them.
type encoder struct {
	event  *millrace.Event
	data   []byte
	single *message
	many   *message
}

// forOrder is the event on its order's stream: its id is the version.
func (e *encoder) forOrder() *message {
	if e.single == nil {
		e.single = e.message(strconv.AppendInt(nil, int64(e.event.Version), 10))
	}
	return e.single
}

// forMany is the event on streams of many orders, all at the same cursor.
func (e *encoder) forMany(cursor []byte) *message {
	if e.many == nil {
		e.many = e.message(cursor)
	}
	return e.many
}

func (e *encoder) message(id []byte) *message {
	if e.data == nil {
		e.data = appendData(make([]byte, 0, 256+len(e.event.Data)), e.event)
	}
	return &message{sse: &sse.Event{ID: id, Event: []byte(oneLine(string(e.event.Type))), Data: e.data},
		order: e.event.OrderID, version: e.event.Version, at: e.event.At}
}

// appendData appends the event as one line of JSON.
func appendData(b []byte, e *millrace.Event) []byte {
	b = append(b, `{"order_id":"`...)
	text, _ := e.OrderID.MarshalText() // never fails
	b = append(append(b, text...), `","version":`...)
	b = strconv.AppendInt(b, int64(e.Version), 10)
	b = appendString(append(b, `,"type":`...), string(e.Type))
	b = appendString(append(b, `,"status":`...), string(e.Status))
	b = appendString(append(b, `,"payment_status":`...), string(e.PaymentStatus))
	b = appendString(append(b, `,"fulfillment_status":`...), string(e.FulfillmentStatus))
	b = append(b, `,"at":"`...)
	b = e.At.UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, `","data":`...)
	return append(appendObject(b, e.Data), '}')
}

// appendString appends s as a JSON string. Statuses and types are plain; anything else takes the long way.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string always encodes
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// appendObject appends raw on one line, or an empty object where it is missing or broken.
func appendObject(b []byte, raw json.RawMessage) []byte {
	switch {
	case len(raw) == 0:
		return append(b, '{', '}')
	case !bytes.ContainsAny(raw, "\r\n"):
		return append(b, raw...)
	}
	buf := bytes.NewBuffer(b)
	if err := json.Compact(buf, raw); err != nil {
		return append(b, '{', '}')
	}
	return buf.Bytes()
}

// oneLine removes what would end a field early.
func oneLine(s string) string {
	if !strings.ContainsAny(s, "\r\n") {
		return s
	}
	return strings.NewReplacer("\r", "", "\n", "").Replace(s)
}

// heartbeat is sent on quiet streams of one order.
var heartbeat = &message{sse: &sse.Event{Comment: []byte("quiet")}}

// note makes a message that no client dispatches as an event, since it has no data: it sets the id to resume from and, unless retry is
// 0, the time to wait before reconnecting. r3labs/sse writes data that begins with a colon as it stands, which makes it a comment.
func note(id []byte, retry time.Duration, comment string) *message {
	e := &sse.Event{ID: id, Data: []byte(": " + comment)}
	if retry > 0 {
		e.Retry = strconv.AppendInt(nil, retry.Milliseconds(), 10)
	}
	return &message{sse: e}
}
