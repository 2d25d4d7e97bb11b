package store

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"github.com/zeebo/blake3"
)

// purpose separates the sub-keys of a scope: no two kinds of bytes are ever sealed under one.
type purpose byte

const (
	forChunk   purpose = 'c' // content
	forTree    purpose = 't' // manifests below a root
	forRoot    purpose = 'r' // root manifests
	forCutting purpose = 'k' // the chunker's gear table
	forTag     purpose = 's' // the scope's tag in a manifest
)

// keyDomain starts every derivation, so that another use of the same secret cannot collide.
const keyDomain = "valise store 1"

// tagSize is how many bytes AES-256-GCM adds to what it seals.
const tagSize = 16

// LogValue keeps the secret out of logs.
func (k ScopeKey) LogValue() slog.Value {
	return slog.GroupValue(slog.Uint64("epoch", uint64(k.Epoch)), slog.String("scope", k.Scope), slog.String("secret", "redacted"))
}

// subkey derives the key of one purpose: BLAKE3 keyed with the secret over
// keyDomain, the purpose, the epoch (4 bytes) and the scope preceded by its length (8 bytes).
func (k *ScopeKey) subkey(p purpose) [32]byte {
	msg := append([]byte(keyDomain), byte(p))
	msg = binary.BigEndian.AppendUint32(msg, k.Epoch)
	msg = binary.BigEndian.AppendUint64(msg, uint64(len(k.Scope)))
	msg = append(msg, k.Scope...)
	return keyed(k.Secret, msg)
}

// contentKey derives the key that seals exactly these bytes with exactly this additional data:
// BLAKE3 keyed with the sub-key over both lengths (8 bytes each), the additional data, the bytes.
// Since it seals nothing else, the nonce may be zero (T2).
func contentKey(subkey [32]byte, aad, plain []byte) [32]byte {
	var lengths [16]byte
	binary.BigEndian.PutUint64(lengths[:8], uint64(len(aad)))
	binary.BigEndian.PutUint64(lengths[8:], uint64(len(plain)))
	return keyed(subkey, lengths[:], aad, plain)
}

func keyed(key [32]byte, parts ...[]byte) (sum [32]byte) {
	h, err := blake3.NewKeyed(key[:])
	if err != nil {
		panic(err) // only a key of another length is refused
	}
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(sum[:0])
	return sum
}

// zeroNonce is every block's nonce: each key seals one plaintext.
var zeroNonce [12]byte

func aead(key [32]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // only a key of another length is refused
	}
	g, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return g
}

// sealTo encrypts plain under key, appending ciphertext and tag to dst.
func sealTo(dst []byte, key [32]byte, plain, aad []byte) []byte {
	return aead(key).Seal(dst, zeroNonce[:], plain, aad)
}

// openTo decrypts what sealTo made, appending to dst; dst may be sealed[:0].
func openTo(dst []byte, key [32]byte, sealed, aad []byte) ([]byte, error) {
	return aead(key).Open(dst, zeroNonce[:], sealed, aad)
}

// digest is a block's SHA-256.
type digest [sha256.Size]byte

// nameOf returns the CID of a block with these bytes.
func nameOf(codec uint64, data []byte) cid.Cid {
	return cidOf(codec, sha256.Sum256(data))
}

func cidOf(codec uint64, d digest) cid.Cid {
	mh := make([]byte, 2, 2+sha256.Size)
	mh[0], mh[1] = multihash.SHA2_256, sha256.Size
	return cid.NewCidV1(codec, append(mh, d[:]...))
}

// digestOf returns the digest in a CID of the kind the store keeps.
func digestOf(c cid.Cid) (d digest, err error) {
	if !c.Defined() {
		return d, ErrUnsupported
	}
	p := c.Prefix()
	if p.Version != 1 || p.MhType != multihash.SHA2_256 || p.MhLength != sha256.Size || (p.Codec != cid.Raw && p.Codec != cid.DagCBOR) {
		return d, ErrUnsupported
	}
	hash := c.Hash()
	copy(d[:], hash[len(hash)-sha256.Size:])
	return d, nil
}
