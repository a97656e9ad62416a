package gate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ticking is an upstream that streams events for as long as it is listened to, and echoes what it hears by WebSocket.
func ticking(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
			if err != nil {
				t.Errorf("accept: %v", err)
				return
			}
			defer func() { _ = conn.CloseNow() }()
			for {
				kind, text, err := conn.Read(r.Context())
				if err != nil {
					return
				}
				if err := conn.Write(r.Context(), kind, text); err != nil {
					return
				}
			}
		}
		w.Header().Set("Content-Type", "text/event-stream")
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(w, "id: %d\ndata: tick\n\n", i); err != nil {
				return
			}
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

// events opens a stream and waits for its first event. The channel gets what came last when the stream ends.
func (b *bundle) events(c *http.Client, base, path string, headers ...string) chan string {
	b.Helper()
	c.Timeout = 0
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, "GET", base+path, nil)
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.Do(req) //nolint:bodyclose // closed where it is read
	if err != nil {
		b.Fatal(err)
	}
	if res.StatusCode != 200 {
		b.Fatalf("stream: %d", res.StatusCode)
	}
	reader := bufio.NewReader(res.Body)
	if _, err := reader.ReadString('\n'); err != nil {
		b.Fatal(err)
	}
	done := make(chan string, 1)
	go func() {
		defer res.Body.Close()
		text, err := io.ReadAll(reader)
		if err != nil {
			text = append(text, fmt.Sprintf("\nERROR %v", err)...)
		}
		done <- string(text[max(0, len(text)-200):])
	}()
	return done
}

// ends waits for a stream's end, as long as the gate has to end it.
func ends(t *testing.T, done chan string) string {
	t.Helper()
	select {
	case text := <-done:
		return text
	case <-time.After(5 * time.Second):
		t.Fatal("the stream is still open after 5 s")
		return ""
	}
}

// another is a second gate process on the same database.
func (b *bundle) another() *bundle {
	b.Helper()
	other := &bundle{TB: b.TB, upstream: b.upstream, databaseURL: b.databaseURL, logs: &syncBuffer{}, customerKey: b.customerKey, operatorKey: b.operatorKey}
	other.start(fmt.Sprintf(defaultRoutes, b.upstream.server.URL))
	return other
}

func TestAttackStreamsEndWithTheirCredential(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.upstream.serve(ticking(t))
	here, there := b, b.another()
	store := b.gate.Store()
	session := func(on *bundle) (*http.Client, chan string) {
		c := on.loggedIn(customerEmail, customerPassword)
		return c, on.events(c, on.url, "/v1/stream")
	}
	t.Run("logout, on the same process and on another", func(t *testing.T) {
		c, first := session(here)
		second := there.events(c, there.url, "/v1/stream")
		b.post(c, "/auth/logout", nil).want(t, 303, "")
		ends(t, first)
		ends(t, second)
	})
	t.Run("logout everywhere", func(t *testing.T) {
		_, first := session(there)
		c, second := session(here)
		b.post(c, "/auth/sessions/end", nil).want(t, 303, "")
		ends(t, first)
		ends(t, second)
	})
	t.Run("a revoked key", func(t *testing.T) {
		key := b.newKey(NewKey{Email: customerEmail})
		first := here.events(b.client(), here.url, "/v1/stream", "Authorization", bearer(key))
		second := there.events(b.client(), there.url, "/v1/stream", "Authorization", bearer(key))
		other := there.events(b.client(), there.url, "/v1/stream", "Authorization", bearer(b.operatorKey))
		id, _ := parseKeyToken(key)
		if err := store.RevokeKey(t.Context(), id, 0); err != nil {
			t.Fatal(err)
		}
		ends(t, first)
		ends(t, second)
		select {
		case text := <-other:
			t.Errorf("somebody else's stream ended too: %s", text)
		default:
		}
	})
	t.Run("a key that expires in flight", func(t *testing.T) {
		key := b.newKey(NewKey{Email: customerEmail, ExpiresAt: time.Now().Add(time.Second)})
		done := there.events(b.client(), there.url, "/v1/stream", "Authorization", bearer(key))
		pause(t, time.Second) // its life; the end may then take up to 5 s
		ends(t, done)
		there.get("/v1/a", "Authorization", bearer(key)).want(t, 401, "bad_credential")
	})
	t.Run("a disabled user", func(t *testing.T) {
		_, done := session(there)
		if _, err := store.DisableUser(t.Context(), customerEmail); err != nil {
			t.Fatal(err)
		}
		ends(t, done)
		if _, err := store.EnableUser(t.Context(), customerEmail); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("while the news is lost: revoked in the database alone", func(t *testing.T) {
		_, done := session(there)
		if _, err := store.pool.Exec(t.Context(), `UPDATE gate.sessions SET revoked_at = now()`); err != nil {
			t.Fatal(err)
		}
		ends(t, done)
	})
	t.Run("a WebSocket", func(t *testing.T) {
		c := there.loggedIn(customerEmail, customerPassword)
		conn, _, err := websocket.Dial(t.Context(), there.url+"/v1/socket", &websocket.DialOptions{HTTPClient: noTimeout(c)}) //nolint:bodyclose // a WebSocket has no body
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.CloseNow() }()
		if err := conn.Write(t.Context(), websocket.MessageText, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, text, err := conn.Read(t.Context()); err != nil || string(text) != "hello" {
			t.Fatalf("%q %v", text, err)
		}
		there.post(c, "/auth/logout", nil).want(t, 303, "")
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != wsPolicyViolation {
			t.Errorf("the WebSocket ended with %v", err)
		}
	})
}

// pause waits between two looks at something that gives no signal.
func pause(t testing.TB, d time.Duration) {
	t.Helper()
	select {
	case <-t.Context().Done():
	case <-time.After(d):
	}
}

func noTimeout(c *http.Client) *http.Client {
	c.Timeout = 0
	return c
}

func TestRevocationsAreHeardAgainAfterTheConnectionBroke(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.loggedIn(customerEmail, customerPassword)
	b.do(c, "GET", "/v1/a", "").want(t, 200, "")
	for b.gate.Ready(t.Context()) != nil {
		pause(t, 10*time.Millisecond)
	}
	killed := 0
	if err := b.gate.store.pool.QueryRow(t.Context(), `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()`).Scan(&killed); err != nil || killed != 1 {
		t.Fatalf("%d listeners, %v", killed, err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for strings.Count(b.logs.String(), "connecting anew") == 0 || b.gate.Ready(t.Context()) != nil {
		if time.Now().After(deadline) {
			t.Fatal("the gate does not listen again")
		}
		pause(t, 10*time.Millisecond)
	}
	b.do(c, "GET", "/v1/a", "").want(t, 200, "")
	other := b.another()
	other.post(c, "/auth/logout", nil).want(t, 303, "")
	deadline = time.Now().Add(5 * time.Second)
	for b.do(c, "GET", "/v1/a", "").StatusCode != 401 {
		if time.Now().After(deadline) {
			t.Fatal("a revocation by another process was not heard")
		}
	}
}

// A process that no longer reaches the database cannot know who was shut out: it keeps no stream for long.
func TestStreamsThatCannotBeCheckedEnd(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://127.0.0.1:1/none")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	g := &Gate{store: &Store{pool: pool}, streams: newStreams()}
	open := func(p *Principal) (*stream, context.Context) {
		ctx, cancel := context.WithCancelCause(t.Context())
		st := &stream{principal: p, cancel: cancel}
		g.streams.add(st)
		return st, ctx
	}
	guarded, ctx := open(&Principal{Kind: kindKey, Credential: "k"})
	public, _ := open(nil)
	if err := g.sweepStreams(t.Context()); err == nil || ctx.Err() != nil {
		t.Fatalf("a moment without the database: %v, %v", err, ctx.Err())
	}
	g.streams.checked = time.Now().Add(-uncheckedFor)
	if err := g.sweepStreams(t.Context()); err == nil {
		t.Fatal("the sweep reached a database")
	}
	if ctx.Err() == nil || endReason(guarded.reason.Load()) != endDrain {
		t.Errorf("the stream stays open: reason %d", guarded.reason.Load())
	}
	if endReason(public.reason.Load()) != endNone {
		t.Error("a stream of nobody ended, which needs no check")
	}
}

func TestDrainingEndsStreamsWithAHintAndFinishesRequests(t *testing.T) {
	t.Parallel()
	b := setup(t)
	tick := ticking(t)
	started, finish := make(chan struct{}), make(chan struct{})
	b.upstream.serve(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/slow") {
			close(started)
			<-finish
			fmt.Fprint(w, "done")
			return
		}
		tick(w, r)
	})
	stream := b.events(b.client(), b.url, "/v1/stream", "Authorization", bearer(b.customerKey))
	slow := make(chan answer, 1)
	go func() { slow <- b.get("/v1/slow", "Authorization", bearer(b.customerKey)) }()
	<-started
	socket, _, err := websocket.Dial(t.Context(), b.url+"/v1/socket", &websocket.DialOptions{HTTPClient: noTimeout(b.client()), HTTPHeader: http.Header{"Authorization": {bearer(b.customerKey)}}}) //nolint:bodyclose // a WebSocket has no body
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.CloseNow() }()
	stopped := make(chan error, 1)
	go func() { stopped <- b.stop() }()
	if text := ends(t, stream); !strings.HasSuffix(text, drainHint) || strings.Contains(text, "ERROR") {
		t.Errorf("the stream ended with %q", text)
	}
	if err := b.gate.Ready(t.Context()); !errors.Is(err, errDraining) {
		t.Errorf("ready while it drains: %v", err)
	}
	if _, _, err := socket.Read(t.Context()); websocket.CloseStatus(err) != wsServiceRestart {
		t.Errorf("the WebSocket ended with %v", err)
	}
	close(finish)
	if res := <-slow; res.StatusCode != 200 || res.body != "done" {
		t.Errorf("the request under way: %d %s", res.StatusCode, res.body)
	}
	if err := <-stopped; err != nil {
		t.Errorf("drain: %v", err)
	}
}

func TestEventBodySaysTheHintOnlyBetweenEvents(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, said, want string }{
		{"between events", "data: a\n\n", "data: a\n\n" + drainHint},
		{"before the first", "", drainHint},
		{"within an event", "data: a\n\ndata: b\n", "data: a\n\ndata: b\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, w := io.Pipe()
			st := &stream{cancel: func(error) { w.CloseWithError(context.Canceled) }}
			go func() {
				_, _ = io.WriteString(w, tc.said)
				st.end(endDrain)
			}()
			got, err := io.ReadAll(&eventBody{ReadCloser: r, stream: st})
			if err != nil || string(got) != tc.want {
				t.Errorf("%q %v", got, err)
			}
		})
	}
}

func TestAStreamNeedsARouteThatSaysSo(t *testing.T) {
	t.Parallel()
	b := setupRoutes(t, `
routes:
  - {path: /a/, upstream: "%s", allow: [public], timeout: 300ms}
`)
	b.upstream.serve(ticking(t))
	done := b.events(b.client(), b.url, "/a/stream")
	if text := ends(t, done); !strings.Contains(text, "ERROR") {
		t.Errorf("the stream was not cut: %q", text)
	}
	_, _, err := websocket.Dial(t.Context(), b.url+"/a/socket", nil) //nolint:bodyclose // a WebSocket has no body
	if err == nil {
		t.Error("a WebSocket passed")
	}
}
