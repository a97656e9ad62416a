package gate

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"net/url"
	"strings"
	"text/template"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/wneessen/go-mail"
)

// Mail says how the gate sends mail. Host and From are required.
type Mail struct {
	Host               string
	Port               int // default 587
	Username, Password string
	From               string // address, or "Name <address>"
	Plain              bool   // no TLS, for a server on this machine; default: STARTTLS is required
}

func (m *Mail) check() error {
	if m.Port == 0 {
		m.Port = 587
	}
	if m.Host == "" {
		return invalid("mail needs the host of a mail server")
	}
	if err := mail.NewMsg().From(m.From); err != nil {
		return invalid("mail needs a sender such as 'Shop <shop@example.com>', not %q", m.From)
	}
	_, err := m.client(nil)
	return err
}

// client returns a client whose connection is handed to opened; the library leaves it open when the greeting fails.
func (m *Mail) client(opened func(net.Conn)) (*mail.Client, error) {
	from, err := netmail.ParseAddress(m.From)
	if err != nil {
		return nil, fmt.Errorf("read the sender's address: %w", err)
	}
	options := []mail.Option{
		mail.WithPort(m.Port), mail.WithTimeout(10 * time.Second), mail.WithTLSPolicy(mail.TLSMandatory),
		// A machine's own name is often none that a mail server accepts.
		mail.WithHELO(from.Address[strings.LastIndex(from.Address, "@")+1:]),
		mail.WithDialContextFunc(func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
			if err == nil {
				opened(conn)
			}
			return conn, err //nolint:wrapcheck // the library wraps it
		}),
	}
	if m.Plain {
		options = append(options, mail.WithTLSPolicy(mail.NoTLS))
	}
	if m.Username != "" {
		options = append(options, mail.WithSMTPAuth(mail.SMTPAuthAutoDiscover), mail.WithUsername(m.Username), mail.WithPassword(m.Password))
	}
	c, err := mail.NewClient(m.Host, options...)
	if err != nil {
		return nil, fmt.Errorf("prepare to send mail: %w", err)
	}
	return c, nil
}

// What mail is about; the links in them do it.
const (
	mailSignUp = "sign_up"
	mailVerify = "verify"
	mailReset  = "reset"
	mailKnown  = "known" // somebody signed up with an address that has an account
	mailNotice = "notice"
)

// linkLife is how long a mailed link works.
const linkLife = time.Hour

// mailPayload is what a mail, and then its link, carries; it is stored sealed.
type mailPayload struct {
	Name         string `json:"name,omitempty"`
	PasswordHash string `json:"password_hash,omitempty"`
	Text         string `json:"text,omitempty"`
}

var mailTexts = template.Must(template.New("").Parse(`
{{define "sign_up"}}Hello{{with .Name}} {{.}}{{end}},

please confirm that this address is yours, and your account is ready:

{{.Link}}

The link works once, for one hour. If you did not sign up, ignore this mail.
{{end}}
{{define "verify"}}Hello{{with .Name}} {{.}}{{end}},

please confirm that this address is yours:

{{.Link}}

The link works once, for one hour.
{{end}}
{{define "reset"}}Hello{{with .Name}} {{.}}{{end}},

somebody, hopefully you, asked to set a new password for your account. Do it here:

{{.Link}}

The link works once, for one hour. If it was not you, ignore this mail: your password stays as it is.
{{end}}
{{define "known"}}Hello{{with .Name}} {{.}}{{end}},

somebody, hopefully you, tried to sign up with this address, which has an account already. Log in, or set a new password here:

{{.Link}}
{{end}}
{{define "notice"}}Hello{{with .Name}} {{.}}{{end}},

{{.Text}} If it was not you, set a new password here at once:

{{.Link}}
{{end}}
`))

var mailSubjects = map[string]string{
	mailSignUp: "Confirm your e-mail address", mailVerify: "Confirm your e-mail address", mailReset: "Set a new password",
	mailKnown: "You have an account already", mailNotice: "Your account was changed",
}

// queueMail notes that a mail is to be sent. It does the same work whether or not the address has an account.
func (g *Gate) queueMail(ctx context.Context, purpose, email string, p mailPayload) error {
	text, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode a mail: %w", err)
	}
	if _, err := g.store.pool.Exec(ctx, `INSERT INTO gate.outbox (purpose, email, payload) VALUES ($1, $2, $3)`,
		purpose, email, g.vault.seal("mail "+purpose+" "+email, text)); err != nil {
		return fmt.Errorf("queue a mail: %w", err)
	}
	select {
	case g.mailWake <- struct{}{}:
	default:
	}
	return nil
}

// deliverMail sends mail as soon as this process queued some, and every few seconds what other processes left behind.
func (g *Gate) deliverMail(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		if err := g.sendMails(ctx); err != nil && ctx.Err() == nil {
			g.log.ErrorContext(ctx, "background task failed", "task", "send mail", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-g.mailWake:
		}
	}
}

// sendMails sends what is due, one at a time. A mail is claimed for a minute before it is sent, so that no transaction is open
// meanwhile and a crash means a second try.
func (g *Gate) sendMails(ctx context.Context) error {
	for {
		var id int64
		var attempts int
		var purpose, email string
		var box []byte
		err := g.store.pool.QueryRow(ctx, `UPDATE gate.outbox SET attempts = attempts + 1, next_at = now() + interval '1 minute' * power(2, least(attempts, 6))
			WHERE id = (SELECT id FROM gate.outbox WHERE next_at <= now() ORDER BY next_at LIMIT 1 FOR UPDATE SKIP LOCKED)
			RETURNING id, attempts, purpose, email, payload`).Scan(&id, &attempts, &purpose, &email, &box)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("claim a mail: %w", err)
		}
		if err := g.sendMail(ctx, purpose, email, box); err != nil {
			g.log.WarnContext(ctx, "mail not sent; it will be tried again", "mail", id, "attempts", attempts, "err", err)
			continue
		}
		if _, err := g.store.pool.Exec(ctx, `DELETE FROM gate.outbox WHERE id = $1`, id); err != nil {
			return fmt.Errorf("remove a mail that was sent: %w", err)
		}
	}
}

func (g *Gate) sendMail(ctx context.Context, purpose, email string, box []byte) error {
	text, err := g.vault.open("mail "+purpose+" "+email, box)
	if err != nil {
		return err
	}
	var p mailPayload
	if err := json.Unmarshal(text, &p); err != nil {
		return fmt.Errorf("decode a mail: %w", err)
	}
	user, err := g.store.FindUser(ctx, email)
	switch {
	case errors.Is(err, ErrNotFound) && purpose != mailSignUp:
		return nil // there is nobody to write to, and nobody was told so
	case err != nil && !errors.Is(err, ErrNotFound):
		return err
	case err == nil && purpose == mailSignUp:
		purpose = mailKnown
	case err == nil && user.Disabled:
		return nil
	}
	// Of a name that a stranger typed in nothing goes into a mail: it could be a message of theirs.
	link, err := g.mailLink(ctx, purpose, email, p)
	if err != nil {
		return err
	}
	var body bytes.Buffer
	if err := mailTexts.ExecuteTemplate(&body, purpose, map[string]string{"Name": user.Name, "Link": link, "Text": p.Text}); err != nil {
		return fmt.Errorf("write a mail: %w", err)
	}
	msg := mail.NewMsg()
	if err := errors.Join(msg.From(g.cfg.Mail.From), msg.To(email)); err != nil {
		return fmt.Errorf("address a mail: %w", err)
	}
	msg.Subject(mailSubjects[purpose])
	msg.SetDate()
	msg.SetMessageID()
	msg.SetBodyString(mail.TypeTextPlain, strings.TrimLeft(body.String(), "\n"))
	var conn net.Conn
	client, err := g.cfg.Mail.client(func(c net.Conn) { conn = c })
	if err != nil {
		return err
	}
	defer func() {
		if conn != nil {
			_ = conn.Close() // closed already, if all went well
		}
	}()
	if err := client.DialAndSendWithContext(ctx, msg); err != nil {
		return fmt.Errorf("send a mail: %w", err)
	}
	return nil
}

// mailLink makes the link of a mail. Only its hash is stored; earlier links of the same kind stop working.
func (g *Gate) mailLink(ctx context.Context, purpose, email string, p mailPayload) (string, error) {
	base := strings.TrimSuffix(g.cfg.PublicURL, "/")
	if purpose == mailKnown || purpose == mailNotice {
		return base + "/auth/reset", nil
	}
	token := rand.Text() + rand.Text()
	hash := sha256.Sum256([]byte(token))
	text, err := json.Marshal(p)
	if err != nil {
		return "", fmt.Errorf("encode a link: %w", err)
	}
	err = pgx.BeginFunc(ctx, g.store.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM gate.mail_links WHERE email = $1 AND purpose = $2`, email, purpose); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `INSERT INTO gate.mail_links (token_hash, purpose, email, payload, expires_at) VALUES ($1, $2, $3, $4, now() + $5::interval)`,
			hash[:], purpose, email, g.vault.seal("link "+purpose+" "+email, text), linkLife)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("store a link: %w", err)
	}
	path := map[string]string{mailSignUp: "/auth/signup/confirm", mailVerify: "/auth/confirm", mailReset: "/auth/reset/confirm"}[purpose]
	return base + path + "?token=" + url.QueryEscape(token), nil
}

// signUpOf returns whom a sign-up's link is for and the hash of the password that was chosen, and leaves the link usable.
func (g *Gate) signUpOf(ctx context.Context, token string) (email, passwordHash string, err error) {
	hash := sha256.Sum256([]byte(token))
	var box []byte
	err = g.store.pool.QueryRow(ctx, `SELECT email, payload FROM gate.mail_links WHERE token_hash = $1 AND expires_at > now() AND purpose = $2`,
		hash[:], mailSignUp).Scan(&email, &box)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", "", errBadCredential
	}
	if err != nil {
		return "", "", fmt.Errorf("look at a link: %w", err)
	}
	p, err := g.openLink(mailSignUp, email, box)
	return email, p.PasswordHash, err
}

func (g *Gate) openLink(purpose, email string, box []byte) (p mailPayload, err error) {
	text, err := g.vault.open("link "+purpose+" "+email, box)
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(text, &p); err != nil {
		return p, fmt.Errorf("decode a link: %w", err)
	}
	return p, nil
}

// useLink takes a mailed link out of the database and returns what it is for. A link that was used, replaced, is too old or
// never existed is errBadCredential.
func (g *Gate) useLink(ctx context.Context, token, purpose string) (email string, p mailPayload, err error) {
	hash := sha256.Sum256([]byte(token))
	var box []byte
	err = g.store.pool.QueryRow(ctx, `DELETE FROM gate.mail_links WHERE token_hash = $1 AND expires_at > now() AND purpose = $2
		RETURNING email, payload`, hash[:], purpose).Scan(&email, &box)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", p, errBadCredential
	}
	if err != nil {
		return "", p, fmt.Errorf("use a link: %w", err)
	}
	p, err = g.openLink(purpose, email, box)
	return email, p, err
}
