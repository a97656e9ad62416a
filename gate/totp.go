package gate

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"image/png"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pquerna/otp"
	"github.com/pquerna/otp/totp"
)

const (
	factorPurpose = "second factor"
	recoveryCodes = 10
	totpPeriod    = 30 // seconds
)

var totpOptions = totp.ValidateOpts{Period: totpPeriod, Digits: otp.DigitsSix, Algorithm: otp.AlgorithmSHA1}

// hasFactor reports whether a user must give a second factor.
func (s *Store) hasFactor(ctx context.Context, userID string) (has bool, err error) {
	if err := s.pool.QueryRow(ctx, `SELECT totp_seed IS NOT NULL FROM gate.users WHERE id = $1`, userID).Scan(&has); err != nil {
		return false, fmt.Errorf("look for a second factor: %w", err)
	}
	return has, nil
}

// hasPassword reports whether a user has one: who only ever logged in at a provider does not.
func (s *Store) hasPassword(ctx context.Context, userID string) (has bool, err error) {
	if err := s.pool.QueryRow(ctx, `SELECT password_hash IS NOT NULL FROM gate.users WHERE id = $1`, userID).Scan(&has); err != nil {
		return false, fmt.Errorf("look for a password: %w", err)
	}
	return has, nil
}

// passwordProof identifies a user's present password without telling anything of it.
func (s *Store) passwordProof(ctx context.Context, userID string) (string, error) {
	var hash string
	err := s.pool.QueryRow(ctx, `SELECT coalesce(password_hash, '') FROM gate.users WHERE id = $1`, userID).Scan(&hash)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("user: %w", ErrNotFound)
	}
	if err != nil {
		return "", fmt.Errorf("look up a user: %w", err)
	}
	sum := sha256.Sum256([]byte(hash))
	return hex.EncodeToString(sum[:8]), nil
}

// proveFactor checks a TOTP code or a recovery code, within the limits on guessing. Either is good once.
func (g *Gate) proveFactor(x *exchange, userID, code string) *denial {
	ctx := x.r.Context()
	guards := []guard{{throttleFactor, userID}}
	if d := g.guessing(ctx, guards); d != nil {
		x.note("second_factor", "locked", userID, "")
		return d
	}
	kind, err := g.checkFactor(ctx, userID, code)
	switch {
	case isBadCredential(err):
		g.metrics.logins.WithLabelValues("factor_refused").Inc()
		x.note("second_factor", "refused", userID, "")
		return denyFactor
	case err != nil:
		return g.settle(ctx, guards, g.store.refund, denyUnavailable.because(err))
	}
	x.note("second_factor", "ok", userID, kind)
	return g.settle(ctx, guards, g.store.forgive, nil)
}

func (g *Gate) checkFactor(ctx context.Context, userID, code string) (kind string, err error) {
	code = strings.ToLower(strings.NewReplacer(" ", "", "-", "").Replace(code))
	if len(code) != 6 {
		return "recovery code", g.store.useRecoveryCode(ctx, userID, code)
	}
	var box []byte
	if err := g.store.pool.QueryRow(ctx, `SELECT totp_seed FROM gate.users WHERE id = $1`, userID).Scan(&box); err != nil {
		return "", fmt.Errorf("read a second factor: %w", err)
	}
	if box == nil {
		return "", errBadCredential // it was removed meanwhile
	}
	seed, err := g.vault.open(factorPurpose+userID, box)
	if err != nil {
		return "", err
	}
	step, ok := matchStep(string(seed), code, g.now())
	if !ok {
		return "", errBadCredential
	}
	tag, err := g.store.pool.Exec(ctx, `UPDATE gate.users SET totp_last_step = $2 WHERE id = $1 AND totp_last_step < $2`, userID, step)
	if err != nil {
		return "", fmt.Errorf("use a code: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return "", errBadCredential // it was used already
	}
	return "code", nil
}

// matchStep finds the time step that a code is of: this one, or a neighbour, for clocks that are off.
func matchStep(seed, code string, now time.Time) (step int64, ok bool) {
	for offset := -1; offset <= 1; offset++ {
		at := now.Add(time.Duration(offset*totpPeriod) * time.Second)
		want, err := totp.GenerateCodeCustom(seed, at, totpOptions)
		if err == nil && subtle.ConstantTimeCompare([]byte(want), []byte(code)) == 1 {
			step, ok = at.Unix()/totpPeriod, true
		}
	}
	return step, ok
}

func (s *Store) useRecoveryCode(ctx context.Context, userID, code string) error {
	hash := sha256.Sum256([]byte(userID + code))
	tag, err := s.pool.Exec(ctx, `DELETE FROM gate.recovery_codes WHERE user_id = $1 AND code_hash = $2`, userID, hash[:])
	if err != nil {
		return fmt.Errorf("use a recovery code: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return errBadCredential
	}
	return nil
}

// enableFactor stores a seed and fresh recovery codes, which it returns.
func (g *Gate) enableFactor(ctx context.Context, userID, seed string, step int64) ([]string, error) {
	codes := make([]string, recoveryCodes)
	err := pgx.BeginFunc(ctx, g.store.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `UPDATE gate.users SET totp_seed = $2, totp_last_step = $3, updated_at = now() WHERE id = $1`,
			userID, g.vault.seal(factorPurpose+userID, []byte(seed)), step); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `DELETE FROM gate.recovery_codes WHERE user_id = $1`, userID); err != nil {
			return err
		}
		for i := range codes {
			code := strings.ToLower(rand.Text())[:16]
			hash := sha256.Sum256([]byte(userID + code))
			if _, err := tx.Exec(ctx, `INSERT INTO gate.recovery_codes (user_id, code_hash) VALUES ($1, $2)`, userID, hash[:]); err != nil {
				return err
			}
			codes[i] = code[:4] + "-" + code[4:8] + "-" + code[8:12] + "-" + code[12:]
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("store a second factor: %w", err)
	}
	return codes, nil
}

// disableFactor removes a user's second factor.
func (s *Store) disableFactor(ctx context.Context, userID string) error {
	if _, err := s.pool.Exec(ctx, `WITH gone AS (DELETE FROM gate.recovery_codes WHERE user_id = $1)
		UPDATE gate.users SET totp_seed = NULL, updated_at = now() WHERE id = $1`, userID); err != nil {
		return fmt.Errorf("remove a second factor: %w", err)
	}
	return nil
}

// setUp is what the page for a new second factor shows.
type setUp struct {
	Seed   string       // for typing in
	QR     template.URL // for scanning
	Sealed string       // the seed on its way through the form
}

// factorPage shows a new seed, or how to remove the one in use.
func (g *Gate) factorPage(x *exchange) *denial {
	p, d := x.needSession()
	if d != nil {
		return d
	}
	has, err := g.store.hasFactor(x.r.Context(), p.Subject)
	if err != nil {
		return denyUnavailable.because(err)
	}
	if has {
		x.render(http.StatusOK, "factoroff", page{Title: "Second factor", User: p})
		return nil
	}
	if has, err := g.store.hasPassword(x.r.Context(), p.Subject); err != nil {
		return denyUnavailable.because(err)
	} else if !has {
		return g.missPassword(x)
	}
	key, err := totp.Generate(totp.GenerateOpts{Issuer: g.siteName(), AccountName: p.Email, Period: totpPeriod})
	if err != nil {
		return denyInternal.because(err)
	}
	return g.showSetUp(x, key, "")
}

func (g *Gate) showSetUp(x *exchange, key *otp.Key, fault string) *denial {
	img, err := key.Image(240, 240)
	if err != nil {
		return denyInternal.because(err)
	}
	var b bytes.Buffer
	if err := png.Encode(&b, img); err != nil {
		return denyInternal.because(err)
	}
	status := http.StatusOK
	if fault != "" {
		status, x.code = http.StatusUnprocessableEntity, denyInput.code
	}
	x.render(status, "factoron", page{Title: "Second factor", Error: fault, Data: setUp{
		Seed:   key.Secret(),
		QR:     template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(b.Bytes())), //nolint:gosec // our own image
		Sealed: base64.RawURLEncoding.EncodeToString(g.vault.seal(factorPurpose+" set-up "+x.principal.Subject, []byte(key.URL()))),
	}})
	return nil
}

// factorOn turns the second factor on, once a code shows that the seed arrived, and ends all other sessions.
func (g *Gate) factorOn(x *exchange) *denial {
	p, d := x.needSession()
	if d != nil {
		return d
	}
	form, d := x.form()
	if d != nil {
		return d
	}
	box, err := base64.RawURLEncoding.DecodeString(form.Get("sealed"))
	if err != nil {
		return denyInput
	}
	text, err := g.vault.open(factorPurpose+" set-up "+p.Subject, box)
	if err != nil {
		return denyInput.because(err)
	}
	key, err := otp.NewKeyFromURL(string(text))
	if err != nil {
		return denyInternal.because(err)
	}
	ctx := x.r.Context()
	if has, err := g.store.hasFactor(ctx, p.Subject); err != nil || has {
		return denyInput.saying("there is a second factor already: remove it first").because(err)
	}
	if _, d := g.provePassword(x, p.Email, form.Get("password"), "enable_factor"); d != nil {
		if d.code == denyLogin.code && x.wantsPage() {
			return g.showSetUp(x, key, "the password is wrong")
		}
		return d
	}
	step, ok := matchStep(key.Secret(), strings.ReplaceAll(form.Get("code"), " ", ""), g.now())
	if !ok {
		if x.wantsPage() {
			return g.showSetUp(x, key, denyFactor.detail)
		}
		return denyFactor
	}
	codes, err := g.enableFactor(ctx, p.Subject, key.Secret(), step)
	if err != nil {
		return denyUnavailable.because(err)
	}
	if d := g.renewSessions(x, p); d != nil {
		return d
	}
	x.note("enable_factor", "ok", p.Subject, "")
	g.notice(x, p.Email, "a second factor was set up for your account.")
	x.render(http.StatusOK, "codes", page{Title: "Recovery codes", Data: codes})
	return nil
}

// factorOff removes the second factor; it takes the password and a code.
func (g *Gate) factorOff(x *exchange) *denial {
	p, d := x.needSession()
	if d != nil {
		return d
	}
	form, d := x.form()
	if d != nil {
		return d
	}
	again := func(d *denial) *denial {
		if !x.wantsPage() || d.status >= http.StatusInternalServerError {
			return d
		}
		x.code = d.code
		x.render(d.status, "factoroff", page{Title: "Second factor", User: p, Error: d.detail})
		return nil
	}
	const gone = "Your account has no second factor any more."
	if has, err := g.store.hasFactor(x.r.Context(), p.Subject); err != nil {
		return denyUnavailable.because(err)
	} else if !has {
		return x.message("Done", gone)
	}
	if _, d := g.provePassword(x, p.Email, form.Get("password"), "disable_factor"); d != nil {
		if d.code == denyLogin.code {
			d = d.saying("the password is wrong")
		}
		return again(d)
	}
	if d := g.proveFactor(x, p.Subject, form.Get("code")); d != nil {
		return again(d)
	}
	if err := g.store.disableFactor(x.r.Context(), p.Subject); err != nil {
		return denyUnavailable.because(err)
	}
	if d := g.renewSessions(x, p); d != nil {
		return d
	}
	x.note("disable_factor", "ok", p.Subject, "")
	g.notice(x, p.Email, "the second factor of your account was removed.")
	return x.message("Done", gone)
}

// renewSessions ends all of a user's sessions and starts this one anew.
func (g *Gate) renewSessions(x *exchange, p *Principal) *denial {
	if err := g.store.endSessions(x.r.Context(), p.Subject, ""); err != nil {
		return denyUnavailable.because(err)
	}
	g.revoke(revocation{User: p.Subject})
	return g.beginSession(x, p.Subject)
}
