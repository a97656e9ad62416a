package gate

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestBodiesArriveWholeWhateverTheirSizeAndFraming(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, size := range []int{0, 1, smallBody - 1, smallBody, smallBody + 1, 100 << 10} {
		body := strings.Repeat("x", size)
		chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", size, body)
		if size == 0 {
			chunked = "0\r\n\r\n"
		}
		for name, framed := range map[string]string{
			"length":          fmt.Sprintf("Content-Length: %d\r\n\r\n%s", size, body),
			"chunks":          "Transfer-Encoding: chunked\r\n\r\n" + chunked,
			"length, awaited": fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%s", size, body),
		} {
			before := b.upstream.count()
			status, rest := b.raw("POST /open/a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + framed)
			if strings.Contains(status, " 100 ") {
				_, rest, _ = strings.Cut(rest, "\r\n\r\n")
			} else if !strings.Contains(status, " 200 ") {
				t.Errorf("%d bytes by %s: %s", size, name, status)
			}
			if !strings.Contains(rest, "upstream POST") {
				t.Errorf("%d bytes by %s: answered %s", size, name, rest)
			}
			b.upstream.mu.Lock()
			if n := len(b.upstream.bodies); n != before+1 || b.upstream.bodies[n-1] != body {
				t.Errorf("%d bytes by %s: the upstream got %d requests, the last of %d bytes", size, name, n-before, len(b.upstream.bodies[n-1]))
			}
			b.upstream.mu.Unlock()
		}
	}
}

func TestAClientThatLeavesAmidASmallBodyNeverReachesTheUpstream(t *testing.T) {
	t.Parallel()
	b := setup(t)
	conn, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, "POST /open/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	if answer, err := io.ReadAll(conn); err != nil || len(answer) > 0 {
		t.Errorf("answered %q, %v", answer, err)
	}
	conn.Close()
	if err := b.stop(); err != nil {
		t.Error(err)
	}
	if n := b.upstream.count(); n != 0 {
		t.Errorf("%d requests came through", n)
	}
	if !strings.Contains(b.logs.String(), "client_gone") {
		t.Errorf("the log does not say that the client left: %s", b.logs)
	}
}
