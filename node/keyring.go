package node

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/zeebo/blake3"

	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
)

// Kinds of secrets. They are independent of each other and have epochs; each
// is 32 random bytes, wrapped in the ledger to every full node's own key (R5).
const (
	kindOrg     = "org"     // Ed25519 seed: signs the member list
	kindSigning = "signing" // Ed25519 seed: signs link tokens
	kindContent = "content" // chunk keys are derived from it; root keys are wrapped under it
	kindMail    = "mail"    // seals the mailboxes' passwords
	kindCookie  = "cookie"  // signs what browsers carry
)

var kinds = []string{kindOrg, kindSigning, kindContent, kindMail, kindCookie}

// errNoKey says that a secret of that epoch is not wrapped to this node (yet).
var errNoKey = errors.New("this node holds no key of that epoch")

type secretID struct {
	kind  string
	epoch uint32
}

// A keyring holds the secrets that the ledger wraps to this node. It is safe
// for concurrent use.
type keyring struct {
	cluster string
	id      *identity

	mu      sync.RWMutex // guards the fields below
	secrets map[secretID][]byte
	newest  map[string]uint32
}

func newKeyring(cluster string, id *identity) *keyring {
	return &keyring{cluster: cluster, id: id, secrets: map[secretID][]byte{}, newest: map[string]uint32{}}
}

func wrapInfo(cluster, kind string, epoch uint32, id peer.ID) []byte {
	return fmt.Appendf(nil, "valise wrapped secret 1\x00%s\x00%s\x00%d\x00%s", cluster, kind, epoch, id)
}

// wrap seals a secret to one node's public key.
func wrap(cluster, kind string, epoch uint32, to peer.ID, sealKey, secret []byte) ([]byte, error) {
	pub, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(sealKey)
	if err != nil {
		return nil, fmt.Errorf("node %s: sealing key: %w", to, err)
	}
	return hpke.Seal(pub, hpke.HKDFSHA256(), hpke.AES256GCM(), wrapInfo(cluster, kind, epoch, to), secret)
}

// load reads what is wrapped to this node, of the epochs that are or were in
// force. Secrets once read are kept.
func (k *keyring) load(tx *replication.Tx) error {
	epochs, err := epochsIn(tx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, kind := range kinds {
		k.newest[kind] = max(k.newest[kind], epochs.of(kind))
	}
	for key, value := range tx.Scan(secretKeys, replication.PrefixEnd(secretKeys)) {
		kind, rest, ok := strings.Cut(string(key[len(secretKeys):]), "\x00")
		if !ok || len(rest) < 4 || peer.ID(rest[4:]) != k.id.id {
			continue
		}
		epoch := binary.BigEndian.Uint32([]byte(rest))
		if epoch > epochs.of(kind) {
			continue // being written in steps; perhaps never finished
		}
		id := secretID{kind, epoch}
		if k.secrets[id] == nil {
			var w wrappedRecord
			if err := replication.Unmarshal(value, &w); err != nil {
				return fmt.Errorf("wrapped %s key %d: %w", kind, epoch, err)
			}
			secret, err := hpke.Open(k.id.seal, hpke.HKDFSHA256(), hpke.AES256GCM(), wrapInfo(k.cluster, kind, epoch, k.id.id), w.Sealed)
			if err != nil {
				return fmt.Errorf("unwrap %s key %d: %w", kind, epoch, err)
			}
			k.secrets[id] = secret
		}
	}
	return nil
}

// wrapAll wraps every secret this node holds to another node. newest says of
// which epochs the newest are: the transaction that admits the other node
// checks that they are in force still.
func (k *keyring) wrapAll(to peer.ID, sealKey []byte, now time.Time) (out map[string]wrappedRecord, newest map[string]uint32, err error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	out = map[string]wrappedRecord{}
	for id, secret := range k.secrets {
		sealed, err := wrap(k.cluster, id.kind, id.epoch, to, sealKey, secret)
		if err != nil {
			return nil, nil, err
		}
		out[string(secretKey(id.kind, id.epoch, to))] = wrappedRecord{Sealed: sealed, Created: now}
	}
	return out, maps.Clone(k.newest), nil
}

func (k *keyring) secret(kind string, epoch uint32) ([]byte, uint32, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	if epoch == 0 {
		epoch = k.newest[kind]
	}
	s := k.secrets[secretID{kind, epoch}]
	if s == nil {
		return nil, 0, fmt.Errorf("%s key %d: %w", kind, epoch, errNoKey)
	}
	return s, epoch, nil
}

// orgKey returns the key that signs the member list.
func (k *keyring) orgKey() (ed25519.PrivateKey, error) {
	s, _, err := k.secret(kindOrg, 0)
	if err != nil {
		return nil, err
	}
	return ed25519.NewKeyFromSeed(s), nil
}

// signingKey returns the newest key that signs tokens, and its epoch.
func (k *keyring) signingKey() (ed25519.PrivateKey, uint32, error) {
	s, epoch, err := k.secret(kindSigning, 0)
	if err != nil {
		return nil, 0, err
	}
	return ed25519.NewKeyFromSeed(s), epoch, nil
}

// ScopeKey returns the secret under which an account's content is sealed (T2).
func (k *keyring) ScopeKey(account string) (store.ScopeKey, error) {
	s, epoch, err := k.secret(kindContent, 0)
	if err != nil {
		return store.ScopeKey{}, err
	}
	out := store.ScopeKey{Epoch: epoch, Scope: account}
	blake3.DeriveKey("valise 2026 content scope 1", s, out.Secret[:])
	return out, nil
}

// Wrap seals a root key for the ledger under the content key of the newest epoch.
func (k *keyring) Wrap(aad, plain []byte) (epoch uint32, sealed []byte, err error) {
	return k.sealUnder(kindContent, aad, plain)
}

// Unwrap opens what Wrap sealed.
func (k *keyring) Unwrap(epoch uint32, aad, sealed []byte) ([]byte, error) {
	return k.openUnder(kindContent, epoch, aad, sealed)
}

func (k *keyring) sealUnder(kind string, aad, plain []byte) (uint32, []byte, error) {
	s, epoch, err := k.secret(kind, 0)
	if err != nil {
		return 0, nil, err
	}
	nonce := make([]byte, 12, 12+len(plain)+16)
	rand.Read(nonce)
	return epoch, wrapAEAD(kind, s).Seal(nonce, nonce, plain, aad), nil
}

func (k *keyring) openUnder(kind string, epoch uint32, aad, sealed []byte) ([]byte, error) {
	s, _, err := k.secret(kind, max(epoch, 1))
	if err != nil {
		return nil, err
	}
	if len(sealed) < 12 {
		return nil, fmt.Errorf("sealed %s value: %d bytes", kind, len(sealed))
	}
	plain, err := wrapAEAD(kind, s).Open(nil, sealed[:12], sealed[12:], aad)
	if err != nil {
		return nil, fmt.Errorf("open sealed %s value: %w", kind, err)
	}
	return plain, nil
}

// wrapAEAD is AES-256-GCM with random nonces under a subkey that seals ledger values only.
func wrapAEAD(kind string, secret []byte) cipher.AEAD {
	var key [32]byte
	blake3.DeriveKey("valise 2026 ledger value of "+kind+" 1", secret, key[:])
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key length is right
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}
