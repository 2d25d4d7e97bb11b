package store

import (
	"context"
	"fmt"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
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
type Batch struct {
	store *Store
	kind  Kind
	needs map[*pack]int64 // each pack must be durable up to here
	turn  uint64          // so must the blocks touched up to this turn
	ended bool
}

// begun notes that a batch is open: nothing that was added since it began is collected before it ends.
func (s *Store) begun(b *Batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches[b] = s.epoch
}

// end ends the batch, which then protects nothing any more.
func (b *Batch) end() {
	s := b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.batches, b)
}

// NewBatch begins a batch of blocks of one kind. It must be ended with Commit or Abort.
func (s *Store) NewBatch(k Kind) *Batch {
	if k != Kept && k != Cached {
		panic(fmt.Sprintf("store: batch of kind %d", k))
	}
	b := &Batch{store: s, kind: k, needs: make(map[*pack]int64)}
	s.begun(b)
	return b
}

// Add writes the block, unless the store holds it already. It trusts that the block's CID is that
// of its bytes: what comes from a peer is verified by the caller. The block's bytes are not kept
// after Add returns. ErrNoSpace refuses a block for want of room (T8), and Add waits while much is
// unsynced; the batch stays usable after either.
func (b *Batch) Add(ctx context.Context, blk blocks.Block) error {
	c, data := blk.Cid(), blk.RawData()
	d, err := digestOf(c)
	if err != nil {
		return fmt.Errorf("add block %s: %w", c, err)
	}
	if len(data) > MaxBlock {
		return fmt.Errorf("add block %s: %w: %d bytes", c, ErrTooLarge, len(data))
	}
	if b.ended {
		return fmt.Errorf("add block %s: batch: %w", c, ErrClosed)
	}
	s := b.store
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	if err := b.add(ctx, blk, d); err != nil {
		return fmt.Errorf("add block %s: %w", c, err)
	}
	return nil
}

func (b *Batch) add(ctx context.Context, blk blocks.Block, d digest) error {
	s := b.store
	if hit, err := b.hit(d); hit || err != nil {
		return err
	}
	if err := s.throttle(ctx); err != nil {
		return err
	}
	s.appending[b.kind].Lock()
	defer s.appending[b.kind].Unlock()
	if hit, err := b.hit(d); hit || err != nil { // somebody wrote it while we waited
		return err
	}
	if err := s.room(len(blk.RawData()) + 64); err != nil {
		return err
	}
	p, end, err := s.appendBlock(b.kind, blk, d, nil)
	if err != nil {
		return err
	}
	b.needs[p] = max(b.needs[p], end)
	return nil
}

// Touch adds a block by its name alone: it is noted with the present epoch as if it had been added
// again, and the batch is durable only when it is; false if it is not here as this batch's kind. What a
// long upload added in earlier epochs is touched at its end, when it is known what the upload was.
func (b *Batch) Touch(c cid.Cid) (held bool, err error) {
	d, err := digestOf(c)
	if err != nil {
		return false, fmt.Errorf("touch block %s: %w", c, err)
	}
	if b.ended {
		return false, fmt.Errorf("touch block %s: batch: %w", c, ErrClosed)
	}
	if err := b.store.enter(); err != nil {
		return false, err
	}
	defer b.store.leave()
	if held, err = b.hit(d); err != nil {
		return false, fmt.Errorf("touch block %s: %w", c, err)
	}
	return held, nil
}

// hit tells whether the store holds the block already, and makes the batch wait for its pack where
// it is not durable yet. Finding and noting happen under the lock with which the collector condemns
// (T5): a block that was added in an earlier epoch is noted with the present one, which is what keeps
// it from being collected until whoever adds it has had the time to say so in the ledger. A cached
// block is a hit for a cached one only.
func (b *Batch) hit(d digest) (bool, error) {
	s := b.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if blk, ok := s.pending[b.kind][d]; ok {
		b.needs[blk.pack] = max(b.needs[blk.pack], blk.end)
		return true, nil
	}
	for _, k := range []Kind{Kept, b.kind} {
		p, ok, err := s.index.find(k, d)
		if err != nil {
			return false, err
		}
		if ok && p.flags&condemned == 0 && !(k == Kept && s.doomed[d]) {
			if b.kind == Kept && p.epoch < s.epoch {
				s.touched[d], b.turn = s.turn, s.turn
			}
			return true, nil
		}
		if b.kind == Kept {
			break
		}
	}
	return false, nil
}

// Commit returns nil once everything added, blocks the store already held included, is durable.
// After an error some of it may be; adding all of it again in a new batch is safe. ErrNoSpace means
// that the disk was found full while syncing.
func (b *Batch) Commit(ctx context.Context) error {
	if b.ended {
		return fmt.Errorf("commit batch: %w", ErrClosed)
	}
	s := b.store
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return b.commit(ctx)
}

// commit is Commit within an operation.
func (b *Batch) commit(ctx context.Context) error {
	s := b.store
	defer b.end()
	for {
		wait, err := s.settled(b.needs, b.turn)
		if err != nil {
			return fmt.Errorf("commit batch: %w", err)
		}
		if wait == nil {
			return nil
		}
		s.askRound()
		select {
		case <-wait:
		case <-ctx.Done():
			return fmt.Errorf("commit batch: %w", context.Cause(ctx))
		case <-s.index.dead:
			return fmt.Errorf("commit batch: %w", s.index.reason)
		}
	}
}

// settled removes from needs what is durable. While something is left, or a turn is, it returns a
// channel that is closed after the next round.
func (s *Store) settled(needs map[*pack]int64, turn uint64) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, end := range needs {
		if p.durable >= end {
			delete(needs, p)
		} else if p.err != nil {
			return nil, p.err
		}
	}
	if s.turned < turn && s.turnErr != nil {
		return nil, s.turnErr
	}
	if len(needs) == 0 && s.turned >= turn {
		return nil, nil
	}
	return s.rounded, nil
}

// Abort ends the batch without waiting for anything. What was written stays as garbage for the
// collector. After Commit it does nothing.
func (b *Batch) Abort() {
	if !b.ended {
		b.end()
	}
}
