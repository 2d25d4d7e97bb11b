package copies

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"
)

// ErrLapsed says that blocks were stored too long ago to be referred to: nodes may have collected
// them meanwhile (T6). It is an ErrNotDurable; uploading again is safe, and of use.
var ErrLapsed = fmt.Errorf("blocks were stored before the last collections: %w", ErrNotDurable)

// An EpochStore notes with each block in which epoch of collection it was added, or met, last.
type EpochStore interface {
	Epoch() uint32
	// SetEpoch begins an epoch, durable on return. One that is not later than the present does nothing.
	SetEpoch(epoch uint32) error
}

// BeginEpoch begins this node's next epoch of collection, in its store first and then in the ledger,
// and returns it (T6). A collection may then free what the store noted with an epoch before
// epoch - 1 and Live does not name, as far as Live was called after BeginEpoch returned. After an error
// nothing may be freed on the strength of it; trying again is safe. It is called once at a time.
//
// A store that is behind the ledger was wiped or lost its index: what came since is noted with an
// epoch too early, by uploads that read the ledger's. It takes two epochs to be sure that they have ended.
func (c *Copies) BeginEpoch(ctx context.Context, s EpochStore) (epoch uint32, err error) {
	var present uint32
	err = c.led.View(func(tx scanner) (err error) {
		present, err = epochOf(tx, c.cfg.Self)
		return err
	})
	for err == nil {
		behind := s.Epoch() < present
		if present == math.MaxUint32 {
			err = errors.New("no epoch is left")
			break
		}
		if err = s.SetEpoch(present + 1); err != nil {
			break
		}
		var begun bool
		if present, begun, err = c.putEpoch(ctx, present); err == nil && begun && !behind {
			return present, nil
		}
	}
	return 0, fmt.Errorf("begin an epoch of collection: %w", err)
}

// putEpoch makes the epoch after present this node's, unless the ledger has another by now, and
// returns what it has.
func (c *Copies) putEpoch(ctx context.Context, present uint32) (now uint32, begun bool, err error) {
	err = c.led.Update(ctx, func(tx ledgerTx) (err error) {
		begun = false
		if now, err = epochOf(tx, c.cfg.Self); err != nil || now != present {
			return err
		}
		now, begun = present+1, true
		tx.Put(epochKey(c.cfg.Self), binary.AppendUvarint(nil, uint64(now)))
		return nil
	})
	return now, begun, err
}

// epochOf reads a node's epoch; 0 before its first.
func epochOf(tx Reader, id peer.ID) (uint32, error) {
	data, ok := tx.Get(epochKey(id))
	if !ok {
		return 0, nil
	}
	d := decoder{rest: data}
	epoch := d.uvarint(math.MaxUint32)
	if d.bad || len(d.rest) > 0 {
		return 0, fmt.Errorf("epoch of %s: %x is none", id, data)
	}
	return uint32(epoch), nil
}

// lapsed says whether blocks that were sent to a node when its epoch was read as then may be gone now:
// they are noted with then at least, and a collection in epoch now spares what is noted with now - 1.
func lapsed(then, now uint32) bool { return now > then && now-then > 1 }

// epochHere is this node's epoch, as its copy of the ledger has it.
func (c *Copies) epochHere() (epoch uint32, err error) {
	err = c.led.View(func(tx scanner) error {
		epoch, err = epochOf(tx, c.cfg.Self)
		return err
	})
	return epoch, err
}

// readEpochs reads the epochs of nodes for an upload. It comes before any of them is told the end of the
// blocks, which is when each touches what it has: no block is noted with an earlier epoch.
func (c *Copies) readEpochs(nodes []Node) (map[peer.ID]uint32, error) {
	out := make(map[peer.ID]uint32)
	err := c.led.View(func(tx scanner) error {
		for _, n := range nodes {
			epoch, err := epochOf(tx, n.ID)
			if err != nil {
				return err
			}
			out[n.ID] = epoch
		}
		return nil
	})
	return out, err
}

// lasting are the copies of a Placed whose nodes cannot have collected them. ErrLapsed where they are
// too few, or all at one site when they were not.
func lasting(tx Reader, p Placed) ([]Copy, error) {
	var out []Copy
	before, after := make(map[string]bool), make(map[string]bool)
	for _, copy := range p.Copies {
		now, err := epochOf(tx, copy.Node)
		if err != nil {
			return nil, err
		}
		before[p.sites[copy.Node]] = true
		if !lapsed(p.epochs[copy.Node], now) {
			after[p.sites[copy.Node]] = true
			out = append(out, copy)
		}
	}
	if need := max(p.need, 1); len(out) < need || len(after) < min(need, len(before), 2) {
		return nil, fmt.Errorf("%d of %d copies are left: %w", len(out), len(p.Copies), ErrLapsed)
	}
	return slices.Clip(out), nil
}
