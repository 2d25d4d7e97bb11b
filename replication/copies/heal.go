package copies

import (
	"context"
	"errors"
	"fmt"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Heal makes one block durable here again: a scrub found a flipped bit, and the store was told that the
// block is damaged. It asks the members one after the other, the nearest first, for what has that digest,
// whatever root it is under. ErrNotFound if nobody gives it; trying again is safe.
func (c *Copies) Heal(ctx context.Context, id cid.Cid) error {
	b, err := c.sound(ctx, id)
	if err != nil {
		return fmt.Errorf("heal block %s: %w", id, err)
	}
	batch := c.cfg.NewBatch(false)
	defer batch.Abort()
	if err := batch.Add(ctx, b); err != nil {
		return fmt.Errorf("heal block %s: %w", id, err)
	}
	if err := batch.Commit(ctx); err != nil {
		return fmt.Errorf("heal block %s: %w", id, err)
	}
	c.log.InfoContext(ctx, "healed a block", "cid", id)
	return nil
}

// sound gets a block from this node's cache or any member.
func (c *Copies) sound(ctx context.Context, id cid.Cid) (blocks.Block, error) {
	if !knownCID(id) {
		return nil, fmt.Errorf("not a CID of blocks here: %w", errHash)
	}
	if b, err := c.cfg.Disk.Block(ctx, id); err == nil {
		if b, err = verify(id, b.RawData()); err == nil {
			return b, nil
		}
	}
	var from []peer.ID
	for _, n := range c.cfg.Nodes() {
		if n.ID != c.cfg.Self {
			from = append(from, n.ID)
		}
	}
	c.ranks.nearest(from, c.sites(), c.cfg.Self)
	var errs []error
	for _, peer := range from {
		var got blocks.Block
		_, err := c.fetchFrom(ctx, peer, []cid.Cid{id}, forKeeper, func(b blocks.Block) { got = b })
		if got != nil {
			return got, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		errs = append(errs, fmt.Errorf("%s: %w", peer, err))
	}
	return nil, fmt.Errorf("%w (%v)", ErrNotFound, errors.Join(errs...))
}
