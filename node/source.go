package node

import (
	"context"
	"fmt"
	"iter"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication/copies"
)

// source reads the blocks of one root: from this disk as long as it has them,
// where the reader's decryption is the check, else from the copies, verified.
type source struct {
	store  *store.Store
	copies *copies.Copies
	root   cid.Cid
}

var (
	_ store.Source    = source{}
	_ store.Refetcher = source{}
)

// Blocks implements store.Source.
func (s source) Blocks(ctx context.Context, want []cid.Cid) iter.Seq2[blocks.Block, error] {
	return func(yield func(blocks.Block, error) bool) {
		for b, err := range s.store.Blocks(ctx, want) {
			if err != nil {
				break // not here, or not readable here: the copies go on from this block
			}
			if !yield(b, nil) {
				return
			}
			want = want[1:]
		}
		if len(want) == 0 {
			return
		}
		for b, err := range s.copies.Blocks(ctx, s.root, want) {
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// Refetch implements store.Refetcher: a block that did not decrypt comes from another node.
func (s source) Refetch(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	for b, err := range s.copies.Blocks(ctx, s.root, []cid.Cid{c}) {
		return b, err
	}
	return nil, fmt.Errorf("block %s: %w", c, copies.ErrNotFound)
}
