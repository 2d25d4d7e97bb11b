package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Stop shuts house i's node down in order.
func (v *Village) Stop(i int) error {
	h := v.Houses[i]
	if h.node == nil {
		return nil
	}
	err := h.node.Close()
	h.node = nil
	return err
}

// Kill abandons house i's node as a power cut would: from one moment on nothing
// leaves it, and its disk is what had been synced by then. On a real disk
// unsynced writes survive, as they do a kill -9.
func (v *Village) Kill(i int) error {
	h := v.Houses[i]
	if h.node == nil {
		return errors.New(h.Name + " is not running")
	}
	// Cut first, image second: whatever the node told anybody is on its disk by the time of the image.
	h.mu.Lock()
	h.alone = true
	for c := range h.conns {
		c.Close()
	}
	h.mu.Unlock()
	h.node.Disconnect()
	if h.disk != nil {
		h.disk = h.disk.CrashClone(vfs.CrashCloneCfg{})
		h.cfg.Seams.FS = h.disk
	}
	old := h.node
	h.node = nil
	err := old.Close() // what it still writes goes to the abandoned disk
	h.mu.Lock()
	h.alone = false
	h.mu.Unlock()
	return err
}

// Restart starts house i's node on the disk it has.
func (v *Village) Restart(ctx context.Context, i int) error {
	h := v.Houses[i]
	if h.node != nil {
		return errors.New(h.Name + " is running")
	}
	return v.start(ctx, h)
}

// Wipe empties the block store of house i, which must be stopped: a new disk in
// the same machine. The node's key and ledger stay.
func (v *Village) Wipe(i int) error {
	h := v.Houses[i]
	if h.node != nil {
		return errors.New(h.Name + " is running")
	}
	if h.disk == nil {
		return os.RemoveAll(h.cfg.Dir + "/store")
	}
	return h.disk.RemoveAll(h.cfg.Dir + "/store")
}

// Cut takes the cables between the houses named and all others away. Clients still reach them.
func (v *Village) Cut(houses ...int) {
	inside := map[peer.ID]bool{}
	for _, i := range houses {
		inside[v.Houses[i].peer] = true
	}
	v.mu.Lock()
	for _, a := range v.Houses {
		for _, b := range v.Houses {
			if inside[a.peer] != inside[b.peer] {
				v.cut[[2]peer.ID{a.peer, b.peer}] = true
			}
		}
	}
	v.mu.Unlock()
	var wg sync.WaitGroup
	for _, i := range houses {
		if n := v.Houses[i].node; n != nil {
			wg.Go(n.Disconnect)
		}
	}
	wg.Wait()
}

// Heal puts every cable back.
func (v *Village) Heal() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.cut)
}

// Leader is the index of the house whose node leads the ledger.
func (v *Village) Leader(ctx context.Context) (int, error) {
	found := -1
	err := v.Wait(ctx, "a leader", func() (bool, error) {
		for i, h := range v.Houses {
			if !h.Running() {
				continue
			}
			s, err := h.node.Admin().Status(ctx)
			if err != nil {
				return false, err
			}
			if s.Ledger.State == "leader" && s.Ledger.Quorum {
				found = i
				return true, nil
			}
		}
		return false, nil
	})
	if err != nil {
		return 0, fmt.Errorf("leader: %w", err)
	}
	return found, nil
}
