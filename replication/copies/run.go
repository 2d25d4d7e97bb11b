package copies

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Run keeps this node's copies complete, announces roots, and keeps the table while this node leads
// the ledger. It returns when ctx ends, with its error. It runs once at a time.
func (c *Copies) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()
	var wg sync.WaitGroup
	wg.Go(func() { c.watch(ctx, missingKeys(c.cfg.Self)) })
	wg.Go(func() { c.watch(ctx, []byte(tablePrefix)) })
	wg.Go(func() { c.keepTable(ctx) })
	wg.Go(func() { c.announce(ctx) })
	wg.Go(func() { c.yieldExtras(ctx) })
	newKeeper(c).run(ctx)
	wg.Wait()
	return ctx.Err()
}

// watch wakes the keeper at every change. What changed does not matter: it compares state with state.
func (c *Copies) watch(ctx context.Context, prefix []byte) {
	for ctx.Err() == nil {
		for _, err := range c.led.Watch(ctx, prefix) {
			if err != nil {
				if ctx.Err() == nil {
					c.log.WarnContext(ctx, "watching the ledger ended; beginning again", "prefix", string(prefix[:2]), "error", err)
				}
				break
			}
			c.poke()
		}
		pause(ctx, c.cfg.timing.retryMin)
	}
}

// poke wakes the keeper.
func (c *Copies) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// tell has a root announced, if not too many are waiting: the ledger says it, too.
func (c *Copies) tell(root cid.Cid) {
	select {
	case c.told <- root:
	default:
	}
}

func (c *Copies) announce(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case root := <-c.told:
			one, cancel := context.WithTimeout(ctx, c.cfg.timing.progress)
			if err := c.cfg.Announce(one, root); err != nil && ctx.Err() == nil {
				c.log.InfoContext(ctx, "a root is not announced", "root", root, "error", err)
			}
			cancel()
		}
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// keepTable makes the table fit the members for as long as this node leads.
func (c *Copies) keepTable(ctx context.Context) {
	var nodes []Node // that the table in seen was found right for, with that many copies
	var seen Table
	var copies int
	leaving := newLeaving(c)
	looks := make(map[peer.ID]int)
	tick := time.NewTicker(c.cfg.timing.table)
	defer tick.Stop()
	for {
		if c.cfg.Leading() {
			now, wanted := c.present(looks), c.cfg.wanted()
			table, err := c.readTable()
			if err == nil && (!slices.Equal(now, nodes) || wanted != copies || !table.equal(&seen)) {
				if table, err = c.fitTable(ctx, table, now); err == nil {
					nodes, copies, seen = now, wanted, table
				}
			}
			if err == nil {
				err = leaving.end(ctx, &table)
			}
			if err == nil {
				err = c.tidy(ctx, &table)
			}
			if err != nil && ctx.Err() == nil && !errors.Is(err, errTableMoved) {
				c.log.DebugContext(ctx, "the table of copies is not kept", "error", err)
			}
		} else {
			clear(looks)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// awayLooks is how often in a row the leader must find a node away: one that was suspended itself has
// heard of nobody for long, and hears of them within seconds.
const awayLooks = 10

// present has the members, with those marked that this node has not heard of for too long. looks counts
// how often each was found so.
func (c *Copies) present(looks map[peer.ID]int) []Node {
	nodes := slices.Clone(c.cfg.Nodes())
	for i, n := range nodes {
		if !c.isAway(n.ID) {
			delete(looks, n.ID)
			continue
		}
		looks[n.ID]++
		nodes[i].Away = looks[n.ID] >= awayLooks
	}
	return nodes
}

func (c *Copies) isAway(id peer.ID) bool { return id != c.cfg.Self && c.cfg.Away(id) > c.cfg.Patience }

func (c *Copies) readTable() (table Table, err error) {
	err = c.led.View(func(tx scanner) error {
		table, err = c.tables.table(tx)
		return err
	})
	return table, err
}

func (t *Table) equal(other *Table) bool {
	if t.Epochs != other.Epochs {
		return false
	}
	for r := range t.Rows {
		if !slices.Equal(t.Rows[r], other.Rows[r]) {
			return false
		}
	}
	return true
}

var errTableMoved = errors.New("another leader changed the table")

// fitTable writes what Compute makes of a table, if anything, in one transaction that does nothing
// when the epoch has moved on. Seats that became Held meanwhile stay so: it computes from what the
// transaction sees.
func (c *Copies) fitTable(ctx context.Context, old Table, nodes []Node) (Table, error) {
	wanted := c.cfg.wanted()
	fit := Compute(old, nodes, wanted)
	if fit.equal(&old) {
		return old, nil
	}
	err := c.led.Update(ctx, func(tx ledgerTx) error {
		now, err := c.tables.table(tx)
		if err != nil {
			return err
		}
		if now.Epoch() != old.Epoch() {
			return errTableMoved
		}
		fit = Compute(now, nodes, wanted)
		for g := range tableKeys {
			if fit.Epochs[g] != now.Epochs[g] {
				tx.Put(tableKey(g), fit.group(g).encode())
			}
		}
		return nil
	})
	if err != nil {
		return Table{}, err
	}
	c.log.InfoContext(ctx, "changed the table of copies", "epoch", fit.Epoch(), "nodes", len(nodes))
	return fit, nil
}
