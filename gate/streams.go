package gate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// streamSweep is how often open streams are checked against the database, in case the news of a revocation was lost.
const streamSweep = 3 * time.Second

// uncheckedFor is how long streams stay open that cannot be checked, as the database is not reached. Short enough that a process which
// is cut off does not keep streams open for those who were shut out elsewhere, long enough for a database to start again.
const uncheckedFor = 10 * time.Second

// Why the gate ends a stream.
type endReason int32

const (
	endNone    endReason = iota
	endRevoked           // the credential is no longer good
	endDrain             // this process stops, or cannot go on; another will take the client back
)

// streams are the answers that go on for as long as the client listens. Each ends with the credential it was opened with.
type streams struct {
	mu    sync.Mutex
	open  map[*stream]struct{}
	drain bool
	// checked is when the credentials of all that were open were last found good. The sweep alone uses it.
	checked time.Time
}

type stream struct {
	principal *Principal // nil on a public route
	cancel    context.CancelCauseFunc
	reason    atomic.Int32
}

var errStreamEnded = errors.New("the gate ended the stream")

func newStreams() *streams { return &streams{open: map[*stream]struct{}{}, checked: time.Now()} }

// add registers a stream; it reports false when the process is draining and no stream should begin.
func (s *streams) add(st *stream) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drain {
		return false
	}
	s.open[st] = struct{}{}
	return true
}

func (s *streams) remove(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, st)
}

func (s *streams) draining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drain
}

func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

func (st *stream) end(reason endReason) {
	if st.reason.CompareAndSwap(int32(endNone), int32(reason)) {
		st.cancel(errStreamEnded)
	}
}

// end ends the streams that a revocation concerns. A refresh ends none: the next sweep finds out.
func (s *streams) end(r revocation) {
	if r.Refresh {
		return
	}
	s.endWhere(endRevoked, func(st *stream) bool { return st.principal != nil && r.concerns(st.principal) })
}

// endAll ends every stream. After endDrain no new one begins.
func (s *streams) endAll(reason endReason) {
	if reason == endDrain {
		s.mu.Lock()
		s.drain = true
		s.mu.Unlock()
	}
	s.endWhere(reason, func(*stream) bool { return true })
}

func (s *streams) endWhere(reason endReason, match func(*stream) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for st := range s.open {
		if match(st) {
			st.end(reason)
		}
	}
}

// credentials lists the sessions and keys that streams are open with.
func (s *streams) credentials() (sessions, keys []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := map[string]bool{}
	for st := range s.open {
		p := st.principal
		if p == nil || seen[p.Credential] {
			continue
		}
		seen[p.Credential] = true
		if p.Kind == kindSession {
			sessions = append(sessions, p.Credential)
		} else {
			keys = append(keys, p.Credential)
		}
	}
	return sessions, keys
}

// sweepStreams ends the streams whose credential expired or was revoked, by asking the database about all at once.
func (g *Gate) sweepStreams(ctx context.Context) error {
	sessions, keys := g.streams.credentials()
	if len(sessions)+len(keys) == 0 {
		g.streams.checked = time.Now()
		return nil
	}
	dead, err := g.store.deadCredentials(ctx, sessions, keys, g.cfg.SessionIdle)
	if err != nil {
		if time.Since(g.streams.checked) > uncheckedFor {
			g.streams.endWhere(endDrain, func(st *stream) bool { return st.principal != nil })
		}
		return err
	}
	g.streams.checked = time.Now()
	g.streams.endWhere(endRevoked, func(st *stream) bool { return st.principal != nil && dead[st.principal.Credential] })
	return nil
}

// deadCredentials returns those of the sessions and keys that are not, or no longer, good. An open stream does not count as
// use of its session: it ends when the session would end without it.
func (s *Store) deadCredentials(ctx context.Context, sessions, keys []string, idle time.Duration) (map[string]bool, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT c FROM unnest($1::text[]) c WHERE NOT EXISTS (
			SELECT FROM gate.sessions s JOIN gate.users u ON u.id = s.user_id
			WHERE s.id = c::uuid AND s.revoked_at IS NULL AND s.expires_at > now() AND s.last_seen_at > now() - $3::interval AND u.disabled_at IS NULL)
		UNION ALL
		SELECT c FROM unnest($2::text[]) c WHERE NOT EXISTS (
			SELECT FROM gate.api_keys k JOIN gate.users u ON u.id = k.user_id
			WHERE k.id = c AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()) AND u.disabled_at IS NULL)`,
		sessions, keys, idle)
	if err != nil {
		return nil, fmt.Errorf("check the credentials of open streams: %w", err)
	}
	defer rows.Close()
	dead := map[string]bool{}
	for rows.Next() {
		var c string
		if err := rows.Scan(&c); err != nil {
			return nil, fmt.Errorf("check the credentials of open streams: %w", err)
		}
		dead[c] = true
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("check the credentials of open streams: %w", err)
	}
	return dead, nil
}

// drainHint is the last thing on an event stream that ends because this process stops, or cannot go on: come back soon.
const drainHint = "retry: 500\n: this server cannot go on; reconnect\n\n"

// eventBody is the body of an event stream. When the gate ends it, the client sees a proper end instead of a broken
// connection, and the hint if nothing is half said.
type eventBody struct {
	io.ReadCloser
	stream *stream
	tail   [2]byte // the last bytes that went out
	rest   string  // of the hint, still to be said
	over   bool
}

func (b *eventBody) Read(p []byte) (int, error) {
	if !b.over {
		n, err := b.ReadCloser.Read(p)
		if n > 1 {
			b.tail = [2]byte{p[n-2], p[n-1]}
		} else if n == 1 {
			b.tail = [2]byte{b.tail[1], p[0]}
		}
		reason := endReason(b.stream.reason.Load())
		if err == nil || reason == endNone {
			return n, err
		}
		b.over = true
		if reason == endDrain && (b.tail == [2]byte{'\n', '\n'} || b.tail == [2]byte{}) {
			b.rest = drainHint
		}
		if n > 0 {
			return n, nil
		}
	}
	if b.rest == "" {
		return 0, io.EOF
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}
