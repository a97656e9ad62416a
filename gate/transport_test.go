package gate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// scripted is an upstream that answers as a test says.
type scripted struct {
	addr     string
	conns    atomic.Int32
	requests atomic.Int32
}

// startScripted has answer called for each request, with the number of the connection and of the request on it, both from 1. It closes
// the connection once answer returns false.
func startScripted(t *testing.T, answer func(c net.Conn, conn, request int) bool) *scripted {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &scripted{addr: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			n := int(s.conns.Add(1))
			wg.Go(func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for k := 1; ; k++ {
					req, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					if _, err := io.Copy(io.Discard, req.Body); err != nil {
						return
					}
					s.requests.Add(1)
					if !answer(c, n, k) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return s
}

func say(c net.Conn, text string) bool {
	_, err := io.WriteString(c, text)
	return err == nil
}

const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// get asks once and returns the body.
func get(t *testing.T, rt http.RoundTripper, method, addr string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+"/", nil)
	require.NoError(t, err)
	res, err := rt.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// begun asks and returns the answer before its body is read.
func begun(t *testing.T, rt http.RoundTripper, addr string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/", nil)
	require.NoError(t, err)
	res, err := rt.RoundTrip(req)
	require.NoError(t, err)
	return res
}

func TestAConnectionToAnUpstreamIsUsedAgain(t *testing.T) {
	t.Parallel()
	answers := []string{
		fine, "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 304 Not Modified\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + fine, fine,
	}
	s := startScripted(t, func(c net.Conn, _, k int) bool { return say(c, answers[k-1]) })
	tr := newTransport()
	defer tr.close()
	for range answers {
		_, err := get(t, tr, http.MethodGet, s.addr)
		require.NoError(t, err)
	}
	require.EqualValues(t, 1, s.conns.Load())

	head := startScripted(t, func(c net.Conn, _, _ int) bool { return say(c, "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n") })
	for range 3 {
		body, err := get(t, tr, http.MethodHead, head.addr)
		require.NoError(t, err)
		require.Empty(t, body)
	}
	require.EqualValues(t, 1, head.conns.Load())
}

// What an upstream says after its answer, or before it was asked, is no answer to the next request.
func TestWhatAnUpstreamSaysUnaskedIsNoAnswer(t *testing.T) {
	t.Parallel()
	const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
	for name, answer := range map[string]func(c net.Conn) bool{
		"with its answer":  func(c net.Conn) bool { return say(c, fine+poison) },
		"a little later":   func(c net.Conn) bool { say(c, fine); <-time.After(50 * time.Millisecond); return say(c, poison) },
		"half of one":      func(c net.Conn) bool { return say(c, fine+"HTTP/1.1 200 OK\r\nX: ") },
		"after no content": func(c net.Conn) bool { return say(c, "HTTP/1.1 204 No Content\r\n\r\n"+poison) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startScripted(t, func(c net.Conn, conn, _ int) bool {
				if conn == 1 {
					return answer(c)
				}
				return say(c, fine)
			})
			tr := newTransport()
			defer tr.close()
			_, err := get(t, tr, http.MethodGet, s.addr)
			require.NoError(t, err)
			<-time.After(100 * time.Millisecond)
			body, err := get(t, tr, http.MethodGet, s.addr)
			require.NoError(t, err)
			require.Equal(t, "ok", body)
			require.EqualValues(t, 2, s.conns.Load())
		})
	}
}

// An upstream may close a connection whenever it waits, even in the moment in which it is sent the next request.
func TestAConnectionThatTheUpstreamClosedIsReplaced(t *testing.T) {
	t.Parallel()
	for name, close := range map[string]func(conn, k int) bool{
		"while it waits":               func(conn, k int) bool { return conn == 1 && k == 1 },
		"when it is sent the next one": func(conn, k int) bool { return conn == 1 && k == 2 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startScripted(t, func(c net.Conn, conn, k int) bool {
				if close(conn, k) {
					return k == 1 && say(c, fine) && false
				}
				return say(c, fine)
			})
			tr := newTransport()
			defer tr.close()
			for range 3 {
				body, err := get(t, tr, http.MethodGet, s.addr)
				require.NoError(t, err)
				require.Equal(t, "ok", body)
				<-time.After(50 * time.Millisecond)
			}
			require.EqualValues(t, 2, s.conns.Load())
		})
	}
}

// A request that may have had an effect is not sent again.
func TestAPostIsSentOnce(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]func() (io.Reader, int64){
		"with a body":    func() (io.Reader, int64) { return newWholeBody([]byte("order")), 5 },
		"without a body": func() (io.Reader, int64) { return nil, 0 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startScripted(t, func(c net.Conn, _, k int) bool { return k == 1 && say(c, fine) })
			tr := newTransport()
			defer tr.close()
			post := func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				content, length := body()
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+s.addr+"/", content)
				require.NoError(t, err)
				req.ContentLength = length
				res, err := tr.RoundTrip(req)
				if err != nil {
					return err
				}
				defer res.Body.Close()
				_, err = io.ReadAll(res.Body)
				return err
			}
			require.NoError(t, post())
			require.Error(t, post())
			require.EqualValues(t, 2, s.requests.Load())
		})
	}
}

// What would not be one request by the letter is not sent.
func TestWhatIsNoRequestIsNotSent(t *testing.T) {
	t.Parallel()
	s := startScripted(t, func(c net.Conn, _, _ int) bool { return say(c, fine) })
	tr := newTransport()
	defer tr.close()
	for name, spoil := range map[string]func(*http.Request){
		"a method with a space": func(r *http.Request) { r.Method = "GET /smuggled" },
		"a method with a line":  func(r *http.Request) { r.Method = "GET / HTTP/1.1\r\nX:" },
		"a line in a header":    func(r *http.Request) { r.Header["X-A"] = []string{"a\r\nX-B: b"} },
		"a line in a name":      func(r *http.Request) { r.Header["X-A\r\nX-B"] = []string{"b"} },
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.addr+"/", nil)
		require.NoError(t, err)
		spoil(req)
		res, err := tr.RoundTrip(req)
		if err == nil {
			require.NoError(t, res.Body.Close())
		}
		require.Error(t, err, name)
	}
	require.Zero(t, s.conns.Load())
}

// What an upstream does wrong is an error of that one request, which is not sent again.
func TestAnUpstreamThatAnswersWronglyIsAskedOnce(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(c net.Conn) bool{
		"nothing":       func(net.Conn) bool { return false },
		"half a header": func(c net.Conn) bool { say(c, "HTTP/1.1 200 OK\r\nContent-Le"); return false },
		"no HTTP":       func(c net.Conn) bool { return say(c, "hello\r\n\r\n") },
		"a long header": func(c net.Conn) bool {
			return say(c, "HTTP/1.1 200 OK\r\n"+strings.Repeat("X-A: "+strings.Repeat("a", 1000)+"\r\n", 70)+"Content-Length: 2\r\n\r\nok")
		},
		"hints without end": func(c net.Conn) bool { return say(c, strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 20)+fine) },
		"another protocol": func(c net.Conn) bool {
			return say(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n")
		},
		"two lengths": func(c net.Conn) bool {
			return say(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk")
		},
		"a length of no sense": func(c net.Conn) bool { return say(c, "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startScripted(t, func(c net.Conn, _, _ int) bool { return answer(c) })
			tr := newTransport()
			defer tr.close()
			_, err := get(t, tr, http.MethodGet, s.addr)
			require.Error(t, err)
			require.EqualValues(t, 1, s.requests.Load())
			require.Empty(t, tr.idle[s.addr])
		})
	}
}

func TestAConnectionWhoseAnswerWasNotReadToItsEndIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"given up":    "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("a", 100000),
		"to be ended": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
		"HTTP/1.0":    "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startScripted(t, func(c net.Conn, _, _ int) bool { return say(c, answer) })
			tr := newTransport()
			defer tr.close()
			for range 2 {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.addr+"/", nil)
				require.NoError(t, err)
				res, err := tr.RoundTrip(req)
				require.NoError(t, err)
				_, err = io.CopyN(io.Discard, res.Body, 2)
				require.NoError(t, err)
				if name != "given up" {
					_, err = io.Copy(io.Discard, res.Body)
					require.NoError(t, err)
				}
				require.NoError(t, res.Body.Close())
			}
			require.EqualValues(t, 2, s.conns.Load())
		})
	}
}

// The rest of an answer that was given up is no answer to the next request, however late it comes.
func TestTheRestOfAnAnswerIsNoAnswer(t *testing.T) {
	t.Parallel()
	s := startScripted(t, func(c net.Conn, conn, k int) bool {
		switch {
		case conn == 1 && k == 1:
			return say(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")
		case conn == 1:
			return say(c, strings.Repeat("a", 98)+fine)
		}
		return say(c, fine)
	})
	tr := newTransport()
	defer tr.close()
	res := begun(t, tr, s.addr)
	_, err := io.CopyN(io.Discard, res.Body, 2)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	body, err := get(t, tr, http.MethodGet, s.addr)
	require.NoError(t, err)
	require.Equal(t, "ok", body)
}

// Half an answer stays half an answer, however often it is read on.
func TestABrokenBodyStaysBroken(t *testing.T) {
	t.Parallel()
	s := startScripted(t, func(c net.Conn, _, _ int) bool {
		say(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok")
		return false
	})
	tr := newTransport()
	defer tr.close()
	res := begun(t, tr, s.addr)
	for range 3 {
		_, err := io.ReadAll(res.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	}
	require.NoError(t, res.Body.Close())
}

// A request that is over, for whatever reason, does not wait for its upstream, and says why it is over.
func TestARequestThatIsOverLeavesItsUpstream(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"before the header": "", "in the header": "HTTP/1.1 200 OK\r\nX: ", "in the body": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nok",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			asked := make(chan struct{})
			gone := make(chan struct{})
			s := startScripted(t, func(c net.Conn, _, _ int) bool {
				say(c, answer)
				close(asked)
				_, _ = c.Read(make([]byte, 1))
				close(gone)
				return false
			})
			tr := newTransport()
			defer tr.close()
			why := errors.New("it is over")
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/", nil)
			require.NoError(t, err)
			go func() { <-asked; cancel(why) }()
			res, err := tr.RoundTrip(req)
			if err == nil {
				_, err = io.ReadAll(res.Body)
				require.NoError(t, res.Body.Close())
			}
			require.ErrorIs(t, err, why)
			<-gone
			require.EqualValues(t, 1, s.requests.Load())
		})
	}
}

func TestConnectionsThatWaitTooLongAreClosed(t *testing.T) {
	t.Parallel()
	var gone sync.WaitGroup
	gone.Add(2)
	s := startScripted(t, func(c net.Conn, _, _ int) bool {
		say(c, fine)
		_, _ = c.Read(make([]byte, 1)) // until the other side closes
		gone.Done()
		return false
	})
	tr := newTransport()
	var bodies []io.ReadCloser
	for range 2 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.addr+"/", nil)
		require.NoError(t, err)
		res, err := tr.RoundTrip(req) //nolint:bodyclose // they are closed below
		require.NoError(t, err)
		bodies = append(bodies, res.Body)
	}
	for _, body := range bodies {
		_, err := io.ReadAll(body)
		require.NoError(t, err)
		require.NoError(t, body.Close())
	}
	require.Len(t, tr.idle[s.addr], 2)
	first := tr.idle[s.addr][0].idleSince
	tr.closeIdle(first)
	require.Len(t, tr.idle[s.addr], 2, "none has waited since before the first came back")
	tr.closeIdle(first.Add(time.Nanosecond))
	require.Len(t, tr.idle[s.addr], 1)
	tr.close()
	gone.Wait()
}

// Whatever an upstream answers, it is taken as net/http's transport takes it, and nothing that is left of it answers the next request.
func FuzzAnswers(f *testing.F) {
	for _, answer := range []string{
		fine, fine + fine, "HTTP/1.1 204 No Content\r\n\r\n" + fine, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nto the end",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nTrailer: x\r\n\r\n" + fine, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0",
		"HTTP/1.1 100 Continue\r\n\r\n" + fine, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "HTTP/1.1 99 Odd\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok!", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok" + fine, "nonsense", "", "HTTP/1.1 000 \n\n0",
	} {
		f.Add(answer, true)
		f.Add(answer, false)
	}
	f.Fuzz(func(t *testing.T, answer string, ends bool) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				wg.Go(func() {
					defer c.Close()
					in := bufio.NewReader(c)
					for {
						req, err := http.ReadRequest(in)
						if err != nil {
							return
						}
						if req.URL.Path == "/next" {
							say(c, fine)
						} else if say(c, answer); ends {
							return
						}
					}
				})
			}
		})
		patience := 50 * time.Millisecond // with half an answer
		if ends {
			patience = 20 * time.Second
		}
		tr := newTransport()
		got := answerOf(t, tr, l.Addr().String(), "/first", patience)
		again := answerOf(t, tr, l.Addr().String(), "/next", 20*time.Second)
		want := got
		if ends {
			want = answerOf(t, tr.full, l.Addr().String(), "/first", patience)
		}
		tr.close()
		l.Close()
		wg.Wait()
		require.Equal(t, "200 ok", again)
		if !strings.HasPrefix(want, "101 ") { // http.Transport hands the connection over with it
			require.Equal(t, want, got)
		}
	})
}

// answerOf asks for a path and says what was answered.
func answerOf(t *testing.T, rt http.RoundTripper, addr, path string, patience time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	require.NoError(t, err)
	res, err := rt.RoundTrip(req)
	if err != nil {
		return "no answer"
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Sprint(res.StatusCode, " broken after ", string(body))
	}
	return fmt.Sprint(res.StatusCode, " ", string(body))
}
