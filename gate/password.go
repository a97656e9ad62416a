package gate

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/sync/semaphore"
	"golang.org/x/text/unicode/norm"
)

// Password lengths in characters, and the bound in bytes that keeps hashing from being fed megabytes.
const (
	minPassword      = 10
	maxPasswordBytes = 512
)

// argonParams are what argon2id costs: memory in KiB, passes, lanes.
type argonParams struct {
	memory, time uint32
	threads      uint8
}

// OWASP's recommendation for argon2id. About 25 ms of one core.
var defaultArgon = argonParams{memory: 19 * 1024, time: 2, threads: 1}

// errBusy is returned when too many passwords are waiting to be hashed.
var errBusy = errors.New("too many passwords are being checked")

// hasher hashes and checks passwords. Hashing is expensive by design, so it lets only a few run at once, leaving a core to
// the proxy, and lets only a bounded number wait.
type hasher struct {
	params  argonParams
	slots   *semaphore.Weighted
	waiting atomic.Int64
	queue   int64
	patient time.Duration
	decoy   string      // checked in place of the hash of an unknown user, at the same cost
	helpers *helpers    // processes that do the work; nil: this one does
	failed  func(error) // hears why a helper did not
}

func newHasher(params argonParams) *hasher {
	slots := max(1, runtime.GOMAXPROCS(0)/2)
	h := &hasher{params: params, slots: semaphore.NewWeighted(int64(slots)), queue: int64(64 * slots), patient: 10 * time.Second}
	h.decoy = h.encode(rand.Text(), []byte(rand.Text())[:16])
	return h
}

// acquire waits for a turn to hash.
func (h *hasher) acquire(ctx context.Context) error {
	if h.waiting.Add(1) > h.queue {
		h.waiting.Add(-1)
		return errBusy
	}
	defer h.waiting.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, h.patient)
	defer cancel()
	if err := h.slots.Acquire(ctx, 1); err != nil {
		return errBusy
	}
	return nil
}

// release ends a turn that began at started. While others wait, the core rests for as long as the turn took, so that a storm of
// logins takes half a core and no more.
func (h *hasher) release(started time.Time) {
	if h.waiting.Load() == 0 {
		h.slots.Release(1)
		return
	}
	time.AfterFunc(time.Since(started), func() { h.slots.Release(1) })
}

// hash returns the password's hash in PHC form.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	if err := h.acquire(ctx); err != nil {
		return "", err
	}
	defer h.release(time.Now())
	salt := make([]byte, 16)
	rand.Read(salt)
	return h.encode(password, salt), nil
}

func (h *hasher) encode(password string, salt []byte) string {
	p := h.params
	sum := h.sum(password, salt, p, 32)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.time, p.threads,
		b64.EncodeToString(salt), b64.EncodeToString(sum))
}

// sum is argon2id of a password. That a helper fails makes the work slower for others, and is no reason to shut anyone out.
func (h *hasher) sum(password string, salt []byte, p argonParams, length uint32) []byte {
	w := hashWork{Input: []byte(norm.NFC.String(password)), Salt: salt, Time: p.time, Memory: p.memory, Threads: p.threads, Length: length}
	if h.helpers != nil {
		sum, err := h.helpers.sum(w)
		if err == nil {
			return sum
		}
		h.failed(err)
	}
	return w.sum()
}

// verify reports whether password matches the encoded hash. An empty hash, of a user who is unknown or has no password, costs
// the same and never matches.
func (h *hasher) verify(ctx context.Context, password, encoded string) (bool, error) {
	known := encoded != ""
	if !known {
		encoded = h.decoy
	}
	p, salt, want, err := decodeHash(encoded)
	if err != nil {
		return false, err
	}
	if err := h.acquire(ctx); err != nil {
		return false, err
	}
	defer h.release(time.Now())
	got := h.sum(password, salt, p, uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1 && known, nil
}

// outdated reports whether encoded was made with other parameters than hash would use now.
func (h *hasher) outdated(encoded string) bool {
	p, _, _, err := decodeHash(encoded)
	return err != nil || p != h.params
}

func decodeHash(encoded string) (p argonParams, salt, sum []byte, err error) {
	bad := func(err error) (argonParams, []byte, []byte, error) {
		return argonParams{}, nil, nil, fmt.Errorf("stored password hash is not argon2id in PHC form: %w", err)
	}
	parts := strings.Split(encoded, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return bad(errors.New("unknown algorithm or version"))
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.threads); err != nil {
		return bad(err)
	}
	if p.time < 1 || p.threads < 1 || p.memory < 8 || p.memory > 1<<20 {
		return bad(errors.New("parameters out of range"))
	}
	if salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil {
		return bad(err)
	}
	if sum, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil {
		return bad(err)
	}
	if len(salt) < 8 || len(sum) < 16 {
		return bad(errors.New("salt or sum too short"))
	}
	return p, salt, sum, nil
}

// checkNewPassword says what is wrong with a password that someone wants to have.
func checkNewPassword(password string) error {
	switch {
	case !utf8.ValidString(password):
		return invalid("the password must be valid UTF-8")
	case utf8.RuneCountInString(password) < minPassword:
		return invalid("the password must have at least %d characters", minPassword)
	case len(password) > maxPasswordBytes:
		return invalid("the password must have at most %d bytes", maxPasswordBytes)
	}
	return nil
}
