package gate

import (
	"html"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
)

var (
	seedPattern     = regexp.MustCompile(`<code>([A-Z2-7]+)</code>`)
	sealedPattern   = regexp.MustCompile(`name="sealed" value="([^"]+)"`)
	pendingPattern  = regexp.MustCompile(`name="pending" value="([^"]+)"`)
	recoveryPattern = regexp.MustCompile(`<li>([a-z2-7-]+)</li>`)
)

func find(t *testing.T, p *regexp.Regexp, text string) string {
	t.Helper()
	m := p.FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in %s", p, text)
	}
	return html.UnescapeString(m[1])
}

// clock is a gate's clock that a test moves.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }
func (c *clock) tick()          { c.mu.Lock(); defer c.mu.Unlock(); c.at = c.at.Add(totpPeriod * time.Second) }

func (c *clock) code(t *testing.T, seed string) string {
	t.Helper()
	code, err := totp.GenerateCode(seed, c.now())
	if err != nil {
		t.Fatal(err)
	}
	return code
}

// withFactor gives the customer a second factor.
func withFactor(t *testing.T) (b *bundle, at *clock, seed string, recovery []string) {
	t.Helper()
	b = setup(t)
	at = &clock{at: time.Now()}
	b.gate.now = at.now
	c := b.loggedIn(customerEmail, customerPassword)
	elsewhere := b.loggedIn(customerEmail, customerPassword)
	page := b.do(c, "GET", "/auth/factor", "").body
	seed = find(t, seedPattern, page)
	form := url.Values{"sealed": {find(t, sealedPattern, page)}, "password": {customerPassword}, "code": {"000000"}}
	if form.Get("code") == at.code(t, seed) {
		form.Set("code", "000001")
	}
	b.post(c, "/auth/factor", form).want(t, 401, "bad_factor")
	form.Set("code", at.code(t, seed))
	form.Set("password", "wrong password")
	b.post(c, "/auth/factor", form).want(t, 401, "bad_login")
	form.Set("password", customerPassword)
	res := b.post(c, "/auth/factor", form)
	res.want(t, 200, "")
	for _, m := range recoveryPattern.FindAllStringSubmatch(res.body, -1) {
		recovery = append(recovery, m[1])
	}
	if len(recovery) != recoveryCodes {
		t.Fatalf("%d recovery codes in %s", len(recovery), res.body)
	}
	b.wantAudited(customerEmail, "enable_factor ok by self")
	b.do(c, "GET", "/v1/a", "").want(t, 200, "")
	b.do(elsewhere, "GET", "/v1/a", "").want(t, 401, "bad_credential")
	return b, at, seed, recovery
}

func TestLoginWithASecondFactor(t *testing.T) {
	t.Parallel()
	b, at, seed, recovery := withFactor(t)
	with := func(code string) answer {
		return b.post(b.client(), "/auth/login", url.Values{"email": {customerEmail}, "password": {customerPassword}, "code": {code}})
	}
	t.Run("the password alone does not do", func(t *testing.T) {
		with("").want(t, 401, "factor_required")
	})
	t.Run("the code that set it up is used already", func(t *testing.T) {
		with(at.code(t, seed)).want(t, 401, "bad_factor")
	})
	t.Run("a code is good once", func(t *testing.T) {
		at.tick()
		code := at.code(t, seed)
		with(code).want(t, 303, "")
		with(code).want(t, 401, "bad_factor")
	})
	t.Run("as a person, in two steps", func(t *testing.T) {
		at.tick()
		c := b.client()
		page := b.post(c, "/auth/login", url.Values{"email": {customerEmail}, "password": {customerPassword}, "next": {"/v1/x"}}, "Accept", "text/html")
		page.want(t, 200, "")
		if len(c.Jar.Cookies(nil)) != 0 {
			t.Fatal("there is a session before the second factor")
		}
		form := url.Values{"pending": {find(t, pendingPattern, page.body)}, "code": {"abcdef"}}
		again := b.post(c, "/auth/login/factor", form, "Accept", "text/html")
		again.want(t, 401, "")
		form = url.Values{"pending": {find(t, pendingPattern, again.body)}, "code": {at.code(t, seed)}}
		res := b.post(c, "/auth/login/factor", form)
		res.want(t, 303, "")
		if res.Header.Get("Location") != "/v1/x" {
			t.Errorf("sent to %s", res.Header.Get("Location"))
		}
		b.do(c, "GET", "/v1/a", "").want(t, 200, "")
	})
	t.Run("a recovery code is good once", func(t *testing.T) {
		with(recovery[0]).want(t, 303, "")
		with(recovery[0]).want(t, 401, "bad_factor")
		with(strings.ToUpper(strings.ReplaceAll(recovery[1], "-", " "))).want(t, 303, "")
	})
	t.Run("a forged, tampered or stale first step is refused", func(t *testing.T) {
		at.tick()
		page := b.post(b.client(), "/auth/login", url.Values{"email": {customerEmail}, "password": {customerPassword}}, "Accept", "text/html")
		pending := find(t, pendingPattern, page.body)
		code := at.code(t, seed)
		flipped := "A" + pending[1:]
		if pending[0] == 'A' {
			flipped = "B" + pending[1:]
		}
		for _, bad := range []string{"", "x", flipped, pending[:len(pending)-4]} {
			b.post(b.client(), "/auth/login/factor", url.Values{"pending": {bad}, "code": {code}}).want(t, 401, "bad_login")
		}
		if err := b.gate.Store().SetPassword(t.Context(), customerEmail, "another password"); err != nil {
			t.Fatal(err)
		}
		b.post(b.client(), "/auth/login/factor", url.Values{"pending": {pending}, "code": {code}}).want(t, 401, "bad_login")
		if err := b.gate.Store().SetPassword(t.Context(), customerEmail, customerPassword); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("it is removed by password and code", func(t *testing.T) {
		at.tick()
		c := b.client()
		res := b.post(c, "/auth/login", url.Values{"email": {customerEmail}, "password": {customerPassword}, "code": {at.code(t, seed)}})
		res.want(t, 303, "")
		at.tick()
		b.post(c, "/auth/factor/off", url.Values{"password": {"wrong password"}, "code": {at.code(t, seed)}}).want(t, 401, "bad_login")
		b.post(c, "/auth/factor/off", url.Values{"password": {customerPassword}, "code": {"000000"}}).want(t, 401, "bad_factor")
		b.post(c, "/auth/factor/off", url.Values{"password": {customerPassword}, "code": {at.code(t, seed)}}).want(t, 200, "")
		b.wantAudited(customerEmail, "disable_factor ok by self", "second_factor ok by self")
		// A form that was left open does no harm.
		b.post(c, "/auth/factor/off", url.Values{"password": {customerPassword}, "code": {"123456"}}).want(t, 200, "")
		b.loggedIn(customerEmail, customerPassword)
	})
}

func TestAttackGuessingTheSecondFactor(t *testing.T) {
	t.Parallel()
	b, at, seed, _ := withFactor(t)
	at.tick()
	right := at.code(t, seed)
	login := func(code string) answer {
		return b.post(b.client(), "/auth/login", url.Values{"email": {customerEmail}, "password": {customerPassword}, "code": {code}})
	}
	locked := false
	for range 10 {
		res := login("00000x")
		locked = locked || res.StatusCode == 429
	}
	if !locked {
		t.Error("10 wrong codes in a row did not lock the second factor")
	}
	refused := login(right)
	refused.want(t, 429, "rate_limited")
	if strings.Contains(refused.body, "new password") {
		t.Errorf("advised what does not lift it: %s", refused.body)
	}
}

func TestTheSeedIsSealedInTheDatabase(t *testing.T) {
	t.Parallel()
	b, _, seed, recovery := withFactor(t)
	var dump string
	if err := b.gate.store.pool.QueryRow(t.Context(), `SELECT (SELECT json_agg(u) FROM gate.users u)::text || (SELECT json_agg(r) FROM gate.recovery_codes r)::text ||
		(SELECT encode(totp_seed, 'escape') FROM gate.users WHERE totp_seed IS NOT NULL)`).Scan(&dump); err != nil {
		t.Fatal(err)
	}
	for _, secret := range append(recovery, seed, strings.ReplaceAll(recovery[0], "-", "")) {
		if strings.Contains(dump, secret) {
			t.Errorf("%s is in the database", secret)
		}
	}
}
