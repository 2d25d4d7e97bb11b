package copies

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

// tableTime is how long an upload waits for a table that lags behind the members: right after a
// second node joined, the rows still name the first alone, and right after one was removed, it is
// still named: too few copies would be sure.
const tableTime = 10 * time.Second

// choose sets the upload's partition once there is a table whose rows have enough nodes.
func (u *Upload) choose(ctx context.Context) ([]Seat, error) {
	wait := time.NewTimer(0)
	defer wait.Stop()
	late := time.NewTimer(tableTime)
	defer late.Stop()
	settled := false
	for {
		select {
		case <-wait.C:
		case <-late.C:
			settled = true // stand-ins may do for what the row lacks
		case <-ctx.Done():
			return nil, fmt.Errorf("the ledger has no table of copies yet: %w: %w", ErrNotDurable, context.Cause(ctx))
		case <-u.c.life.Done():
			return nil, ErrClosed
		}
		var row []Seat
		err := u.c.led.View(func(tx scanner) (err error) {
			row, err = u.pick(tx)
			return err
		})
		if err != nil {
			return nil, err
		}
		if row != nil && (settled || u.enough(row)) {
			return row, nil
		}
		wait.Reset(50 * time.Millisecond)
	}
}

// pick looks at random rows for one that has this node and whose others were not found dead lately.
// Where few or none have it, it looks at all.
func (u *Upload) pick(tx Reader) (best []Seat, err error) {
	fewest := 0
	consider := func(partition int, foreign bool) (good bool, err error) {
		g, err := u.c.tables.read(tx, partition/rowsPerKey)
		if err != nil || g == nil {
			return false, err
		}
		row := g.rows[partition%rowsPerKey]
		seat, ok := seatOf(row, u.c.cfg.Self)
		mine := ok && seat.wanted()
		if !mine && !foreign || len(row) == 0 {
			return false, nil
		}
		down := 0
		for _, s := range row {
			if s.Node != u.c.cfg.Self && u.c.ranks.down(s.Node) {
				down++
			}
		}
		if best == nil || down < fewest {
			best, fewest = row, down
			u.partition, u.kept = uint16(partition), mine
		}
		return down == 0, nil
	}
	for range 64 {
		if good, err := consider(rand.IntN(Partitions), false); good || err != nil {
			return best, err
		}
	}
	for _, foreign := range []bool{false, true} {
		start := rand.IntN(Partitions)
		for i := 0; i < Partitions && best == nil; i++ {
			if _, err := consider((start+i)%Partitions, foreign); err != nil {
				return nil, err
			}
		}
	}
	return best, nil
}

// enough says whether a row has as many nodes, at as many sites, as an answer needs. A node that
// was removed, and that the table still names, does not count.
func (u *Upload) enough(row []Seat) bool {
	seats, sites, all := 0, map[string]bool{}, map[string]bool{}
	for _, s := range row {
		if site, member := u.site[s.Node]; member && s.wanted() {
			seats++
			sites[site] = true
		}
	}
	for _, n := range u.nodes {
		if canHold(n) {
			all[n.Site] = true
		}
	}
	return seats >= u.need && len(sites) >= min(u.need, len(all), 2)
}
