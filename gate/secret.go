package gate

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// SecretLen is the length in bytes of the secret that seals what must be read back from the database: signing keys and the
// seeds of second factors. All processes that share a database need the same.
const SecretLen = 32

// LoadOrCreateSecret reads a secret from a file, in base64, and makes the file (0600) if there is none.
func LoadOrCreateSecret(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		secret := make([]byte, SecretLen)
		rand.Read(secret)
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, fmt.Errorf("create the gate's secret: %w", err)
		}
		_, werr := f.WriteString(base64.StdEncoding.EncodeToString(secret) + "\n")
		if err := errors.Join(werr, f.Sync(), f.Close()); err != nil {
			return nil, fmt.Errorf("write the gate's secret: %w", err)
		}
		return secret, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the gate's secret: %w", err)
	}
	secret, err := ParseSecret(string(text))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return secret, nil
}

// ParseSecret decodes a secret from base64.
func ParseSecret(text string) ([]byte, error) {
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil || len(secret) != SecretLen {
		return nil, invalid("the gate's secret must be %d random bytes in base64; make one with: head -c %d /dev/urandom | base64", SecretLen, SecretLen)
	}
	return secret, nil
}

// vault seals small secrets with AES-256-GCM. The purpose is bound to the box, so that one kind cannot stand in for another.
type vault struct{ aead cipher.AEAD }

func newVault(secret []byte) (vault, error) {
	if len(secret) != SecretLen {
		return vault{}, invalid("the gate's secret must have %d bytes, not %d", SecretLen, len(secret))
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return vault{}, fmt.Errorf("prepare the gate's secret: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return vault{}, fmt.Errorf("prepare the gate's secret: %w", err)
	}
	return vault{aead}, nil
}

func (v vault) seal(purpose string, plain []byte) []byte {
	return v.aead.Seal(nil, nil, plain, []byte(purpose)) //nolint:gosec // this AEAD draws its own nonces
}

func (v vault) open(purpose string, box []byte) ([]byte, error) {
	plain, err := v.aead.Open(nil, nil, box, []byte(purpose))
	if err != nil {
		return nil, fmt.Errorf("open what is sealed as %s: is the gate's secret the one it was sealed with? %w", purpose, err)
	}
	return plain, nil
}
