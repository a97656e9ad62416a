package main

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// enumerationByTime compares how long logins take that fail for different reasons. Not a single time counts but the chance that
// a login of one kind takes longer than one of another: one half if they are alike, next to one if a hash is left out. Machines
// that are slow now and then do not move it.
func enumerationByTime(t *testing.T, s *site) {
	const rounds = 24
	known := make([]string, 0, 6) // each account is locked after a few guesses
	for range cap(known) {
		known = append(known, s.user(t, "customer"))
	}
	disabled, keyless := s.user(t, "customer"), s.id()+"@example.com"
	s.command(t, "user", "disable", "--database-url="+s.db, disabled)
	s.command(t, "user", "add", "--database-url="+s.db, keyless)
	kinds := map[string]func(int) (email, password string){
		"a known user":    func(i int) (string, string) { return known[i%len(known)], "a wrong password" },
		"an unknown user": func(i int) (string, string) { return fmt.Sprintf("nobody%d@example.com", i/4), "a wrong password" },
		"no address":      func(i int) (string, string) { return fmt.Sprintf("nobody %d", i/4), "a wrong password" },
		"a huge password": func(i int) (string, string) {
			return fmt.Sprintf("somebody%d@example.com", i/4), strings.Repeat("x", 20_000)
		},
		"a disabled user":         func(int) (string, string) { return disabled, password },
		"a user without password": func(int) (string, string) { return keyless, "a wrong password" },
	}
	took := map[string][]float64{}
	for i := range rounds {
		for kind, of := range kinds {
			if i >= 5 && (kind == "a disabled user" || kind == "a user without password") {
				continue // locked by now, like any other
			}
			email, guess := of(i)
			w := s.dial(t, s.plain, s.address())
			started := time.Now()
			w.send(post("/auth/login", credentials(email, guess)))
			answer, _ := w.reply()
			took[kind] = append(took[kind], time.Since(started).Seconds())
			w.Close()
			answer.want(t, 401, "bad_login")
		}
	}
	for kind, others := range took {
		chance := chanceOfMore(took["a known user"], others)
		if margin := map[bool]float64{true: 0.1, false: 0.01}[len(others) == rounds]; chance > 1-margin || chance < margin {
			t.Errorf("a login of a known user takes longer than that of %s with probability %.2f", kind, chance)
		}
	}
}

// chanceOfMore is how likely one of a is more than one of b.
func chanceOfMore(a, b []float64) float64 {
	more := 0.0
	for _, x := range a {
		for _, y := range b {
			switch {
			case x > y:
				more++
			case x == y:
				more += 0.5
			}
		}
	}
	return more / float64(len(a)*len(b))
}

// told is an answer without what differs each time.
func told(answer reply) string {
	text := regexp.MustCompile(`"request_id":"[a-z0-9]+"|case\d+x|token=\w+`).ReplaceAllString(answer.text, "")
	names := []string{fmt.Sprint(answer.StatusCode)}
	for name := range answer.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ") + "\n" + text
}

func enumerationByText(t *testing.T, s *site) {
	disabled, keyless := s.user(t, "customer"), s.id()+"@example.com"
	s.command(t, "user", "disable", "--database-url="+s.db, disabled)
	s.command(t, "user", "add", "--database-url="+s.db, keyless)
	accounts := []string{s.user(t, "customer"), s.id() + "@example.com", disabled, keyless}
	s.each(t, func(t *testing.T, p *process) {
		for name, ask := range map[string]func(email string) string{
			"login": func(email string) string { return post("/auth/login", credentials(email, "a wrong password")) },
			"login by a page": func(email string) string {
				return post("/auth/login", credentials(email, "a wrong password"), "Accept: text/html")
			},
			"reset": func(email string) string { return post("/auth/reset", url.Values{"email": {email}}) },
			"sign-up": func(email string) string {
				return post("/auth/signup", url.Values{"email": {email}, "password": {password}}, "Accept: text/html")
			},
			"sign-up's faults": func(email string) string {
				return post("/auth/signup", url.Values{"email": {email}, "password": {"short"}})
			},
		} {
			want := told(s.submit(t, p, s.address(), ask(accounts[0])))
			if strings.HasPrefix(want, "5") || strings.HasPrefix(want, "404") {
				t.Fatalf("%s: %s", name, want)
			}
			for _, email := range accounts[1:] {
				if got := told(s.submit(t, p, s.address(), ask(email))); got != want {
					t.Errorf("%s tells accounts apart:\n%s\nand\n%s", name, want, got)
				}
			}
		}
	})
	// Locks come at the same number of guesses.
	guesses := map[string]int{}
	for _, email := range []string{s.user(t, "customer"), s.id() + "@example.com"} {
		for guesses[email] < 20 && !s.locked(t, email) {
			s.submit(t, s.plain, s.address(), post("/auth/login", credentials(email, "a wrong password"))).want(t, 401, "bad_login")
			guesses[email]++
		}
	}
	for email, n := range guesses {
		if n != freeGuesses+1 {
			t.Errorf("%s was locked after %d guesses, want %d", email, n, freeGuesses+1)
		}
	}
}

// freeGuesses may be wrong before an account is locked for a while: 2 s at first, and twice as long each time.
const freeGuesses = 5

// locked reports whether the last guess at an account locked it, even if only for a time that is over by now.
func (s *site) locked(t testing.TB, email string) (locked bool) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM gate.throttles WHERE kind = 'account' AND subject = sha256($1) AND blocked_until IS NOT NULL)`,
		[]byte(email)).Scan(&locked); err != nil {
		t.Fatal(err)
	}
	return locked
}

// afterManyGuesses makes an account one at which many guesses were wrong, the last of them long enough ago to guess again.
func (s *site) afterManyGuesses(t testing.TB, email string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `INSERT INTO gate.throttles (kind, subject, failures, last_at) VALUES ('account', sha256($1), 15, now())
		ON CONFLICT (kind, subject) DO UPDATE SET failures = excluded.failures, last_at = excluded.last_at, blocked_until = NULL`, []byte(email)); err != nil {
		t.Fatal(err)
	}
}

// mostGuesses is how many guesses at an account its locks leave room for within a time.
func mostGuesses(within time.Duration) int {
	n := freeGuesses + 1
	for lock := 2 * time.Second; within >= lock; lock *= 2 {
		within -= lock
		n++
	}
	return n
}

func passwordGuessing(t *testing.T, s *site) {
	email, other := s.user(t, "customer"), s.user(t, "customer")
	t.Run("of one account, from everywhere, at both gates, all at once", func(t *testing.T) {
		started := time.Now()
		answers := s.storm(60, func(i int) reply {
			return s.ask(t, s.gates()[i%2], s.address(), post("/auth/login", credentials(email, fmt.Sprint("guess number ", i))))
		})
		if n := answers[401]; n == 0 || n > mostGuesses(time.Since(started)) {
			t.Errorf("%d of 60 guesses were judged: %v", n, answers)
		}
		if answers[401]+answers[429]+answers[503] != 60 {
			t.Errorf("answers: %v", answers)
		}
		// The longest lock, as the first ones may be over before a slow machine has answered.
		s.afterManyGuesses(t, email)
		s.submit(t, s.plain, s.address(), post("/auth/login", credentials(email, "one more guess"))).want(t, 401, "bad_login")
		for _, p := range s.gates() { // even who guesses right learns nothing now
			answer := s.submit(t, p, s.address(), post("/auth/login", credentials(email, password)))
			answer.want(t, 429, "rate_limited")
			if after, err := strconv.Atoi(answer.Header.Get("Retry-After")); err != nil || after < 60 {
				t.Errorf("Retry-After %q", answer.Header.Get("Retry-After"))
			}
		}
		s.login(t, s.plain, other) // nobody else is kept out
	})
	t.Run("of many accounts from one address", func(t *testing.T) {
		for _, p := range s.gates() {
			from := s.address()
			answers := s.storm(50, func(i int) reply {
				return s.ask(t, p, from, post("/auth/login", credentials(fmt.Sprintf("sprayed%d@example.com", i), "Summer2026!")))
			})
			if answers[429] == 0 || answers[401]+answers[429]+answers[503] != 50 {
				t.Errorf("50 accounts were tried from one address: %v", answers)
			}
		}
	})
	t.Run("by an account of one's own in between", func(t *testing.T) {
		victim, own := s.user(t, "customer"), s.user(t, "customer")
		judged, started := 0, time.Now()
		for range 10 {
			if answer := s.submit(t, s.plain, s.address(), post("/auth/login", credentials(victim, "a wrong password"))); answer.StatusCode == http.StatusUnauthorized {
				judged++
			}
			s.login(t, s.plain, own)
		}
		if judged > mostGuesses(time.Since(started)) {
			t.Errorf("%d guesses were judged", judged)
		}
	})
}

// storm asks many times at once and counts the statuses.
func (s *site) storm(n int, ask func(int) reply) map[int]int {
	var mu sync.Mutex
	var wg sync.WaitGroup
	counts := map[int]int{}
	for i := range n {
		wg.Go(func() {
			answer := ask(i)
			mu.Lock()
			defer mu.Unlock()
			counts[answer.StatusCode]++
		})
	}
	wg.Wait()
	return counts
}

func keyGuessing(t *testing.T, s *site) {
	key := s.key(t, s.user(t, "customer"))
	s.each(t, func(t *testing.T, p *process) {
		from := s.address()
		limited := 0
		for i := range 60 {
			guess := key[:20] + strings.Repeat(string("abcdefghijklmnopqrstuvwxyz234567"[i%32]), 51) + string("abcdefghijklmnopqrstuvwxyz234567"[i/32])
			switch answer := s.ask(t, p, from, request("GET", "/guarded/"+s.id(), bearer(guess))); answer.StatusCode {
			case http.StatusTooManyRequests:
				limited++
				if answer.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
			case http.StatusUnauthorized:
			default:
				t.Fatalf("%d %s", answer.StatusCode, answer.text)
			}
		}
		if limited < 10 {
			t.Errorf("%d of 60 guesses were stopped", limited)
		}
		s.ask(t, p, from, request("GET", "/guarded/"+s.id(), bearer(key))).want(t, 200, "") // a good key behind the same address works
		s.ask(t, p, s.address(), request("GET", "/guarded/"+s.id(), bearer(key))).want(t, 200, "")
		for _, near := range []string{key[:len(key)-1], key + "a", strings.ToUpper(key), strings.Replace(key, "mk_", "mk-", 1), key[:len(key)-1] + "%", " " + key, key + ", " + key, "mk_' OR '1'='1"} {
			s.ask(t, p, s.address(), request("GET", "/guarded/"+s.id(), bearer(near))).want(t, 401, "bad_credential")
		}
	})
}
