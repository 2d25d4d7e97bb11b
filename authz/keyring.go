package authz

import (
	"crypto/ed25519"
	"sync"
	"sync/atomic"
)

// A Keyring holds the organisation's public signing keys in memory, so that a token is checked before anything is
// looked up. It remembers for a while which tokens it has seen to be genuine: never a decision, only that a signature
// is good. It may be used concurrently. Whoever owns it keeps it up to date with Set, from SigningKeys.
type Keyring struct {
	keys atomic.Pointer[map[KeyID]SigningKey] // replaced whole by Set
	good seen
}

// NewKeyring returns a ring with these keys.
func NewKeyring(keys ...SigningKey) *Keyring {
	k := &Keyring{}
	k.Set(keys...)
	return k
}

// Set replaces the keys. A token seen under a key that is gone, changed or distrusted since is judged anew.
func (k *Keyring) Set(keys ...SigningKey) {
	m := make(map[KeyID]SigningKey, len(keys))
	for _, key := range keys {
		if len(key.Public) == ed25519.PublicKeySize {
			m[key.ID] = key
		}
	}
	k.keys.Store(&m)
}

func (k *Keyring) key(id KeyID) (SigningKey, bool) {
	key, ok := (*k.keys.Load())[id]
	return key, ok
}

// generation is how many tokens each of the two generations of seen holds: some 3 MB in all.
const generation = 8192

// seen remembers genuine tokens by their hash. When the young generation is full it becomes the old one; what is asked
// for again moves back into the young. Only genuine tokens enter, so a stranger cannot push them out.
type seen struct {
	mu         sync.Mutex // guards the fields below
	young, old map[[32]byte]seenToken
}

type seenToken struct {
	claims Claims
	public ed25519.PublicKey // that the signature was good under
}

func (s *seen) get(hash [32]byte) (Claims, ed25519.PublicKey, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.young[hash]
	if !ok {
		if t, ok = s.old[hash]; ok {
			s.add(hash, t)
		}
	}
	return t.claims, t.public, ok
}

func (s *seen) put(hash [32]byte, c Claims, public ed25519.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(hash, seenToken{c, public})
}

// add needs the lock.
func (s *seen) add(hash [32]byte, t seenToken) {
	if s.young == nil || len(s.young) >= generation {
		s.young, s.old = make(map[[32]byte]seenToken), s.young
	}
	s.young[hash] = t
}
