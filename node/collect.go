package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/authz"
	"github.com/valise-mail/valise/node/drive"
	"github.com/valise-mail/valise/node/store"
	"github.com/valise-mail/valise/replication"
	"github.com/valise-mail/valise/replication/copies"
)

// A cleaner frees what nothing refers to any more, on this node's disk (T6). It is owned by its loop,
// but for what status reads.
type cleaner struct {
	n    *Node
	poke chan struct{} // a deletion is waiting

	// seen has, for each deleted file whose bytes may still be here, this node's epoch of collection when
	// it was first seen. After a restart that begins anew, which only takes longer.
	seen map[authz.FileID]uint32

	mu   sync.Mutex // guards the field below
	last Cleaning
}

// A Cleaning is what the last collection did.
type Cleaning struct {
	At    time.Time // zero before the first
	Epoch uint32
	store.Collected
}

func newCleaner(n *Node) *cleaner {
	return &cleaner{n: n, poke: make(chan struct{}, 1), seen: make(map[authz.FileID]uint32)}
}

// run collects now and then, and soon where a deletion waits.
func (c *cleaner) run(ctx context.Context) error {
	for {
		wait := time.Duration(c.n.cfg.Store.CollectEvery)
		if len(c.seen) > 0 {
			wait = min(wait, c.n.cfg.collectSoon())
		}
		select {
		case <-time.After(wait):
		case <-c.poke:
			if !sleep(ctx, c.n.cfg.collectSoon()) { // with what else is deleted now
				return nil
			}
		case <-ctx.Done():
			return nil
		}
		if err := c.finishBurials(ctx); err != nil && ctx.Err() == nil {
			c.n.log.WarnContext(ctx, "deletions are not finished yet; trying again", "err", err)
		}
		if err := c.clean(ctx); err != nil && ctx.Err() == nil {
			c.n.log.WarnContext(ctx, "garbage is not collected; trying again later", "err", err)
		}
	}
}

// collectSoon is the pause between collections while a deletion waits. An upload that is durable has
// twice that to be recorded, or it is refused.
func (c *Config) collectSoon() time.Duration {
	if c.Seams.Fast {
		return time.Second
	}
	return 2 * time.Minute
}

// followBurials wakes the cleaner when a file was deleted, at whichever node, or while this one was away.
func (c *cleaner) followBurials(ctx context.Context) error {
	synced := false
	for change, err := range c.n.ledger.Watch(ctx, drive.BurialPrefix()) {
		if err != nil {
			return watchEnded(ctx, err)
		}
		switch change.Kind {
		case replication.Reset:
			synced = false
			continue
		case replication.Synced:
			synced = true
		}
		if !synced {
			continue // what is there already: one look at the end of it
		}
		if open, err := c.n.unproven(ctx); err != nil || len(open) > 0 {
			c.wake()
		}
	}
	return nil
}

// wake has the cleaner look soon.
func (c *cleaner) wake() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// clean is one collection. Its order is the argument: the epoch begins in the store and in the ledger
// before anything is looked at, so that whatever is recorded later than the look counts on no block that
// goes. A node that is cut off begins no epoch, and frees nothing.
func (c *cleaner) clean(ctx context.Context) error {
	n := c.n
	epoch, err := n.copies.BeginEpoch(ctx, n.store)
	if err != nil {
		return err
	}
	buried, err := n.unproven(ctx)
	if err != nil {
		return err
	}
	for _, b := range buried {
		if _, ok := c.seen[b.File]; !ok {
			c.seen[b.File] = epoch
		}
	}
	if len(buried) == 0 {
		clear(c.seen)
	}
	done, err := n.store.Collect(ctx, store.Collection{Before: max(epoch, 1) - 1, Live: n.live, Erase: len(buried) > 0})
	if err != nil {
		return err
	}
	keep := int64(n.cfg.Store.CacheSize)
	if len(buried) > 0 {
		keep = 0 // nobody knows whose the cached blocks are
	}
	if _, err := n.store.EvictCache(ctx, keep); err != nil {
		return err
	}
	for _, b := range buried {
		if first := c.seen[b.File]; first < done.Before {
			if err := n.recordDropped(ctx, b.File, epoch); err != nil {
				return err
			}
			delete(c.seen, b.File)
		}
	}
	if done.Condemned > 0 || done.Packs > 0 {
		n.log.InfoContext(ctx, "collected garbage", "epoch", epoch, "blocks", done.Condemned, "bytes", done.Bytes, "packs", done.Packs, "freed", done.Freed)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = Cleaning{At: n.cfg.now(), Epoch: epoch, Collected: done}
	return nil
}

func (c *cleaner) lastCleaning() Cleaning {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// live names every block under the roots that this node must not lose.
func (n *Node) live(ctx context.Context, keep func(cid.Cid)) error {
	return n.copies.Live(ctx, func(root cid.Cid) error { return n.liveUnder(ctx, root, keep) })
}

// liveUnder walks one root. Where a manifest is not here, this node either has not fetched it yet, and
// then what lies below may go, or has lost it: then it is fetched again, and if it cannot be had nothing
// is freed, since nobody can tell what belongs to it.
func (n *Node) liveUnder(ctx context.Context, c cid.Cid, keep func(cid.Cid)) error {
	keep(c)
	if c.Type() == cid.Raw {
		return nil
	}
	blk, err := n.store.Block(ctx, c)
	if err != nil {
		counts, holdsErr := n.mustHold(c)
		if holdsErr != nil || !counts {
			return holdsErr
		}
		if err := n.heal(ctx, c); err != nil {
			return fmt.Errorf("manifest %s is lost here and cannot be had elsewhere: %w", c, err)
		}
		if blk, err = n.store.Block(ctx, c); err != nil {
			return err
		}
	}
	links, err := store.Links(blk)
	if err != nil {
		return fmt.Errorf("manifest %s: %w", c, err)
	}
	for _, link := range links {
		if err := n.liveUnder(ctx, link, keep); err != nil {
			return err
		}
	}
	return nil
}

// mustHold says whether the cluster counts on this node for a root, or might: a block that is no root is
// some root's leaf.
func (n *Node) mustHold(root cid.Cid) (yes bool, err error) {
	err = n.ledger.View(func(tx *replication.Tx) error {
		holders, err := n.copies.Holders(tx, root)
		if errors.Is(err, copies.ErrNotRecorded) {
			yes = true
			return nil
		}
		for _, id := range holders {
			yes = yes || id == n.id.id
		}
		return err
	})
	return yes, err
}

// heal writes a block anew that is damaged or lost here.
func (n *Node) heal(ctx context.Context, c cid.Cid) error {
	if err := n.store.Damaged(ctx, c); err != nil {
		return err
	}
	return n.copies.Heal(ctx, c)
}

// scrub reads all kept blocks again and again, slowly, and mends what is damaged (T7).
func (n *Node) scrub(ctx context.Context) error {
	every := time.Duration(n.cfg.Store.ScrubEvery)
	for every > 0 && sleep(ctx, every) {
		err := n.store.Scrub(ctx, int64(n.cfg.Store.ScrubRate), func(ctx context.Context, c cid.Cid) error {
			if err := n.heal(ctx, c); err != nil {
				if ctx.Err() != nil {
					return err
				}
				n.log.ErrorContext(ctx, "a damaged block cannot be mended: no other node gave it", "cid", c, "err", err,
					"hint", `"valise status" shows which nodes are away; the block is tried again at the next scrub and when somebody reads the file`)
				return nil
			}
			n.log.WarnContext(ctx, "a damaged block was mended from another node", "cid", c)
			return nil
		})
		if err != nil && ctx.Err() == nil {
			n.log.WarnContext(ctx, "scrub ended early; it goes on where it was", "err", err)
		}
	}
	return nil
}

// unproven lists the deleted files for which this node, with the store it has, has not yet said that
// their bytes are gone.
func (n *Node) unproven(context.Context) (open []drive.Burial, err error) {
	err = n.ledger.View(func(tx *replication.Tx) error {
		open = nil
		for b, err := range drive.Burials(tx) {
			if err != nil {
				return err
			}
			var d droppedRecord
			ok, err := get(tx, droppedKey(b.File, n.id.id), &d)
			if err != nil {
				return err
			}
			if b.Done && !(ok && d.here(n.store.ID())) {
				open = append(open, b)
			}
		}
		return nil
	})
	return open, err
}

// recordDropped says in the ledger that none of a deleted file's blocks is on this node's disk.
func (n *Node) recordDropped(ctx context.Context, file authz.FileID, epoch uint32) error {
	id := n.store.ID()
	d := droppedRecord{At: n.cfg.now(), Store: id[:], Epoch: epoch}
	err := n.ledger.Update(ctx, func(tx *replication.Tx) error {
		if _, err := drive.LoadBurial(tx, file); err != nil {
			return err
		}
		put(tx, droppedKey(file, n.id.id), d)
		return nil
	})
	if errors.Is(err, drive.ErrNoFile) {
		return nil
	}
	return err
}

// droppedRecord is a node's word that a deleted file's blocks are gone from its disk.
type droppedRecord struct {
	At    time.Time `cbor:"1,keyasint"`
	Store []byte    `cbor:"2,keyasint"`
	Epoch uint32    `cbor:"3,keyasint"`
	replication.Unknown
}

// here says whether the word was about this very store.
func (d droppedRecord) here(id [16]byte) bool { return string(d.Store) == string(id[:]) }

func droppedKey(file authz.FileID, id peer.ID) []byte {
	k := append([]byte("nd"), file...)
	return append(append(k, 0), id...)
}
