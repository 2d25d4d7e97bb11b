package testnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/node"
	"github.com/valise-mail/valise/node/api"
)

// Stop shuts house i's node down in order.
func (v *Village) Stop(i int) error {
	h := v.Houses[i]
	if h.node != nil && h.node.Err() != nil && h.disk != nil {
		return v.Kill(i) // its disk ended it: nothing is left to do in order
	}
	old := h.leave(false)
	if old == nil {
		return nil
	}
	h.asking.Wait()
	return v.shut(h, old)
}

// leave takes the node out of its house: its operators' lines are cut, and so are all others if it is to be alone.
func (h *House) leave(alone bool) *node.Node {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.node
	if old == nil {
		return nil
	}
	h.node, h.line = nil, nil
	h.hang()
	if h.alone = alone; alone {
		for c := range h.conns {
			c.Close()
		}
	}
	return old
}

// ErrCut says that the line to a house was cut before an answer came: what was asked may have happened.
var ErrCut = errors.New("the line was cut")

// ErrAway says that a house's node is not running: nothing was asked.
var ErrAway = errors.New("the node is away")

// Ask asks house i's node as its operator, over a line that is cut when the node is stopped or killed. It may
// be called concurrently, with faults too.
func (v *Village) Ask(ctx context.Context, i int, ask func(ctx context.Context, a api.Admin) error) error {
	h := v.Houses[i]
	h.mu.Lock()
	n, line, life := h.node, h.line, h.life
	if n == nil {
		h.mu.Unlock()
		return fmt.Errorf("%s: %w", h.Name, ErrAway)
	}
	h.asking.Add(1)
	h.mu.Unlock()
	defer h.asking.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(line, cancel)
	defer stop()
	var err error
	v.living(life, func() { err = ask(ctx, n.Admin()) })
	h.mu.Lock()
	defer h.mu.Unlock()
	if line.Err() != nil { // an answer that never left the house
		return errors.Join(fmt.Errorf("%s: %w", h.Name, ErrCut), err)
	}
	return err
}

// Kill abandons house i's node as a power cut would: from one moment on nothing
// leaves it, and its disk is what had been synced by then. On a real disk
// unsynced writes survive, as they do a kill -9.
func (v *Village) Kill(i int) error {
	h := v.Houses[i]
	// Cut first, image second: whatever the node told anybody is on its disk by the time of the image.
	old := h.leave(true)
	if old == nil {
		return errors.New(h.Name + " is not running")
	}
	old.Disconnect()
	if h.disk != nil {
		h.disk = h.disk.CrashClone(vfs.CrashCloneCfg{})
		h.cfg.Seams.FS = &troubledFS{FS: h.disk, t: &h.trouble}
	}
	h.asking.Wait()
	err := v.shut(h, old) // what it still writes goes to the abandoned disk
	h.mu.Lock()
	h.alone = false
	h.mu.Unlock()
	return err
}

// shut closes a node that has left its house. Where its disk had ended it, its databases are parked with what they
// have started, as they are until a process ends: the verifier excuses that.
func (v *Village) shut(h *House, n *node.Node) (err error) {
	v.living(h.life, func() { err = n.Close() })
	if n.Err() != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.excused = append(v.excused, h.life)
	}
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
