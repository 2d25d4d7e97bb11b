package authz

import (
	"crypto/ed25519"
	"fmt"
)

// PutSigningKey adds a signing key, or replaces the times of the one with its id; the key itself never changes
// (ErrExists).
func PutSigningKey(rw ReadWriter, k SigningKey) error {
	if k.ID == 0 || len(k.Public) != ed25519.PublicKeySize {
		return fmt.Errorf("signing key %d of %d octets: %w", k.ID, len(k.Public), ErrInvalid)
	}
	var old SigningKey
	err := load(rw, signingKeyKey(k.ID), &old, "signing key")
	if err != nil && !isNotFound(err) {
		return err
	}
	if err == nil && !old.Public.Equal(k.Public) {
		return fmt.Errorf("signing key %d: %w", k.ID, ErrExists)
	}
	return save(rw, signingKeyKey(k.ID), &k)
}

// SigningKeys returns all signing keys, by id, for a Keyring.
func SigningKeys(r Reader) ([]SigningKey, error) {
	var keys []SigningKey
	prefix := []byte(signingKeyPrefix)
	for _, v := range r.Scan(prefix, prefixEnd(prefix)) {
		var k SigningKey
		if err := unmarshal(v, &k); err != nil {
			return nil, fmt.Errorf("read signing key: %w", err)
		}
		k.Created, k.DistrustedAfter = utc(k.Created), utc(k.DistrustedAfter)
		keys = append(keys, k)
	}
	return keys, nil
}
