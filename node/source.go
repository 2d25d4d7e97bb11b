package node

import (
	"context"
	"iter"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication/copies"
)

// source reads the blocks of one root, from this disk or from its holders.
type source struct {
	copies *copies.Copies
	root   cid.Cid
}

var _ store.Source = source{}

// Blocks implements store.Source.
func (s source) Blocks(ctx context.Context, want []cid.Cid) iter.Seq2[blocks.Block, error] {
	return s.copies.Blocks(ctx, s.root, want)
}
