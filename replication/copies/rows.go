package copies

import (
	"context"
	"errors"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// fillRows fetches whole the rows in which this node is Incoming, and becomes Held there.
//
// A root recorded after the node came into the row names the node, as missing or extra. So all the
// roots that do not are those recorded before, and the list that is read after the table has them
// all. If the leader changes the row meanwhile, its epoch tells, and the row is done again.
func (k *keeper) fillRows(ctx context.Context) error {
	table, err := k.c.readTable()
	if err != nil {
		return err
	}
	var errs []error
	for g := range tableKeys {
		var done []int
		for r := g * rowsPerKey; r < (g+1)*rowsPerKey && ctx.Err() == nil; r++ {
			if !k.incoming(table.Rows[r]) {
				continue
			}
			err := k.each(ctx, partitionKeys(uint16(r)), func(root cid.Cid) error { return k.tend(ctx, root, true) })
			if err != nil {
				errs = append(errs, err)
				continue
			}
			done = append(done, r)
		}
		if len(done) > 0 {
			errs = append(errs, k.settle(ctx, g, table.Epochs[g], done))
		}
	}
	return errors.Join(errs...)
}

func (k *keeper) incoming(row []Seat) bool {
	seat, ok := seatOf(row, k.c.cfg.Self)
	return ok && seat.State == Incoming && seat.Store == k.c.cfg.Disk.ID()
}

// settle makes this node Held in rows of one group, unless the leader changed the group. Where it
// was the last to come, those that are Leaving can go (leaving.go).
func (k *keeper) settle(ctx context.Context, g int, epoch uint64, done []int) error {
	return k.c.led.Update(ctx, func(tx ledgerTx) error {
		now, err := k.c.tables.read(tx, g)
		if err != nil || now == nil || now.epoch != epoch {
			return err
		}
		next := *now
		for _, r := range done {
			row := &next.rows[r%rowsPerKey]
			if k.incoming(*row) {
				*row = settled(*row, k.c.cfg.Self)
			}
		}
		tx.Put(tableKey(g), next.encode())
		return nil
	})
}

// settled is the row with the node Held.
func settled(row []Seat, self peer.ID) []Seat {
	row = slices.Clone(row)
	for i := range row {
		if row[i].Node == self {
			row[i].State = Held
		}
	}
	return row
}
