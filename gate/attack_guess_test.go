package gate

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAttackUserEnumerationByTime(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.DrainTimeout = 30 * time.Second })
	// Expensive enough that a check left out would show, on whatever machine.
	b.gate.store.hasher = newHasher(argonParams{memory: 8 << 10, time: 1, threads: 1})
	if err := b.gate.Store().SetPassword(t.Context(), customerEmail, customerPassword); err != nil {
		t.Fatal(err)
	}
	if _, err := b.gate.Store().AddUser(t.Context(), NewUser{Email: "keyless@example.com"}); err != nil {
		t.Fatal(err)
	}
	const rounds = 40
	took := map[string][]time.Duration{}
	for range rounds {
		for _, email := range []string{customerEmail, "unknown@example.com", "keyless@example.com", "not an address"} {
			started := time.Now()
			if _, err := b.gate.store.checkPassword(t.Context(), email, "wrong password"); !isBadCredential(err) {
				t.Fatal(err)
			}
			took[email] = append(took[email], time.Since(started))
		}
	}
	// The chance that a random sample of one is slower than one of the other: 0.5 if they are alike, 1 if a hash is left out.
	for email, others := range took {
		slower := 0.0
		for _, a := range took[customerEmail] {
			for _, o := range others {
				if a > o {
					slower++
				} else if a == o {
					slower += 0.5
				}
			}
		}
		if chance := slower / rounds / rounds; chance > 0.9 || chance < 0.1 {
			t.Errorf("a known user is slower than %q with probability %.2f", email, chance)
		}
	}
}

func TestAttackPasswordGuessing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	t.Run("one account, all at once", func(t *testing.T) {
		var mu sync.Mutex
		counts := map[int]int{}
		var wg sync.WaitGroup
		for i := range 60 {
			wg.Go(func() {
				res := b.login(b.client(), operatorEmail, fmt.Sprint("guess number ", i))
				mu.Lock()
				defer mu.Unlock()
				counts[res.StatusCode]++
			})
		}
		wg.Wait()
		if counts[401] > throttleAccount.free+2 || counts[429] < 50 {
			t.Errorf("answers: %v", counts)
		}
		b.lengthenLocks(t)
		res := b.login(b.client(), operatorEmail, operatorPassword)
		res.want(t, 429, "rate_limited")
		if res.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		b.loggedIn(customerEmail, customerPassword)
	})
	t.Run("an unknown account is locked alike", func(t *testing.T) {
		locked := false
		for range throttleAccount.free + 2 {
			locked = locked || b.login(b.client(), "unknown@example.com", "guess number x").StatusCode == 429
		}
		if !locked {
			t.Error("not locked")
		}
	})
	t.Run("the lock holds on every process", func(t *testing.T) {
		b.lengthenLocks(t)
		other := b.another()
		other.login(other.client(), "unknown@example.com", "guess number x").want(t, 429, "rate_limited")
	})
	t.Run("the wait grows and ends", func(t *testing.T) {
		for failures, want := range map[int]time.Duration{5: 0, 6: 2 * time.Second, 7: 4 * time.Second, 10: 32 * time.Second, 100: 15 * time.Minute} {
			got := throttleAccount.penalty(failures)
			if want == 0 && got != nil || want > 0 && (got == nil || *got != want) {
				t.Errorf("after %d: %v, want %v", failures, got, want)
			}
		}
		if _, err := b.gate.store.pool.Exec(t.Context(), `UPDATE gate.throttles SET blocked_until = now() - interval '1 second'`); err != nil {
			t.Fatal(err)
		}
		b.loggedIn(operatorEmail, operatorPassword)
		b.login(b.client(), operatorEmail, "wrong password").want(t, 401, "bad_login")
		b.loggedIn(operatorEmail, operatorPassword) // a success starts afresh
	})
}

// lengthenLocks makes the locks that were set last for as long as a test may take on a slow machine.
func (b *bundle) lengthenLocks(t *testing.T) {
	t.Helper()
	tag, err := b.gate.store.pool.Exec(t.Context(), `UPDATE gate.throttles SET blocked_until = now() + interval '5 minutes' WHERE blocked_until IS NOT NULL`)
	if err != nil || tag.RowsAffected() == 0 {
		t.Fatalf("nothing is locked: %v", err)
	}
}

func TestAttackPasswordSpraying(t *testing.T) {
	t.Parallel()
	b := setup(t)
	locked := 0
	for i := range throttleAddress.free + 10 {
		if b.login(b.client(), fmt.Sprintf("user%d@example.com", i), "Summer2026!").StatusCode == 429 {
			locked++
		}
	}
	if locked == 0 {
		t.Error("60 accounts were tried from one address without a stop")
	}
}

func TestAttackKeyGuessing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	id, _ := parseKeyToken(b.customerKey)
	limited := 0
	for range 60 {
		other := NewKeyToken()
		guess := keyPrefix + id + other[len(keyPrefix)+keyIDLen:] // the public half is right
		switch res := b.get("/v1/a", "Authorization", bearer(guess)); res.StatusCode {
		case 429:
			limited++
		case 401:
		default:
			t.Fatalf("%d %s", res.StatusCode, res.body)
		}
	}
	// Nor does it keep those out whose session merely ended: they are sent to the login page as before.
	for range 60 {
		b.get("/v1/a", "Cookie", "gate_session="+strings.Repeat("A", sessionTokenLen)).want(t, 401, "bad_credential")
		b.get("/open/a", "Cookie", "gate_session="+strings.Repeat("A", sessionTokenLen)).want(t, 200, "")
	}
	if limited < 20 {
		t.Errorf("%d of 60 guesses were limited", limited)
	}
	b.get("/v1/a", "Authorization", bearer(b.customerKey)).want(t, 200, "")
}

func TestAttackLoginRate(t *testing.T) {
	t.Parallel()
	b := setup(t, func(c *Config) { c.LoginRate = Rate{Requests: 3, Per: Duration(time.Hour), Burst: 3} })
	for range 3 {
		b.login(b.client(), "x@example.com", "wrong password").want(t, 401, "bad_login")
	}
	b.login(b.client(), "x@example.com", "wrong password").want(t, 429, "rate_limited")
	page := b.login(b.client(), "x@example.com", "wrong password", "Accept", "text/html")
	if page.StatusCode != 429 || page.Header.Get("Retry-After") == "" || !strings.Contains(page.body, "too many attempts") {
		t.Errorf("%d %s", page.StatusCode, page.body)
	}
}

func TestAttackHashingAsDenialOfService(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.gate.store.hasher = newHasher(argonParams{memory: 16 << 10, time: 2, threads: 1})
	b.gate.store.hasher.queue = 8
	statuses := make(chan int, 60)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			statuses <- b.login(b.client(), fmt.Sprintf("storm%d@example.com", i), strings.Repeat("x", 500)).StatusCode
		})
	}
	b.get("/v1/a", "Authorization", bearer(b.customerKey)).want(t, 200, "") // the storm does not stop what is proxied
	wg.Wait()
	close(statuses)
	counts := map[int]int{}
	for s := range statuses {
		counts[s]++
	}
	if counts[503] == 0 || counts[503]+counts[401]+counts[429] != 60 {
		t.Errorf("answers: %v", counts)
	}
	b.do(b.client(), "POST", "/auth/login", "email=a@example.com&password="+strings.Repeat("x", maxForm), "Content-Type", "application/x-www-form-urlencoded").want(t, 422, "invalid")
}
