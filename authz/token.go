package authz

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"time"
)

// maxToken is the longest text looked at, in octets: a root certificate takes about 131, each narrowing some 200.
const maxToken = 2048

// skew is what the clocks of two nodes may differ by (R6).
const skew = 60 * time.Second

// A Token is the text in a link: base64url of a CBOR sequence (RFC 8742) of certificates. Printing or logging it shows
// "redacted"; string(t) is the text.
type Token string

// Hash is what a grant records of its token: SHA-256 of the text.
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
	Key     KeyID     // that it is signed with; Issue takes it from the Signer
}

// A Signer signs tokens. Key must hold an Ed25519 key; it is used concurrently if the Signer is.
type Signer struct {
	ID  KeyID
	Key crypto.Signer
}

// Issue signs a token. The same claims and key always give the same token.
func Issue(s Signer, c Claims) (Token, error) {
	c.Key = s.ID
	c.Expires = seconds(c.Expires)
	root, err := signRoot(s, c)
	if err != nil {
		return "", fmt.Errorf("issue a token of grant %s: %w", c.Grant, err)
	}
	return encodeToken(root), nil
}

// Verify checks a token without looking anything up: its form, its signature, its expiry with a tolerance of 60 s (R6).
// Errors are ErrAccessDenied with one of the reasons ErrBadToken, ErrNarrowed, ErrUnknownKey, ErrDistrustedKey or
// ErrExpired. A genuine token is not a permission yet: Decide decides.
func Verify(t Token, keys *Keyring, now time.Time) (Claims, error) {
	v, err := verify(t, keys, now)
	if err == nil && !v.key.DistrustedAfter.IsZero() {
		err = denied("token", ErrDistrustedKey)
	}
	if err != nil {
		return Claims{}, err
	}
	return v.claims, nil
}

// Genuine returns what a token with a good signature says, though it be expired or its key distrusted: enough for an
// owner to find the grant again, never to serve by. Errors are those of Verify but ErrExpired and ErrDistrustedKey.
func Genuine(t Token, keys *Keyring) (Claims, error) {
	v, err := verify(t, keys, time.Time{}) // a time before every expiry
	return v.claims, err
}

// verified is a token whose signature and expiry are good.
type verified struct {
	claims Claims
	key    SigningKey // may be distrusted: then only a grant can vouch for the token
	hash   [32]byte
}

func verify(t Token, keys *Keyring, now time.Time) (verified, error) {
	if len(t) > maxToken {
		return verified{}, denied("token", fmt.Errorf("%d octets: %w", len(t), ErrBadToken))
	}
	hash := t.Hash()
	claims, key, err := signature(t, hash, keys)
	if err != nil {
		return verified{}, denied("token", err)
	}
	if expired(claims.Expires, now) {
		return verified{}, denied("token", ErrExpired)
	}
	return verified{claims, key, hash}, nil
}

func expired(at, now time.Time) bool { return !at.IsZero() && now.After(at.Add(skew)) }

// signature reads a token and checks its signature, unless that was seen to be good under the same key before.
func signature(t Token, hash [32]byte, keys *Keyring) (Claims, SigningKey, error) {
	if claims, public, seen := keys.good.get(hash); seen {
		if key, ok := keys.key(claims.Key); ok && key.Public.Equal(public) {
			return claims, key, nil
		}
	}
	certs, err := decodeToken(t)
	if err != nil {
		return Claims{}, SigningKey{}, err
	}
	// Narrowing (J3) will walk on from here: each certificate checked against the one before it, with
	// external data that holds the parent's hash. Until then the root is all there may be.
	if len(certs) != 1 {
		return Claims{}, SigningKey{}, fmt.Errorf("%d certificates: %w", len(certs), ErrNarrowed)
	}
	root, err := parseRoot(certs[0])
	if err != nil {
		return Claims{}, SigningKey{}, fmt.Errorf("%w: %w", ErrBadToken, err)
	}
	key, ok := keys.key(root.claims.Key)
	if !ok {
		return Claims{}, SigningKey{}, fmt.Errorf("key %d: %w", root.claims.Key, ErrUnknownKey)
	}
	if err := root.verify(key.Public); err != nil {
		return Claims{}, SigningKey{}, fmt.Errorf("%w: %w", ErrBadToken, err)
	}
	keys.good.put(hash, root.claims, key.Public)
	return root.claims, key, nil
}

// isEd25519 guards against a signer whose signatures would name another algorithm.
func isEd25519(s crypto.Signer) bool {
	if s == nil {
		return false
	}
	_, ok := s.Public().(ed25519.PublicKey)
	return ok
}
