package store

import (
	"context"
	"errors"
	"io"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A ScopeKey is the secret from which the keys of one scope's content are derived. Equal content
// sealed under an equal ScopeKey gives equal blocks.
type ScopeKey struct {
	Epoch  uint32   // which generation of the secret this is
	Scope  string   // within what content is stored once: an account's id, or the organisation's
	Secret [32]byte // never leaves the node
}

// Sealed is what Seal made of a stream.
type Sealed struct {
	Root   cid.Cid  // the manifest, a DAG-CBOR block
	Key    [32]byte // opens the manifest, and through it the file
	Size   int64    // bytes of content
	Chunks int      // blocks besides the manifest, repeated ones counted each time
}

// Seal reads r to its end, cuts it into chunks, encrypts them and hands each block to emit, the
// manifest last. emit is called from one goroutine, in order, and may keep the blocks. Seal uses at
// most about 24 MiB, and returns only when all it started has ended: a Read that blocks is waited
// for, even after ctx is done.
func Seal(ctx context.Context, r io.Reader, k ScopeKey, emit func(context.Context, blocks.Block) error) (Sealed, error) {
	return Sealed{}, errors.ErrUnsupported
}
