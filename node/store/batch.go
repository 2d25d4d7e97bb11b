package store

import (
	"context"
	"errors"

	blocks "github.com/ipfs/go-block-format"
)

// A Kind says why a store holds a block.
type Kind uint8

const (
	// Kept blocks are copies this node answers for.
	Kept Kind = 1
	// Cached blocks were only read through this node: they may go at any time, are never counted as
	// copies (Has) and never spare a kept block's writing.
	Cached Kind = 2
)

// A Batch adds blocks and makes them durable together. Its methods must not be called concurrently;
// different batches may be used at the same time and share their disk syncs.
type Batch struct{}

// NewBatch begins a batch of blocks of one kind. It must be ended with Commit or Abort.
func (s *Store) NewBatch(k Kind) *Batch { return &Batch{} }

// Add writes the block, unless the store holds it already. It trusts that the block's CID is that
// of its bytes: what comes from a peer is verified by the caller. The block's bytes are not kept
// after Add returns. ErrNoSpace refuses a block for want of room (T8); the batch stays usable.
func (b *Batch) Add(ctx context.Context, blk blocks.Block) error { return errors.ErrUnsupported }

// Commit returns nil once everything added, blocks the store already held included, is durable.
// After an error some of it may be; adding all of it again in a new batch is safe.
func (b *Batch) Commit(ctx context.Context) error { return errors.ErrUnsupported }

// Abort ends the batch without waiting for anything. What was written stays as garbage for the
// collector. After Commit it does nothing.
func (b *Batch) Abort() {}
