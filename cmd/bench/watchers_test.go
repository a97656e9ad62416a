package main

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestWatchersReadEventsWhateverTheChunks(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 3000)
	for name, test := range map[string]struct{ stream, want []string }{
		"comments, ids and types are no events": {[]string{"id: 1\n: open\nretry: 1000\n\n", "id: 2\nevent: order.placed\ndata: a\n\n", ": quiet\n\n"}, []string{"a"}},
		"several in a chunk":                    {[]string{"data: a\n\ndata: b\n\n"}, []string{"a", "b"}},
		"one over several chunks":               {[]string{"da", "ta: a", "b\n", "\n"}, []string{"ab"}},
		"the beginning of a long one":           {[]string{"data: " + long + "\n\ndata: b\n\n"}, []string{long[:1024-len("data: ")], "b"}},
		"none":                                  {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var body strings.Builder
			for _, chunk := range test.stream {
				fmt.Fprintf(&body, "%x\r\n%s\r\n", len(chunk), chunk)
			}
			body.WriteString("0\r\n\r\n")
			var got []string
			err := readEvents(bufio.NewReader(strings.NewReader(body.String())), func(data []byte) { got = append(got, string(data)) })
			if err == nil || !slices.Equal(got, test.want) {
				t.Errorf("read %q and ended with %v, want %q and the end of the stream", got, err, test.want)
			}
		})
	}
}

// streamOf serves what a stream would say, and holds it open until the client leaves.
func streamOf(t *testing.T, status int, says string) (addr string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = w.Write([]byte(says)) // the client sees it or fails
		_ = http.NewResponseController(w).Flush()
		if status == http.StatusOK {
			<-r.Context().Done()
		}
	}))
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func anyStream(addr string, n int, got func(int, []byte)) watch {
	text := func(int) string { return "/" }
	return watch{addr: addr, streams: n, path: text, token: text, got: got}
}

func TestWatchersHearEachStream(t *testing.T) {
	t.Parallel()
	const n = 70
	var heard sync.WaitGroup
	heard.Add(n)
	all, err := anyStream(streamOf(t, 200, "data: a\n\n"), n, func(int, []byte) { heard.Done() }).open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	heard.Wait()
	if err := all.close(); err != nil {
		t.Error(err)
	}
}

func TestARefusedStreamIsAnErrorThatSaysWhy(t *testing.T) {
	t.Parallel()
	_, err := anyStream(streamOf(t, 503, "too many"), 3, func(int, []byte) {}).open(t.Context())
	if err == nil || !strings.Contains(err.Error(), "503") || !strings.Contains(err.Error(), "too many") {
		t.Errorf("got %v, want an error with the status and the text", err)
	}
}

func TestAStreamThatEndsByItselfIsAnError(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _ = http.NewResponseController(w).Flush() }))
	t.Cleanup(server.Close)
	all, err := anyStream(server.Listener.Addr().String(), 1, func(int, []byte) {}).open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all.wg.Wait()
	if err := all.close(); err == nil {
		t.Error("no error")
	}
}

func TestLagsCountFromTheCommitOfTheEvent(t *testing.T) {
	t.Parallel()
	var l lags
	l.begin()
	order := uuid.New()
	data := func(at time.Time) []byte {
		return fmt.Appendf(nil, `{"order_id":"%s","version":1,"type":"order.placed","at":"%s","data":{}}`, order, at.UTC().Format(time.RFC3339Nano))
	}
	now := time.Now()
	l.since = now.Add(-time.Minute)
	l.commits[order] = []time.Time{now.Add(-40 * time.Second), now.Add(-20 * time.Second), now.Add(-5 * time.Second), now.Add(time.Minute)}
	l.arrived(data(now.Add(-21 * time.Second)))
	l.arrived(data(now.Add(-2 * time.Minute))) // before anything counted
	l.arrived([]byte(`{"order_id":"nonsense"}`))
	l.arrived(data(now.Add(-time.Second))) // its commit is noted later than it arrives
	h := l.end()
	if h.TotalCount() != 2 || h.Min() != 0 || h.Max() < 19_900_000 || h.Max() > 25_000_000 {
		t.Errorf("counted %d from %d to %d us, want one of nothing and one of 20 s, the time from the second commit", h.TotalCount(), h.Min(), h.Max())
	}
}

func TestParseEvent(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("01938d2f-0000-7000-8000-000000000001")
	for data, ok := range map[string]bool{
		`{"order_id":"01938d2f-0000-7000-8000-000000000001","version":3,"at":"2026-01-02T03:04:05.000006Z","data":{}}`: true,
		`{"order_id":"01938d2f-0000-7000-8000-000000000001","version":3,"data":{}}`:                                    false,
		`{"order_id":"01938d2f-0000-7000-8000-000000000001","at":"2026-01-02T03:04:05`:                                 false,
		`{"order_id":"01938d2f-0000-7000-8000-00000000000g","at":"2026-01-02T03:04:05Z"}`:                              false,
		`{"order_id":"0193`: false,
		`{}`:                false,
		``:                  false,
	} {
		order, at, got := parseEvent([]byte(data))
		if got != ok || ok && (order != id || !at.Equal(time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC))) {
			t.Errorf("%s: got %s, %s, %t", data, order, at, got)
		}
	}
}
