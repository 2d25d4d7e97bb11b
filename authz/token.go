package authz

import (
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// A Token is the text in a link. Printing or logging it shows "redacted"; string(t) is the text.
type Token string

// Hash is what a grant records of its token.
func (t Token) Hash() [32]byte { return sha256.Sum256([]byte(t)) }

// Format writes "redacted", whatever the verb.
func (t Token) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue is "redacted".
func (t Token) LogValue() slog.Value { return slog.StringValue(redacted) }

// Claims are what a token says.
type Claims struct {
	Grant   GrantID
	Role    Role
	Expires time.Time // zero: never; whole seconds, UTC
	Key     KeyID     // Issue takes it from the Signer
}

// A Signer signs tokens. Key must hold an Ed25519 key; it is used concurrently if the Signer is.
type Signer struct {
	ID  KeyID
	Key crypto.Signer
}

// Issue signs a token. The same claims and key always give the same token.
func Issue(s Signer, c Claims) (Token, error) { return "", errors.New("not yet") }

// Verify checks a token offline.
func Verify(t Token, keys *Keyring, now time.Time) (Claims, error) {
	return Claims{}, errors.New("not yet")
}

// A Keyring holds the organisation's public signing keys. It may be used concurrently.
type Keyring struct{}

// NewKeyring returns a ring with these keys.
func NewKeyring(keys ...SigningKey) *Keyring { return &Keyring{} }

// Set replaces the keys.
func (k *Keyring) Set(keys ...SigningKey) {}
