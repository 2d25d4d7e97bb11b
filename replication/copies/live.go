package copies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/replication"
)

// livePage is how many records one View of Live reads.
const livePage = 1024

// Live calls fn for every recorded root whose blocks this node must not lose (T6): it has a seat in the
// root's row, in any state and whether it has the blocks or not, or its present store is listed as
// extra. It is for a collection in an epoch that BeginEpoch has begun. The ledger is read in pages:
// what is recorded or comes to be wanted meanwhile is noted with an epoch that the collection spares.
// A record that cannot be read is an error, and so is fn's: then nothing may be freed.
func (c *Copies) Live(ctx context.Context, fn func(root cid.Cid) error) error {
	prefix := []byte(rootPrefix)
	for from := prefix; from != nil; {
		if err := context.Cause(ctx); err != nil {
			return fmt.Errorf("find what is live: %w", err)
		}
		var roots []cid.Cid
		err := c.led.View(func(tx scanner) (err error) {
			roots, from, err = c.livePage(tx, from)
			return err
		})
		for _, root := range roots {
			if err == nil {
				err = fn(root)
			}
		}
		if err != nil {
			return fmt.Errorf("find what is live: %w", err)
		}
	}
	return nil
}

// livePage reads a page of records and returns the roots that are live here, and where the next page begins.
func (c *Copies) livePage(tx scanner, from []byte) (roots []cid.Cid, next []byte, err error) {
	n := 0
	for key, value := range tx.Scan(from, replication.PrefixEnd([]byte(rootPrefix))) {
		if n++; n > livePage {
			return roots, bytes.Clone(key), nil
		}
		root, err := cid.Cast(bytes.Clone(key[len(rootPrefix):]))
		if err != nil {
			return nil, nil, fmt.Errorf("record %x: %w", key, err)
		}
		rec, err := decodeRecord(root, value)
		if err != nil {
			return nil, nil, err
		}
		row, _, err := c.tables.row(tx, rec.Partition)
		if err != nil {
			return nil, nil, err
		}
		if _, seated := seatOf(row, c.cfg.Self); seated || slices.Contains(rec.extra(), Copy{c.cfg.Self, c.cfg.Disk.ID()}) {
			roots = append(roots, root)
		}
	}
	return roots, nil, nil
}

// Forget deletes a root's record and all that names it, inside the transaction that removes the last
// reference to the root. Its blocks are garbage from the commit on. A root that is not recorded is none
// the less forgotten.
func (c *Copies) Forget(tx ReadWriter, root cid.Cid) error { return Forget(tx, root) }

// Forget is what Copies.Forget does, for a ledger whose node does not run.
func Forget(tx ReadWriter, root cid.Cid) error {
	rec, err := getRecord(tx, root)
	if errors.Is(err, ErrNotRecorded) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("forget copies: %w", err)
	}
	for _, id := range rec.missing() {
		tx.Delete(missingKey(id, root))
	}
	for _, copy := range rec.extra() {
		tx.Delete(extraKey(copy.Node, root))
	}
	tx.Delete(partitionKey(rec.Partition, root))
	tx.Delete(rootKey(root))
	return nil
}
