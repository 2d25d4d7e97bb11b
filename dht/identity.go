package dht

import (
	"crypto/ed25519"
	"errors"
	"fmt"

	"github.com/libp2p/go-libp2p/core/crypto"
)

// NewKey makes a node's key: an Ed25519 key from the system's randomness.
func NewKey() (crypto.PrivKey, error) {
	_, std, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make a node key: %w", err)
	}
	return KeyFromSeed([32]byte(std.Seed()))
}

// KeyFromSeed returns the key that grows from a seed; the same seed gives the
// same peer id.
func KeyFromSeed(seed [32]byte) (crypto.PrivKey, error) {
	return crypto.UnmarshalEd25519PrivateKey(ed25519.NewKeyFromSeed(seed[:]))
}

// KeySeed returns the seed of an Ed25519 key: the secret to keep.
func KeySeed(key crypto.PrivKey) ([32]byte, error) {
	if key == nil || key.Type() != crypto.Ed25519 {
		return [32]byte{}, errors.New("node key: not an Ed25519 key")
	}
	raw, err := key.Raw()
	if err != nil {
		return [32]byte{}, fmt.Errorf("node key: %w", err)
	}
	return [32]byte(ed25519.PrivateKey(raw).Seed()), nil
}
