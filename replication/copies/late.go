package copies

import (
	"context"
	"fmt"
	"maps"
	"slices"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A lane that begins after the first block was sent, in the place of a peer that failed, is late: what
// the tape has no more it takes from this node's disk, or from a peer that has it durable, until it has
// caught up with the tape (P1).

// next is the block with number at, nil at the end.
func (l *lane) next(ctx context.Context, at int, idle func() error) (blocks.Block, error) {
	if l.late && l.u.tape.rejoin(l, at) {
		l.late, l.ahead = false, nil
	}
	if l.late {
		return l.before(ctx, at, idle)
	}
	return l.u.tape.next(ctx, l, at, idle)
}

// before is a block that the tape may have no more.
func (l *lane) before(ctx context.Context, at int, idle func() error) (blocks.Block, error) {
	if len(l.ahead) == 0 {
		if err := idle(); err != nil {
			return nil, err
		}
		names := l.u.tape.names(at, windowBlocks)
		if len(names) == 0 {
			return nil, fmt.Errorf("an upload of more than %d blocks cannot be sent again", maxNames)
		}
		var err error
		if l.ahead, err = l.u.durable(ctx, l, names); err != nil {
			return nil, err
		}
	}
	b := l.ahead[0]
	l.ahead = l.ahead[1:]
	return b, nil
}

// durable gets the first of some blocks of this upload, and perhaps more, from where they are durable.
// It waits while they may come to be so.
func (u *Upload) durable(ctx context.Context, l *lane, names []cid.Cid) ([]blocks.Block, error) {
	for {
		u.mu.Lock()
		changed, copies := u.changed, slices.Clone(u.copies)
		hope := u.local != nil || u.syncing
		for other := range u.lanes {
			hope = hope || other != l && !u.lateLanes[other]
		}
		u.mu.Unlock()
		if b, err := u.c.cfg.Disk.Block(ctx, names[0]); err == nil {
			return []blocks.Block{b}, nil
		}
		for _, c := range copies {
			var got []blocks.Block
			if c.Node == u.c.cfg.Self {
				continue
			}
			_, err := u.c.fetchFrom(ctx, c.Node, names, forUpload, func(b blocks.Block) { got = append(got, b) })
			if len(got) > 0 {
				return got, nil
			}
			u.c.log.InfoContext(ctx, "peer did not give a block of an upload", "peer", c.Node, "error", err)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !hope {
			return nil, fmt.Errorf("block %s is nowhere any more: %w", names[0], ErrNotFound)
		}
		u.reread.Store(true)
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// settleSome commits what the local batch has so far: a late lane has to read it.
func (u *Upload) settleSome(ctx context.Context) error {
	if err := u.local.Commit(ctx); err != nil {
		return err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.local = u.c.cfg.NewBatch(!u.kept)
	u.signal()
	return nil
}

// replace makes the lane late and names nodes that can take the place of its peer, if one is needed.
func (l *lane) replace(err error) []Node {
	u := l.u
	if u.ctx.Err() != nil {
		return nil
	}
	u.c.log.WarnContext(u.ctx, "a node failed in the middle of an upload", "error", err)
	u.tape.leave(l)
	u.mu.Lock()
	l.late, l.ahead = true, nil
	u.lateLanes[l] = true
	u.mu.Unlock()
	return u.standIns(l)
}

// grow takes in that more nodes can hold copies than when the upload began: what one copy was enough
// for then may need another now, or is not durable.
func (u *Upload) grow(now []Node) error {
	need := u.c.needed(now)
	if need <= u.need {
		return nil
	}
	var fresh []Node
	for _, n := range now {
		if !slices.ContainsFunc(u.nodes, func(o Node) bool { return o.ID == n.ID && o.Store == n.Store }) {
			fresh = append(fresh, n)
		}
	}
	epochs, err := u.c.readEpochs(fresh)
	if err != nil {
		return u.failure(err)
	}
	maps.Copy(u.epochs, epochs)
	l := &lane{u: u, late: true}
	u.mu.Lock()
	u.need = need
	for _, n := range fresh {
		u.nodes = append(slices.DeleteFunc(slices.Clone(u.nodes), func(o Node) bool { return o.ID == n.ID }), n)
		u.site[n.ID] = n.Site
	}
	u.lateLanes[l] = true
	u.mu.Unlock()
	candidates := u.standIns(l)
	if len(candidates) == 0 {
		u.mu.Lock()
		delete(u.lanes, l)
		u.mu.Unlock()
		return nil // hopeless, or enough are on their way
	}
	if !u.c.start(func() { l.runTo(candidates) }) {
		return u.failure(ErrClosed)
	}
	return nil
}
