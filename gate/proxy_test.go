package gate

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestASlowUpstreamIsGivenUp(t *testing.T) {
	t.Parallel()
	b := setupRoutes(t, `
routes:
  - {path: /, upstream: "%s", allow: [public], timeout: 200ms}
  - {path: /gone/, upstream: "http://127.0.0.1:1", allow: [public]}
`)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	b.upstream.serve(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	b.get("/a").want(t, 504, "upstream_timeout")
	res := b.get("/gone/a")
	res.want(t, 502, "upstream_failed")
	if strings.Contains(res.body, "127.0.0.1") {
		t.Errorf("the cause reached the client: %s", res.body)
	}
}

// What net/http reads and cannot write goes to no client, whichever way the request went.
func TestAnAnswerWithoutAStatusIsNone(t *testing.T) {
	t.Parallel()
	upstream := startScripted(t, func(c net.Conn, _, _ int) bool { return say(c, "HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nok") })
	b := setupRoutes(t, fmt.Sprintf(`
routes:
  - {path: /, upstream: "http://%s", allow: [public]}
`, upstream.addr))
	b.get("/a").want(t, 502, "upstream_failed")
	b.do(b.client(), "PROPFIND", "/a", "").want(t, 502, "upstream_failed") // by http.Transport
}

func TestHalfAnAnswerIsNotTakenForAWholeOne(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.upstream.serve(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	res, err := b.client().Get(b.url + "/open/a")
	if err == nil {
		_, err = io.ReadAll(res.Body)
		res.Body.Close()
	}
	if err == nil {
		t.Error("the client did not notice")
	}
	if err := b.stop(); err != nil || !strings.Contains(b.logs.String(), "upstream_failed") { // logged once the answer is over
		t.Errorf("the log does not say whose fault it is: %v %s", err, b.logs)
	}
}
