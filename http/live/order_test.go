package live

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"millrace"
)

func TestOrderStreamReplaysHistoryAndGoesOnLive(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	// Sweeps are out of the way: history and what is rung for come by themselves.
	n := newNode(t, s, nodeOptions{configure: func(c *Config) { c.Sweep = time.Hour }})
	o := s.order(uuidNew())
	s.mustWrite(o, 3)

	c := n.open(n.orderURL(o))
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
		if got := c.resp.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	c.wantVersions(1, 3)
	s.mustWrite(o, 1)
	c.wantVersions(4, 4)
	s.mustWrite(o, 5)
	c.wantVersions(5, 9)
	if got := n.hub.Stats(); got.OrderStreams != 1 || got.ManyStreams != 0 || got.Orders != 1 || got.Delivered < 8 {
		t.Errorf("stats: %+v", got)
	}
}

// Nothing rings and no sweep comes: opening a stream is reason enough to read.
func TestOpeningAStreamReadsItsHistory(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	o := s.order(uuidNew())
	s.mustWrite(o, 3)
	n := newNode(t, s, nodeOptions{deaf: true, configure: func(c *Config) { c.Sweep = time.Hour }})
	<-n.hub.ready // the first sweep is over
	n.open(n.orderURL(o)).wantVersions(1, 3)
}

func TestMessageHasTheDocumentedShape(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	n := newNode(t, s, nodeOptions{deaf: true})
	o := s.order(uuidNew())
	s.mustWrite(o, 1)
	b, err := n.open(n.orderURL(o)).event()
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	if err := json.Unmarshal([]byte(b.data), &m); err != nil {
		t.Fatal(err)
	}
	at, err := time.Parse(time.RFC3339Nano, m["at"].(string))
	if err != nil || time.Since(at) > time.Hour {
		t.Errorf("at is %v: %v", m["at"], err)
	}
	delete(m, "at")
	got, _ := json.Marshal(m)
	want := `{"data":{"n":1},"fulfillment_status":"unfulfilled","order_id":"` + o.OrderID.String() +
		`","payment_status":"unpaid","status":"processing","type":"stock.reserved","version":1}`
	if string(got) != want || b.event != "stock.reserved" || b.id != "1" {
		t.Errorf("got id %q, event %q, data %s\nwant %s", b.id, b.event, got, want)
	}
}

func TestOrderStreamResumesAfterLastEventID(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{})
	o := s.order(uuidNew())
	s.mustWrite(o, 5)
	n.open(n.orderURL(o), "Last-Event-ID", "2").wantVersions(3, 5)
	n.open(n.orderURL(o)+"?last_event_id=4").wantVersions(5, 5)
	n.open(n.orderURL(o)+"?last_event_id=1", "Last-Event-ID", "3").wantVersions(4, 5)

	dropped := n.open(n.orderURL(o))
	dropped.wantVersions(1, 5)
	dropped.close()
	s.mustWrite(o, 2)
	again := n.open(n.orderURL(o), "Last-Event-ID", dropped.lastID)
	again.wantVersions(6, 7)
	s.mustWrite(o, 1)
	again.wantVersions(8, 8)
}

func TestBadLastEventIDIsRefusedWithAReason(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	n := newNode(t, s, nodeOptions{deaf: true})
	o := s.order(uuidNew())
	s.mustWrite(o, 3)
	one, many := n.orderURL(o), n.manyURL(o.CustomerID)
	for name, c := range map[string]struct{ url, id, says string }{
		"not a number":             {one, "abc", "must be a whole number"},
		"negative":                 {one, "-1", "must be a whole number"},
		"signed":                   {one, "+1", "must be a whole number"},
		"fraction":                 {one, "1.5", "must be a whole number"},
		"from the future":          {one, "4", "past this order's last event, which is 3"},
		"larger than any version":  {one, "99999999999999999999999", "past this order's last event"},
		"a cursor for one order":   {one, string(encodeCursor(700)), "must be a whole number"},
		"a version for many":       {many, "3", "not an id of this stream"},
		"no base64":                {many, "a***", "not an id of this stream"},
		"cursor cut short":         {many, "a", "not an id of this stream"},
		"cursor zero":              {many, "aAA", "not an id of this stream"},
		"cursor not minimal":       {many, "aggA", "not an id of this stream"},
		"cursor of a later form":   {many, "b" + string(encodeCursor(700))[1:], "not an id of this stream"},
		"very long cursor":         {many, strings.Repeat("a", 4000), "not an id of this stream"},
		"cursor from the future":   {many, string(encodeCursor(1 << 40)), "not reached yet"},
		"cursor beyond all bounds": {many, string(encodeCursor(-1)), "not an id of this stream"},
	} {
		for _, way := range []string{"header", "query"} {
			t.Run(name+" by "+way, func(t *testing.T) {
				t.Parallel()
				url, headers := c.url, []string{"Last-Event-ID", c.id}
				if way == "query" {
					sep := "?"
					if strings.Contains(url, "?") {
						sep = "&"
					}
					url, headers = url+sep+"last_event_id="+strings.ReplaceAll(c.id, "+", "%2B"), nil
				}
				resp := n.get(url, headers...)
				var problem struct {
					Status       int
					Code, Detail string
				}
				if err := json.Unmarshal([]byte(resp.text), &problem); err != nil {
					t.Fatalf("%v: %s", err, resp.text)
				}
				if resp.status != 400 || problem.Status != 400 || problem.Code != "invalid" || !strings.Contains(problem.Detail, c.says) {
					t.Errorf("%d: %s", resp.status, resp.text)
				}
				if got := resp.header.Get("Content-Type"); got != "application/problem+json" {
					t.Errorf("Content-Type %q", got)
				}
			})
		}
	}
	t.Cleanup(func() { // once all of the above are done
		if got := n.hub.Stats(); got.OrderStreams+got.ManyStreams != 0 || got.Rejected != 32 {
			t.Errorf("refused requests hold streams: %+v", got)
		}
	})
}

func TestHeadGetsNoStream(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	n := newNode(t, s, nodeOptions{deaf: true})
	o := s.order(uuidNew())
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodHead, n.orderURL(o), nil)
	resp, err := n.server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusMethodNotAllowed || resp.Header.Get("Allow") != "GET" {
		t.Errorf("%s, Allow %q", resp.Status, resp.Header.Get("Allow"))
	}
}

func TestLongHistoryWaitsForASlowClientRatherThanOverflow(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{configure: func(c *Config) { c.Window, c.Buffer = 2, 3 }})
	o := s.order(uuidNew())
	s.mustWrite(o, 500)
	c := n.open(n.orderURL(o))
	c.wantVersions(1, 500)
	s.mustWrite(o, 1)
	c.wantVersions(501, 501)
	if got := n.hub.Stats().Overflows; got != 0 {
		t.Errorf("%d overflows", got)
	}
}

func TestStreamStaysOpenAfterTheOrderIsFinal(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{})
	o := s.order(uuidNew())
	if err := s.writeStatus(t.Context(), o, 2, millrace.OrderCompleted); err != nil {
		t.Fatal(err)
	}
	c := n.open(n.orderURL(o))
	c.wantVersions(1, 2)
	if err := s.writeStatus(t.Context(), o, 1, millrace.OrderCompleted); err != nil { // a refund
		t.Fatal(err)
	}
	c.wantVersions(3, 3)
}

func TestStreamEndsWithTheFinalOrderWhereSoConfigured(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	newDoorbell(t, s)
	n := newNode(t, s, nodeOptions{configure: func(c *Config) { c.EndWhenFinal = true }})
	o := s.order(uuidNew())
	s.mustWrite(o, 2)
	c := n.open(n.orderURL(o))
	c.wantVersions(1, 2)
	if err := s.writeStatus(t.Context(), o, 1, millrace.OrderCanceled); err != nil {
		t.Fatal(err)
	}
	c.wantVersions(3, 3)
	if b, err := c.event(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %+v, %v", b, err)
	}
	if resp := n.get(n.orderURL(o), "Last-Event-ID", c.lastID); resp.status != http.StatusNoContent {
		t.Errorf("coming back for more: %d, want 204", resp.status)
	}
	n.open(n.orderURL(o)).wantVersions(1, 3)
}
