package copies

import (
	"context"
	"fmt"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/replication"
)

// tidyKeys is how many keys one Update deletes (L1, L8).
const tidyKeys = 500

// tidy deletes what is listed to be fetched by nodes that have no seat at all: they were removed, or
// their rows were given to others while they were away. A node that gets a seat again fetches the row
// whole, listed or not. It does a part at a time; the leader calls it again and again.
func (c *Copies) tidy(ctx context.Context, table *Table) error {
	seated := make(map[peer.ID]bool)
	for _, row := range table.Rows {
		for _, seat := range row {
			seated[seat.Node] = true
		}
	}
	var stray []peer.ID
	err := c.led.View(func(tx scanner) error {
		for from := []byte(missingPrefix); from != nil; {
			id, ok := firstListed(tx, from)
			if !ok {
				return nil
			}
			if !seated[id] {
				stray = append(stray, id)
			}
			from = replication.PrefixEnd(missingKeys(id))
		}
		return nil
	})
	for _, id := range stray {
		if err == nil {
			err = c.unlist(ctx, id)
		}
	}
	if err != nil {
		return fmt.Errorf("tidy lists of nodes without seats: %w", err)
	}
	return nil
}

// firstListed is the first node from a key on that has something listed.
func firstListed(tx scanner, from []byte) (peer.ID, bool) {
	for key := range tx.Scan(from, replication.PrefixEnd([]byte(missingPrefix))) {
		d := decoder{rest: key[len(missingPrefix):]}
		n := d.bytes(1)
		if d.bad {
			continue
		}
		if id := peer.ID(d.bytes(int(n[0]))); !d.bad {
			return id, true
		}
	}
	return "", false
}

// unlist deletes some of a node's list, unless the table that the transaction sees has a seat for it.
func (c *Copies) unlist(ctx context.Context, id peer.ID) error {
	return c.led.Update(ctx, func(tx ledgerTx) error {
		for g := range tableKeys {
			group, err := c.tables.read(tx, g)
			if err != nil {
				return err
			}
			if group != nil && slices.ContainsFunc(group.rows[:], func(row []Seat) bool { _, ok := seatOf(row, id); return ok }) {
				return nil
			}
		}
		var keys [][]byte
		for key := range tx.Scan(missingKeys(id), replication.PrefixEnd(missingKeys(id))) {
			if keys = append(keys, key); len(keys) == tidyKeys {
				break
			}
		}
		for _, key := range keys {
			tx.Delete(key)
		}
		return nil
	})
}
