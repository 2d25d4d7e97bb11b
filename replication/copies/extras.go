package copies

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
)

// yieldExtras gives up, now and then, the extra copies of this node that nothing depends on any more (P3).
func (c *Copies) yieldExtras(ctx context.Context) {
	k := newKeeper(c)
	tick := time.NewTicker(c.cfg.timing.extras)
	defer tick.Stop()
	for {
		err := k.each(ctx, extraKeys(c.cfg.Self), func(root cid.Cid) error { return c.yield(ctx, root) })
		if err != nil && ctx.Err() == nil {
			c.log.DebugContext(ctx, "not all extra copies could be looked over", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// What is to become of an extra copy.
type fate int

const (
	keep    fate = iota
	unmark       // it is none, or a seat has it, too
	release      // all seats have it
)

// yield gives up one extra copy if it can go.
func (c *Copies) yield(ctx context.Context, root cid.Cid) error {
	var what fate
	err := c.led.View(func(tx scanner) (err error) {
		what, err = c.fate(tx, root)
		return err
	})
	switch {
	case err != nil || what == keep:
		return err
	case what == release:
		err := c.Release(ctx, root)
		if errors.Is(err, ErrWanted) { // since it was looked at
			return nil
		}
		if err == nil {
			c.log.InfoContext(ctx, "gave up an extra copy", "root", root)
		}
		return err
	}
	return c.led.Update(ctx, func(tx ledgerTx) error {
		what, err := c.fate(tx, root)
		if err != nil || what != unmark {
			return err
		}
		tx.Delete(extraKey(c.cfg.Self, root))
		rec, err := getRecord(tx, root)
		if errors.Is(err, ErrNotRecorded) {
			return nil
		}
		if err != nil {
			return err
		}
		rec.dropExtra(c.cfg.Self)
		return putRecord(tx, root, rec)
	})
}

func (c *Copies) fate(tx Reader, root cid.Cid) (fate, error) {
	rec, err := getRecord(tx, root)
	if errors.Is(err, ErrNotRecorded) {
		return unmark, nil
	}
	if err != nil {
		return keep, err
	}
	row, _, err := c.tables.row(tx, rec.Partition)
	if err != nil {
		return keep, err
	}
	self := Copy{c.cfg.Self, c.cfg.Disk.ID()}
	if !slices.Contains(rec.extra(), self) {
		return unmark, nil // of a store that is gone
	}
	seat, seated := seatOf(row, self.Node)
	switch {
	case seated && seat.State == Held && seat.Copy == self && !rec.misses(self.Node):
		return unmark, nil
	case seated: // Incoming or Leaving: it is the extra copy that counts
		return keep, nil
	}
	have := holders(rec, row, c.stores())
	for _, seat := range row {
		if seat.wanted() && (!slices.Contains(have, seat.Node) || c.isAway(seat.Node)) {
			return keep, nil
		}
	}
	return release, nil
}

// tendExtras heals first what has a copy on a node that is to give it up, or that is away.
func (k *keeper) tendExtras(ctx context.Context) error {
	var errs []error
	for _, n := range k.c.cfg.Nodes() {
		if n.ID == k.c.cfg.Self || n.Weight >= 0 && !k.c.isAway(n.ID) {
			continue
		}
		errs = append(errs, k.each(ctx, extraKeys(n.ID), func(root cid.Cid) error {
			listed := false
			err := k.c.led.View(func(tx scanner) error {
				_, listed = tx.Get(missingKey(k.c.cfg.Self, root))
				return nil
			})
			if err != nil || !listed {
				return err
			}
			return k.tend(ctx, root, false)
		}))
	}
	return errors.Join(errs...)
}
