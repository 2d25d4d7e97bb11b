package authz

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"math/bits"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/veraison/go-cose"
)

// The wire form of a token, in the words of RFC 9052 (COSE), RFC 8392 (CWT) and RFC 8742 (CBOR sequences):
//
//	token       = base64url without padding of: root *narrowing [seed]
//	root        = COSE_Sign1, untagged: [protected, {}, claims, signature], external data rootLabel
//	protected   = {1 (alg): -8 (EdDSA), 4 (kid): key id, big-endian, without leading zeros}
//	claims      = {? 4 (exp): seconds, 7 (cti): grant id, 9 (scope): role}
//	role        = "m" / "s" / "r"
//	narrowing   = reserved (J3); a root that may be narrowed will carry 8 (cnf)
//	seed        = 32 octets, reserved (J3)
//
// Every part has one encoding only: what is not the deterministic encoding of what it says is refused, so that nobody
// can make a second text of a genuine token.

// rootLabel keeps a signature over a root from meaning anything elsewhere, and the other way round.
const rootLabel = "valise token root 1"

// maxItems bounds the sequence: a root, eight narrowings, a seed.
const maxItems = 10

// latest is the last second of the year 9999, beyond which nothing expires.
const latest = 253402300799

// wireClaims are the claims of a root certificate.
type wireClaims struct {
	Expires uint64 `cbor:"4,keyasint,omitempty"`
	Grant   []byte `cbor:"7,keyasint"`
	Scope   string `cbor:"9,keyasint"`
}

// A certificate is a root, read and found canonical; its signature is still to be checked.
type certificate struct {
	claims  Claims
	message cose.UntaggedSign1Message
}

// signRoot returns the encoded root certificate.
func signRoot(s Signer, c Claims) ([]byte, error) {
	if s.ID == 0 || !isEd25519(s.Key) {
		return nil, errors.New("the signing key is not an Ed25519 key with an id")
	}
	payload, err := encodeClaims(c)
	if err != nil {
		return nil, err
	}
	signer, err := cose.NewSigner(cose.AlgorithmEdDSA, s.Key)
	if err != nil {
		return nil, err
	}
	return cose.Sign1Untagged(rand.Reader, signer, rootHeaders(s.ID), payload, []byte(rootLabel))
}

func rootHeaders(id KeyID) cose.Headers {
	return cose.Headers{Protected: cose.ProtectedHeader{
		cose.HeaderLabelAlgorithm: cose.AlgorithmEdDSA,
		cose.HeaderLabelKeyID:     encodeKeyID(id),
	}}
}

func encodeClaims(c Claims) ([]byte, error) {
	w := wireClaims{Grant: c.Grant[:], Scope: scopeOf(c.Role)}
	if w.Scope == "" {
		return nil, fmt.Errorf("role %d: %w", c.Role, ErrInvalid)
	}
	if !c.Expires.IsZero() {
		unix := c.Expires.Unix()
		if unix <= 0 || unix > latest {
			return nil, fmt.Errorf("expiry %v: %w", c.Expires, ErrInvalid)
		}
		w.Expires = uint64(unix)
	}
	return modes().enc.Marshal(w)
}

// parseRoot reads a root certificate, without checking its signature. What it returns encodes to exactly data again.
func parseRoot(data []byte) (*certificate, error) {
	var cert certificate
	if err := cert.message.UnmarshalCBOR(data); err != nil {
		return nil, err
	}
	// RFC 9052, 3.1: a kid is a byte string; alg is compared by the re-encoding below.
	kid, ok := cert.message.Headers.Protected[cose.HeaderLabelKeyID].([]byte)
	if !ok {
		return nil, errors.New("no key id in the protected header")
	}
	id, err := decodeKeyID(kid)
	if err != nil {
		return nil, err
	}
	if cert.claims, err = decodeClaims(cert.message.Payload); err != nil {
		return nil, err
	}
	cert.claims.Key = id
	again, err := cert.encode()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, data) {
		return nil, errors.New("not in its one encoding")
	}
	return &cert, nil
}

// wireHeader and wireRoot are the one encoding of a root certificate.
type (
	wireHeader struct {
		Algorithm int    `cbor:"1,keyasint"`
		KeyID     []byte `cbor:"4,keyasint"`
	}
	wireRoot struct {
		_           struct{} `cbor:",toarray"`
		Protected   []byte
		Unprotected cbor.RawMessage
		Claims      []byte
		Signature   []byte
	}
)

// encode writes the certificate anew from what was understood of it.
func (c *certificate) encode() ([]byte, error) {
	payload, err := encodeClaims(c.claims)
	if err != nil {
		return nil, err
	}
	protected, err := modes().enc.Marshal(wireHeader{int(cose.AlgorithmEdDSA), encodeKeyID(c.claims.Key)})
	if err != nil {
		return nil, err
	}
	return modes().enc.Marshal(wireRoot{
		Protected:   protected,
		Unprotected: cbor.RawMessage{0xa0}, // {}
		Claims:      payload,
		Signature:   c.message.Signature,
	})
}

// verify checks the signature. crypto/ed25519 takes only S below the group's order and R in its canonical encoding
// (RFC 8032, 5.1.7), so that a signature has one form too.
func (c *certificate) verify(public ed25519.PublicKey) error {
	v, err := cose.NewVerifier(cose.AlgorithmEdDSA, public)
	if err != nil {
		return err
	}
	return c.message.Verify([]byte(rootLabel), v)
}

func decodeClaims(payload []byte) (Claims, error) {
	var w wireClaims
	if err := modes().dec.Unmarshal(payload, &w); err != nil {
		return Claims{}, err
	}
	c := Claims{Role: roleOf(w.Scope)}
	if len(w.Grant) != len(c.Grant) {
		return Claims{}, errors.New("no grant id")
	}
	copy(c.Grant[:], w.Grant)
	if w.Expires > 0 {
		c.Expires = time.Unix(int64(w.Expires), 0).UTC() // out of range, or wrapped around: does not encode again
	}
	return c, nil
}

func scopeOf(r Role) string {
	switch r {
	case Member:
		return "m"
	case Sender:
		return "s"
	case Receiver:
		return "r"
	}
	return ""
}

func roleOf(scope string) Role {
	for _, r := range []Role{Member, Sender, Receiver} {
		if scope == scopeOf(r) {
			return r
		}
	}
	return 0
}

func encodeKeyID(id KeyID) []byte {
	b := make([]byte, 0, 4)
	for n := (bits.Len32(uint32(id)) + 7) / 8; n > 0; n-- {
		b = append(b, byte(id>>(8*(n-1))))
	}
	return b
}

func decodeKeyID(b []byte) (KeyID, error) {
	if len(b) < 1 || len(b) > 4 || b[0] == 0 {
		return 0, errors.New("not a key id")
	}
	var id KeyID
	for _, c := range b {
		id = id<<8 | KeyID(c)
	}
	return id, nil
}

func encodeToken(items ...[]byte) Token {
	return Token(base64.RawURLEncoding.EncodeToString(bytes.Join(items, nil)))
}

// decodeToken takes the text apart into the items of its sequence. encoding/base64 skips line ends even when strict,
// and leaves trailing bits alone when not: so the text must come out the same again.
func decodeToken(t Token) ([]cbor.RawMessage, error) {
	data, err := base64.RawURLEncoding.DecodeString(string(t))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadToken, err)
	}
	if encodeToken(data) != t {
		return nil, fmt.Errorf("%w: not in its one encoding", ErrBadToken)
	}
	var items []cbor.RawMessage
	for len(data) > 0 && len(items) < maxItems {
		var item cbor.RawMessage
		if data, err = modes().dec.UnmarshalFirst(data, &item); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrBadToken, err)
		}
		items = append(items, item)
	}
	if len(items) == 0 || len(data) > 0 {
		return nil, fmt.Errorf("%w: empty or too long a sequence", ErrBadToken)
	}
	return items, nil
}
