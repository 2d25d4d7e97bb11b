package copies

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/replication"
)

// A leaving ends the seats of nodes that are Leaving once nothing depends on them. It is the leader's.
type leaving struct {
	c     *Copies
	waits map[int]cid.Cid // by row: a root that was not everywhere yet; looked at first
}

func newLeaving(c *Copies) *leaving { return &leaving{c: c, waits: make(map[int]cid.Cid)} }

// end takes Leaving seats away from the rows in which every wanted seat is Held and every root is with
// all of them. A row that changed since table was read is left alone. Epochs stay: nobody's seat that is
// wanted changes.
//
// What was recorded after the table was read does not depend on such a seat (Record notes its copy as
// extra), and what is held where it is wanted stays held there (Release).
func (l *leaving) end(ctx context.Context, table *Table) error {
	for g := range tableKeys {
		done, err := l.ready(ctx, table, g)
		if err != nil {
			return fmt.Errorf("end seats of group %d: %w", g, err)
		}
		if len(done) == 0 {
			continue
		}
		err = l.c.led.Update(ctx, func(tx ledgerTx) error {
			now, err := l.c.tables.read(tx, g)
			if err != nil || now == nil || now.epoch != table.Epochs[g] {
				return err
			}
			next := *now
			for _, r := range done {
				if row := &next.rows[r%rowsPerKey]; slices.Equal(*row, table.Rows[r]) {
					*row = slices.DeleteFunc(slices.Clone(*row), func(s Seat) bool { return !s.wanted() })
				}
			}
			tx.Put(tableKey(g), next.encode())
			return nil
		})
		if err != nil {
			return fmt.Errorf("end seats of group %d: %w", g, err)
		}
	}
	return nil
}

// ready lists the rows of a group whose Leaving seats can go.
func (l *leaving) ready(ctx context.Context, table *Table, g int) (done []int, err error) {
	stores := l.c.stores()
	lacks := make(map[peer.ID]bool) // nodes that have something to fetch
	for r := g * rowsPerKey; r < (g+1)*rowsPerKey && ctx.Err() == nil; r++ {
		row := table.Rows[r]
		if !slices.ContainsFunc(row, func(s Seat) bool { return s.State == Leaving }) {
			delete(l.waits, r)
			continue
		}
		settled := true
		for _, s := range row {
			settled = settled && s.State != Incoming && (s.State == Leaving || stores[s.Node] == s.Store)
		}
		if !settled {
			continue
		}
		whole, err := l.whole(ctx, r, row, stores, lacks)
		if err != nil {
			return nil, err
		}
		if whole {
			delete(l.waits, r)
			done = append(done, r)
		}
	}
	return done, context.Cause(ctx)
}

// whole says whether every root of row r is with every node that should have it. Where none of these
// lacks anything at all, no root has to be looked at.
func (l *leaving) whole(ctx context.Context, r int, row []Seat, stores map[peer.ID][16]byte, lacks map[peer.ID]bool) (bool, error) {
	prefix := partitionKeys(uint16(r))
	for from := prefix; from != nil; {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		missing := cid.Undef
		err := l.c.led.View(func(tx scanner) (err error) {
			if len(from) == len(prefix) && !anyLacks(tx, row, lacks) {
				from = nil
				return nil
			}
			if root, ok := l.waits[r]; ok && len(from) == len(prefix) {
				if missing, err = firstMissing(tx, []cid.Cid{root}, row, stores); err != nil || missing.Defined() {
					return err
				}
			}
			var roots []cid.Cid
			roots, from = page(tx.Scan(from, replication.PrefixEnd(prefix)), len(prefix))
			missing, err = firstMissing(tx, roots, row, stores)
			return err
		})
		if err != nil {
			return false, err
		}
		if missing.Defined() {
			l.waits[r] = missing
			return false, nil
		}
	}
	return true, nil
}

// anyLacks says whether one of the row's wanted nodes has anything to fetch.
func anyLacks(tx scanner, row []Seat, lacks map[peer.ID]bool) bool {
	for _, s := range row {
		if !s.wanted() {
			continue
		}
		if _, known := lacks[s.Node]; !known {
			lacks[s.Node] = false
			keys := missingKeys(s.Node)
			for range tx.Scan(keys, replication.PrefixEnd(keys)) {
				lacks[s.Node] = true
				break
			}
		}
		if lacks[s.Node] {
			return true
		}
	}
	return false
}

// firstMissing is the first root that is not everywhere, cid.Undef if there is none.
func firstMissing(tx Reader, roots []cid.Cid, row []Seat, stores map[peer.ID][16]byte) (cid.Cid, error) {
	for _, root := range roots {
		if ok, err := everywhere(tx, root, row, stores); err != nil || !ok {
			return root, err
		}
	}
	return cid.Undef, nil
}

// everywhere says whether all wanted seats of a row hold root. One that is not recorded any more is
// nobody's concern.
func everywhere(tx Reader, root cid.Cid, row []Seat, stores map[peer.ID][16]byte) (bool, error) {
	if _, ok := tx.Get(rootKey(root)); !ok {
		return true, nil
	}
	rec, err := getRecord(tx, root)
	if err != nil {
		return false, err
	}
	have := holders(rec, row, stores)
	for _, seat := range row {
		if seat.wanted() && !slices.Contains(have, seat.Node) {
			return false, nil
		}
	}
	return true, nil
}

// Drained says how many roots still count on a node: in rows where it is Held or Leaving and has them,
// or as extra copies. Once it is 0 for a node whose weight is negative, the node may be removed. tx
// belongs to a View: it may read much.
func (c *Copies) Drained(tx scanner, id peer.ID) (left int, err error) {
	table, err := c.tables.table(tx)
	if err != nil {
		return 0, fmt.Errorf("what counts on %s: %w", id, err)
	}
	seated := make(map[uint16]bool)
	for r, row := range table.Rows {
		if seat, ok := seatOf(row, id); ok && seat.State != Incoming {
			seated[uint16(r)] = true
		}
	}
	for _, r := range slices.Sorted(maps.Keys(seated)) {
		prefix := partitionKeys(r)
		n, err := countRoots(tx, prefix, func(rec *rootRecord) bool { return !rec.misses(id) })
		if err != nil {
			return 0, fmt.Errorf("what counts on %s: %w", id, err)
		}
		left += n
	}
	n, err := countRoots(tx, extraKeys(id), func(rec *rootRecord) bool {
		return !seated[rec.Partition] || rec.misses(id)
	})
	if err != nil {
		return 0, fmt.Errorf("what counts on %s: %w", id, err)
	}
	return left + n, nil
}

// countRoots counts the roots listed under prefix whose records count.
func countRoots(tx scanner, prefix []byte, counts func(*rootRecord) bool) (n int, err error) {
	for from := prefix; from != nil; {
		var roots []cid.Cid
		roots, from = page(tx.Scan(from, replication.PrefixEnd(prefix)), len(prefix))
		for _, root := range roots {
			rec, err := getRecord(tx, root)
			if err != nil {
				return 0, err
			}
			if counts(rec) {
				n++
			}
		}
	}
	return n, nil
}
