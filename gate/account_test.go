package gate

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	smtpmock "github.com/mocktools/go-smtp-mock/v2"
)

// mailbox is a mail server that keeps what it is given.
type mailbox struct {
	t      *testing.T
	server *smtpmock.Server
	seen   int
}

func withMail(t *testing.T) (*mailbox, option) {
	t.Helper()
	server := smtpmock.New(smtpmock.ConfigurationAttr{MultipleMessageReceiving: true})
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	return &mailbox{t: t, server: server}, func(c *Config) {
		c.Mail = &Mail{Host: "127.0.0.1", Port: server.PortNumber(), From: "Shop <shop@example.com>", Plain: true}
	}
}

var linkPattern = regexp.MustCompile(`http://127\.0\.0\.1:\d+(/auth/\S*)`)

// next waits for the next mail and returns whom it went to, its text and the path of its link.
func (m *mailbox) next() (to, text, link string) {
	m.t.Helper()
	m.seen++
	var msg smtpmock.Message
	for deadline := time.Now().Add(10 * time.Second); ; pause(m.t, 5*time.Millisecond) {
		var whole []smtpmock.Message // a session's last entry may have no content
		for _, each := range m.server.Messages() {
			if each.Msg() {
				whole = append(whole, each)
			}
		}
		if len(whole) >= m.seen {
			msg = whole[m.seen-1]
			break
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("mail %d did not come within 10 s", m.seen)
		}
	}
	text = strings.ReplaceAll(strings.ReplaceAll(msg.MsgRequest(), "=\r\n", ""), "=3D", "=")
	if found := linkPattern.FindStringSubmatch(text); found != nil {
		link = found[1]
	}
	return msg.RcpttoRequestResponse()[0][0], text, link
}

const signUpRoutes = defaultRoutes + "sign_up: [customer]\n"

func TestSignUpIsCompletedByTheMailedLink(t *testing.T) {
	t.Parallel()
	box, mail := withMail(t)
	b := setupRoutes(t, signUpRoutes, mail)
	form := url.Values{"email": {"New@example.com"}, "name": {"Click http://evil.example"}, "password": {"a fresh password"}}
	if res := b.post(b.client(), "/auth/signup", form); res.StatusCode != 200 {
		t.Fatalf("sign-up: %d %s", res.StatusCode, res.body)
	}
	b.login(b.client(), "new@example.com", "a fresh password").want(t, 401, "bad_login")
	to, text, link := box.next()
	if !strings.Contains(to, "new@example.com") || strings.Contains(text, "evil.example") {
		t.Errorf("mail to %s: %s", to, text)
	}
	u, _ := url.Parse(link)
	token := url.Values{"token": {u.Query().Get("token")}}
	for range 2 { // what merely looks at the link does not use it up
		if res := b.get(link); res.StatusCode != 200 || !strings.Contains(res.body, token.Get("token")) {
			t.Fatalf("link: %d %s", res.StatusCode, res.body)
		}
	}
	// Who was signed up by somebody else does not know the password, and makes no account for them.
	b.post(b.client(), "/auth/signup/confirm", token).want(t, 422, "invalid")
	token.Set("password", "another password")
	b.post(b.client(), "/auth/signup/confirm", token).want(t, 422, "invalid")
	token.Set("password", "a fresh password")
	b.post(b.client(), "/auth/confirm", token).want(t, 401, "bad_credential") // that is for users
	b.post(b.client(), "/auth/signup/confirm", token).want(t, 200, "")
	b.post(b.client(), "/auth/signup/confirm", token).want(t, 401, "bad_credential")
	c := b.loggedIn("new@example.com", "a fresh password")
	b.do(c, "GET", "/v1/orders", "").want(t, 200, "")
	b.do(c, "GET", "/admin/x", "").want(t, 403, "forbidden")
	user, err := b.gate.Store().FindUser(t.Context(), "new@example.com")
	if err != nil || !user.Verified {
		t.Errorf("user %+v %v", user, err)
	}
}

// Who got an account in another way while the mail was under way keeps that, and is not told that the password of the sign-up is theirs.
func TestSignUpDoesNotReplaceAnAccountMadeMeanwhile(t *testing.T) {
	t.Parallel()
	box, mail := withMail(t)
	b := setupRoutes(t, signUpRoutes, mail)
	b.post(b.client(), "/auth/signup", url.Values{"email": {"new@example.com"}, "password": {"a fresh password"}}).want(t, 200, "")
	_, _, link := box.next()
	if _, err := b.gate.Store().AddUser(t.Context(), NewUser{Email: "new@example.com", Roles: []string{"customer"}, Password: "another password"}); err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(link)
	res := b.post(b.client(), "/auth/signup/confirm", url.Values{"token": {u.Query().Get("token")}, "password": {"a fresh password"}}, "Accept", "text/html")
	res.want(t, 200, "")
	if strings.Contains(res.body, "is ready") || !strings.Contains(res.body, "You have an account already") {
		t.Errorf("told %s", res.body)
	}
	b.login(b.client(), "new@example.com", "a fresh password").want(t, 401, "bad_login")
	b.loggedIn("new@example.com", "another password")
}

func TestSignUpDoesNotTellWhoHasAnAccount(t *testing.T) {
	t.Parallel()
	box, mail := withMail(t)
	b := setupRoutes(t, signUpRoutes, mail)
	answer := func(email string) string {
		res := b.post(b.client(), "/auth/signup", url.Values{"email": {email}, "password": {"a fresh password"}}, "Accept", "text/html")
		if res.StatusCode != 200 {
			t.Errorf("%s: %d", email, res.StatusCode)
		}
		return strings.ReplaceAll(res.body, email, "")
	}
	known := answer(customerEmail)
	if _, text, link := box.next(); !strings.Contains(text, "has an account already") || link != "/auth/reset" {
		t.Errorf("mail to who has an account: %s", text)
	}
	if unknown := answer("unknown@example.com"); known != unknown {
		t.Errorf("the answers differ:\n%s\n%s", known, unknown)
	}
	box.next()
	if res := b.login(b.client(), customerEmail, "a fresh password"); res.StatusCode != 401 {
		t.Error("signing up again changed the password")
	}
}

func TestAUserProvesTheirAddress(t *testing.T) {
	t.Parallel()
	box, mail := withMail(t)
	b := setup(t, mail)
	if _, err := b.gate.Store().AddUser(t.Context(), NewUser{Email: "half@example.com", Password: "a fresh password"}); err != nil {
		t.Fatal(err)
	}
	c := b.loggedIn("half@example.com", "a fresh password")
	if page := b.do(c, "GET", "/auth/account", ""); !strings.Contains(page.body, "not confirmed") {
		t.Errorf("%s", page.body)
	}
	b.post(c, "/auth/email", nil).want(t, 200, "")
	_, _, link := box.next()
	u, _ := url.Parse(link)
	b.post(b.client(), "/auth/confirm", url.Values{"token": {u.Query().Get("token")}}).want(t, 200, "")
	if user, err := b.gate.Store().FindUser(t.Context(), "half@example.com"); err != nil || !user.Verified {
		t.Errorf("%+v %v", user, err)
	}
}

func TestSignUpExistsOnlyWhereTheRoutesSaySo(t *testing.T) {
	t.Parallel()
	_, mail := withMail(t)
	b := setup(t, mail)
	b.get("/auth/signup").want(t, 404, "not_found")
	b.get("/auth/signup/confirm?token=x").want(t, 404, "not_found")
	b.post(b.client(), "/auth/signup/confirm", url.Values{"token": {"x"}, "password": {"a fresh password"}}).want(t, 404, "not_found") // a link mailed before
	b.post(b.client(), "/auth/signup", url.Values{"email": {"a@example.com"}, "password": {"a fresh password"}}).want(t, 404, "not_found")
	if page := b.get("/auth/login"); strings.Contains(page.body, "/auth/signup") || !strings.Contains(page.body, "/auth/reset") {
		t.Errorf("login page: %s", page.body)
	}
}

func TestBadFormsAreExplained(t *testing.T) {
	t.Parallel()
	_, mail := withMail(t)
	b := setupRoutes(t, signUpRoutes, mail)
	for _, tc := range []struct {
		name, path string
		form       url.Values
		want       string
	}{
		{"no address", "/auth/signup", url.Values{"password": {"a fresh password"}}, "must look like"},
		{"no domain", "/auth/signup", url.Values{"email": {"a"}, "password": {"a fresh password"}}, "must look like"},
		{"two addresses", "/auth/signup", url.Values{"email": {"a@example.com, b@example.com"}, "password": {"a fresh password"}}, "must look like"},
		{"header in the address", "/auth/signup", url.Values{"email": {"a@example.com\r\nBcc: b@example.com"}, "password": {"a fresh password"}}, "must look like"},
		{"short password", "/auth/signup", url.Values{"email": {"a@example.com"}, "password": {"short"}}, "at least 10"},
		{"huge password", "/auth/signup", url.Values{"email": {"a@example.com"}, "password": {strings.Repeat("x", 600)}}, "at most 512"},
		{"control characters in the name", "/auth/signup", url.Values{"email": {"a@example.com"}, "name": {"a\x00b"}, "password": {"a fresh password"}}, "printable"},
		{"reset for no address", "/auth/reset", url.Values{}, "must look like"},
		{"short new password", "/auth/reset/confirm", url.Values{"token": {"x"}, "password": {"short"}}, "at least 10"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := b.post(b.client(), tc.path, tc.form)
			res.want(t, 422, "invalid")
			if !strings.Contains(res.body, tc.want) {
				t.Errorf("%s", res.body)
			}
			page := b.post(b.client(), tc.path, tc.form, "Accept", "text/html")
			if page.StatusCode != 422 || !strings.Contains(page.body, `role="alert"`) {
				t.Errorf("page: %d %s", page.StatusCode, page.body)
			}
		})
	}
	b.do(b.client(), "POST", "/auth/signup", strings.Repeat("x", maxForm+1), "Content-Type", "application/x-www-form-urlencoded").want(t, 422, "invalid")
}

func TestResetReplacesThePasswordAndEndsSessions(t *testing.T) {
	t.Parallel()
	box, mail := withMail(t)
	b := setup(t, mail)
	before := b.loggedIn(customerEmail, customerPassword)
	b.post(b.client(), "/auth/reset", url.Values{"email": {customerEmail}}).want(t, 200, "")
	_, _, link := box.next()
	u, _ := url.Parse(link)
	form := url.Values{"token": {u.Query().Get("token")}, "password": {"the new password"}}
	b.post(b.client(), "/auth/reset/confirm", form).want(t, 200, "")
	b.do(before, "GET", "/v1/a", "").want(t, 401, "bad_credential")
	b.login(b.client(), customerEmail, customerPassword).want(t, 401, "bad_login")
	b.login(b.client(), customerEmail, "the new password").want(t, 303, "")
}

func TestAttackReplayOfAResetLink(t *testing.T) {
	t.Parallel()
	box, mail := withMail(t)
	b := setup(t, mail)
	ask := func() string {
		b.post(b.client(), "/auth/reset", url.Values{"email": {customerEmail}}).want(t, 200, "")
		_, _, link := box.next()
		u, _ := url.Parse(link)
		return u.Query().Get("token")
	}
	use := func(token, password string) answer {
		return b.post(b.client(), "/auth/reset/confirm", url.Values{"token": {token}, "password": {password}})
	}
	first, second := ask(), ask()
	use(first, "password one!").want(t, 401, "bad_credential") // a later link replaces it
	use(second, "password two!").want(t, 200, "")
	if _, text, _ := box.next(); !strings.Contains(text, "a new password was set") {
		t.Errorf("who did not set it is told %s", text)
	}
	use(second, "password three!").want(t, 401, "bad_credential")
	b.login(b.client(), customerEmail, "password two!").want(t, 303, "")

	third := ask()
	if _, err := b.gate.store.pool.Exec(t.Context(), `UPDATE gate.mail_links SET expires_at = now() - interval '1 second'`); err != nil {
		t.Fatal(err)
	}
	use(third, "password four!").want(t, 401, "bad_credential")
	// A link to confirm an address does not set a password.
	c := b.loggedIn(customerEmail, "password two!")
	b.post(c, "/auth/email", nil).want(t, 200, "")
	_, _, link := box.next()
	u, _ := url.Parse(link)
	use(u.Query().Get("token"), "password five!").want(t, 401, "bad_credential")
}

func TestResetTellsNothingOfWhoHasAnAccount(t *testing.T) {
	t.Parallel()
	box, mail := withMail(t)
	b := setup(t, mail)
	answer := func(email string) string {
		res := b.post(b.client(), "/auth/reset", url.Values{"email": {email}}, "Accept", "text/html")
		return strings.ReplaceAll(res.Status+res.body, email, "")
	}
	unknown, known := answer("unknown@example.com"), answer(customerEmail)
	if known != unknown {
		t.Errorf("the answers differ:\n%s\n%s", known, unknown)
	}
	if to, _, _ := box.next(); !strings.Contains(to, customerEmail) {
		t.Errorf("mail to %s", to)
	}
}

func TestMailToOneAddressIsBounded(t *testing.T) {
	t.Parallel()
	_, mail := withMail(t)
	b := setup(t, mail)
	limited := 0
	for range 8 {
		if res := b.post(b.client(), "/auth/reset", url.Values{"email": {customerEmail}}); res.StatusCode == 429 {
			limited++
			if res.Header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
	}
	if limited < 3 {
		t.Errorf("%d of 8 were refused", limited)
	}
}

func TestChangingThePasswordNeedsTheOldOneAndRenewsTheSession(t *testing.T) {
	t.Parallel()
	b := setup(t)
	here, elsewhere := b.loggedIn(customerEmail, customerPassword), b.loggedIn(customerEmail, customerPassword)
	old := here.Jar.Cookies(nil)[0].Value
	form := url.Values{"password": {"wrong"}, "new_password": {"the new password"}}
	b.post(here, "/auth/password", form).want(t, 422, "invalid")
	form.Set("password", customerPassword)
	b.post(here, "/auth/password", form).want(t, 200, "")
	if here.Jar.Cookies(nil)[0].Value == old {
		t.Error("the session kept its id")
	}
	b.do(here, "GET", "/v1/a", "").want(t, 200, "")
	b.do(elsewhere, "GET", "/v1/a", "").want(t, 401, "bad_credential")
	b.login(b.client(), customerEmail, "the new password").want(t, 303, "")
	b.post(b.client(), "/auth/password", form).want(t, 401, "unauthorized")
}

func TestLogoutEverywhere(t *testing.T) {
	t.Parallel()
	b := setup(t)
	here, elsewhere := b.loggedIn(customerEmail, customerPassword), b.loggedIn(customerEmail, customerPassword)
	stranger := b.loggedIn(operatorEmail, operatorPassword)
	b.post(here, "/auth/sessions/end", nil).want(t, http.StatusSeeOther, "")
	b.do(elsewhere, "GET", "/v1/a", "").want(t, 401, "bad_credential")
	b.do(stranger, "GET", "/v1/a", "").want(t, 200, "")
}

func TestARoleChangeEndsTheSession(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.loggedIn(customerEmail, customerPassword)
	b.do(c, "GET", "/v1/a", "").want(t, 200, "")
	if _, err := b.gate.Store().SetRoles(t.Context(), customerEmail, []string{"customer", "operator"}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(5 * time.Second)
	for b.do(c, "GET", "/admin/a", "").StatusCode != 401 {
		if time.Now().After(deadline) {
			t.Fatal("the session lived on")
		}
	}
	b.do(b.loggedIn(customerEmail, customerPassword), "GET", "/admin/a", "").want(t, 200, "")
}

func TestTheAccountPage(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.loggedIn(customerEmail, customerPassword)
	page := b.do(c, "GET", "/auth/account", "", "Accept", "text/html")
	if page.StatusCode != 200 || !strings.Contains(page.body, customerEmail) {
		t.Errorf("%d %s", page.StatusCode, page.body)
	}
	res := b.get("/auth/account", "Accept", "text/html")
	if res.StatusCode != 303 || !strings.HasPrefix(res.Header.Get("Location"), "/auth/login?next=") {
		t.Errorf("%d %s", res.StatusCode, res.Header.Get("Location"))
	}
}

// audited is the audit log about a user, newest first: action, result and actor, where the user is self.
func (b *bundle) audited(email string) []string {
	b.Helper()
	user, err := b.gate.Store().FindUser(b.Context(), email)
	if err != nil {
		b.Fatal(err)
	}
	events, err := b.gate.Store().ListEvents(b.Context(), user.ID, 100)
	if err != nil {
		b.Fatal(err)
	}
	var got []string
	for _, e := range events {
		got = append(got, e.Action+" "+e.Result+" by "+strings.ReplaceAll(e.Actor, user.ID, "self"))
	}
	return got
}

func (b *bundle) wantAudited(email string, newest ...string) {
	b.Helper()
	if got := b.audited(email); len(got) < len(newest) || !slices.Equal(got[:len(newest)], newest) {
		b.Errorf("audited %q, want at first %q", got, newest)
	}
}

func TestTheAuditLogNamesWhoActed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	c := b.loggedIn(customerEmail, customerPassword)
	b.post(c, "/auth/password", url.Values{"password": {customerPassword}, "new_password": {"another password"}}).want(t, 200, "")
	b.wantAudited(customerEmail, "change_password ok by self", "set_password ok by self", "login ok by self")
	// Whose session the browser had before does not matter.
	b.login(c, operatorEmail, operatorPassword).want(t, 303, "")
	b.wantAudited(operatorEmail, "login ok by self")
	for range 6 {
		b.login(b.client(), customerEmail, "wrong password")
	}
	b.login(b.client(), customerEmail, "another password").want(t, 429, "rate_limited")
	b.wantAudited(customerEmail, "login locked by anonymous", "login refused by anonymous")
	id, _ := parseKeyToken(b.operatorKey)
	if err := b.gate.Store().RevokeKey(b.Context(), id, time.Minute); err != nil {
		t.Fatal(err)
	}
	b.wantAudited(operatorEmail, "revoke_key ok by command line")
	if _, err := b.gate.Store().DisableUser(b.Context(), operatorEmail); err != nil {
		t.Fatal(err)
	}
	b.login(b.client(), operatorEmail, operatorPassword).want(t, 401, "bad_login")
	b.wantAudited(operatorEmail, "login refused by anonymous", "disable_user ok by command line")
}

func TestTheAuditLogSaysWhoDidWhatFromWhere(t *testing.T) {
	t.Parallel()
	b := setup(t)
	s := b.gate.Store()
	user, err := s.FindUser(t.Context(), customerEmail)
	if err != nil {
		t.Fatal(err)
	}
	b.login(b.client(), customerEmail, "wrong password")
	c := b.loggedIn(customerEmail, customerPassword)
	b.post(c, "/auth/logout", nil)
	b.login(b.client(), "evil\n{\"action\":\"forged\"}", "x")
	if _, err := s.DisableUser(t.Context(), customerEmail); err != nil {
		t.Fatal(err)
	}
	events, err := s.ListEvents(t.Context(), user.ID, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range events {
		got = append(got, e.Action+" "+e.Result+" by "+strings.ReplaceAll(e.Actor, user.ID, "self")+" from "+e.Address)
	}
	want := []string{
		"disable_user ok by command line from ", "logout ok by self from 127.0.0.1", "login ok by self from 127.0.0.1",
		"login refused by anonymous from 127.0.0.1", "create_key ok by command line from ", "add_user ok by command line from ",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
