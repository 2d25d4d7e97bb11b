package backup

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"time"

	"filippo.io/age"
	"github.com/fxamacker/cbor/v2"
	"github.com/zeebo/blake3"
)

// Keys are an organisation's secrets: what opens its backups, and what signed its links. They are kept
// apart from every backup.
type Keys struct {
	Version      int       `cbor:"0,keyasint"`
	Organisation string    `cbor:"1,keyasint"`
	Cluster      string    `cbor:"2,keyasint"`
	OrgKey       []byte    `cbor:"3,keyasint"` // public
	Created      time.Time `cbor:"4,keyasint"`
	Secrets      []Secret  `cbor:"5,keyasint"`
}

// A Secret is 32 bytes with a kind and an epoch.
type Secret struct {
	Kind  string `cbor:"1,keyasint"`
	Epoch uint32 `cbor:"2,keyasint"`
	Value []byte `cbor:"3,keyasint"`
}

const keysVersion = 1

// String keeps secrets out of logs.
func (Keys) String() string { return "redacted" }

func (k Keys) secret(kind string, epoch uint32) ([]byte, bool) {
	for _, s := range k.Secrets {
		if s.Kind == kind && s.Epoch == epoch {
			return s.Value, true
		}
	}
	return nil, false
}

// Checks are what a header has of the secrets.
func (k Keys) Checks() (out []SecretCheck) {
	for _, s := range k.Secrets {
		var sum [16]byte
		blake3.DeriveKey("valise 2026 check of a secret 1", s.Value, sum[:])
		out = append(out, SecretCheck{Kind: s.Kind, Epoch: s.Epoch, Check: sum[:]})
	}
	slices.SortFunc(out, compareChecks)
	return out
}

// Encode returns the secrets in the clear, for Seal or DecodeKeys.
func (k Keys) Encode() ([]byte, error) {
	k.Version = keysVersion
	return cbor.Marshal(k)
}

// DecodeKeys reads what Encode wrote.
func DecodeKeys(data []byte) (k Keys, err error) {
	if err := cbor.Unmarshal(data, &k); err != nil {
		return Keys{}, fmt.Errorf("keys: %w", err)
	}
	if k.Version != keysVersion {
		return Keys{}, fmt.Errorf("keys of version %d: %w", k.Version, ErrNewer)
	}
	for _, s := range k.Secrets {
		if len(s.Value) != 32 {
			return Keys{}, fmt.Errorf("%s key %d has %d bytes: %w", s.Kind, s.Epoch, len(s.Value), ErrDamaged)
		}
	}
	return k, nil
}

// Seal encrypts encoded secrets with a passphrase, as a file that age opens. work is scrypt's, as a power
// of two; 0 is age's default, about a second.
func Seal(encoded []byte, passphrase string, work int) ([]byte, error) {
	r, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, err
	}
	if work > 0 {
		r.SetWorkFactor(work)
	}
	var out bytes.Buffer
	w, err := age.Encrypt(&out, r)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(encoded); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}

// Unseal opens what Seal made. ErrKeys where the passphrase is another one.
func Unseal(sealed []byte, passphrase string) ([]byte, error) {
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	r, err := age.Decrypt(bytes.NewReader(sealed), id)
	if err != nil {
		return nil, fmt.Errorf("keys file: %w: %w", err, ErrKeys)
	}
	data, err := io.ReadAll(io.LimitReader(r, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("keys file: %w: %w", err, ErrDamaged)
	}
	return data, nil
}
