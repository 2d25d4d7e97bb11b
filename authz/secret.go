package authz

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"fmt"
	"log/slog"
	"strings"
)

// alphabet is Crockford's base 32 in lower case: no i, l, o, u to mistake or to swear with.
const alphabet = "0123456789abcdefghjkmnpqrstvwxyz"

const (
	groups      = 7 // of four characters, five bits each: 140 random bits (J6: at least 128)
	groupLength = 4
)

// NewID returns a new id of 130 random bits: 26 characters that need no escaping in a link, a path or a shell. It
// serves for accounts, sendings and files. Take it before a transaction, whose function may run twice.
func NewID() string { return randomText(26) }

// NewGrantID returns a new random grant id. Take it before a transaction, whose function may run twice.
func NewGrantID() GrantID {
	var id GrantID
	rand.Read(id[:]) // never fails (crypto/rand)
	return id
}

func randomText(n int) string {
	b := make([]byte, (n*5+7)/8)
	rand.Read(b)
	return base32.NewEncoding(alphabet).WithPadding(base32.NoPadding).EncodeToString(b)[:n]
}

// A Secret is a password we issued, or one somebody presents as such. Printing or logging it shows "redacted".
type Secret struct{ text string }

// NewAppPassword makes a secret of 140 random bits. Reveal shows it, once, to its owner.
func NewAppPassword() Secret { return Secret{randomText(groups * groupLength)} }

// ParseSecret takes what somebody typed: any case, with or without hyphens and spaces, O for 0, I or L for 1. It
// never fails: what is no secret of ours matches none.
func ParseSecret(typed string) Secret {
	if len(typed) > 256 { // nothing we issue is that long
		return Secret{}
	}
	var text strings.Builder
	for _, c := range []byte(lowerASCII(typed)) {
		switch c {
		case '-', ' ', '\t', '\r', '\n':
			continue
		case 'o':
			c = '0'
		case 'i', 'l':
			c = '1'
		}
		if strings.IndexByte(alphabet, c) < 0 {
			return Secret{}
		}
		text.WriteByte(c)
	}
	return Secret{text.String()}
}

// Reveal returns the secret in readable groups: xxxx-xxxx-xxxx-xxxx-xxxx-xxxx-xxxx.
func (s Secret) Reveal() string {
	var parts []string
	for t := s.text; t != ""; t = t[min(groupLength, len(t)):] {
		parts = append(parts, t[:min(groupLength, len(t))])
	}
	return strings.Join(parts, "-")
}

// Hash returns what is stored in its stead. SHA-256 is enough for 128 random bits and more (J6).
func (s Secret) Hash() [32]byte { return sha256.Sum256([]byte(s.text)) }

// Matches compares in constant time with a stored hash.
func (s Secret) Matches(hash [32]byte) bool {
	h := s.Hash()
	return s.text != "" && subtle.ConstantTimeCompare(h[:], hash[:]) == 1
}

const redacted = "redacted"

// Format writes "redacted", whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue is "redacted".
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
