package backup

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/zeebo/blake3"
)

// The ledger of a state is sealed: it has the names of files and the addresses of people. It is a stream
// of entries (length · key · length · value) cut into pieces; each piece is AES-256-GCM with a nonce that
// counts and says whether it is the last, under a key of this one state:
//
//	BLAKE3 derive_key("valise 2026 backup ledger 1", content key ‖ salt ‖ SHA-256(header))
const (
	pieceSize = 64 << 10
	saltSize  = 32
)

func ledgerAEAD(secret, salt, header []byte) cipher.AEAD {
	sum := sha256.Sum256(header)
	material := append(append(append([]byte{}, secret...), salt...), sum[:]...)
	var key [32]byte
	blake3.DeriveKey("valise 2026 backup ledger 1", material, key[:])
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

func pieceNonce(n uint64, last bool) []byte {
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint64(nonce[3:], n)
	if last {
		nonce[11] = 1
	}
	return nonce
}

// A sealer turns entries into sealed pieces.
type sealer struct {
	aead cipher.AEAD
	n    uint64
	buf  []byte
	emit func(piece []byte) error
}

func (s *sealer) entry(key, value []byte) error {
	s.buf = binary.AppendUvarint(s.buf, uint64(len(key)))
	s.buf = append(s.buf, key...)
	s.buf = binary.AppendUvarint(s.buf, uint64(len(value)))
	s.buf = append(s.buf, value...)
	for len(s.buf) > pieceSize {
		if err := s.piece(pieceSize, false); err != nil {
			return err
		}
	}
	return nil
}

func (s *sealer) piece(n int, last bool) error {
	sealed := s.aead.Seal(nil, pieceNonce(s.n, last), s.buf[:n], nil)
	s.n++
	s.buf = append(s.buf[:0], s.buf[n:]...)
	return s.emit(sealed)
}

func (s *sealer) end() error { return s.piece(len(s.buf), true) }

// An opener turns sealed pieces back into entries.
type opener struct {
	aead cipher.AEAD
	n    uint64
	buf  []byte
	each func(key, value []byte) error
}

func (o *opener) piece(sealed []byte, last bool) error {
	plain, err := o.aead.Open(nil, pieceNonce(o.n, last), sealed, nil)
	if err != nil {
		return fmt.Errorf("piece %d of the ledger: %w", o.n, ErrKeys)
	}
	o.n++
	o.buf = append(o.buf, plain...)
	for {
		key, rest, ok := cutBytes(o.buf)
		value, rest, ok2 := cutBytes(rest)
		if !ok || !ok2 {
			break
		}
		if err := o.each(key, value); err != nil {
			return err
		}
		o.buf = rest
	}
	if last && len(o.buf) > 0 {
		return fmt.Errorf("the ledger ends within an entry: %w", ErrDamaged)
	}
	return nil
}

// cutBytes cuts a length and that many bytes off; false where they are not all there.
func cutBytes(data []byte) (head, rest []byte, ok bool) {
	n, m := binary.Uvarint(data)
	if m <= 0 || n > uint64(len(data)-m) {
		return nil, nil, false
	}
	return data[m : m+int(n)], data[m+int(n):], true
}
