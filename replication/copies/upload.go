package copies

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// maxLingering bounds the bytes that committed uploads still hold for slower peers.
const maxLingering = 32 << 20

// An Upload streams the blocks of one root to the nodes that must hold them. Its methods are called
// by one goroutine. It ends with Commit or Abort; Abort after Commit does nothing.
type Upload struct {
	c         *Copies
	partition uint16
	kept      bool   // this node is in the row
	need      int    // copies that must be durable
	nodes     []Node // members at the start
	site      map[peer.ID]string
	epochs    map[peer.ID]uint32 // of nodes, before the end of the blocks was told to any of them (T6)
	parents   []cid.Cid          // blocks with links among those added
	epoch     uint32             // of this node
	reread    atomic.Bool        // a late lane waits for what the local batch has
	ctx       context.Context    // of the lanes; ends when they have no purpose any more
	cancel    context.CancelCauseFunc
	unwatch   func() bool // of Begin's context
	tape      *tape
	local     Batch   // nil once it failed or is being committed; changed by the caller's goroutine, under mu
	last      cid.Cid // what was added last
	lost      error   // of an Add that failed: a block may be nowhere
	ended     bool

	mu        sync.Mutex
	changed   chan struct{}    // closed and replaced when a field below changes
	lanes     map[*lane]Node   // under way
	lateLanes map[*lane]bool   // those that do not follow the tape from its beginning
	tried     map[peer.ID]bool // by a lane, or about to be
	copies    []Copy           // durable
	errs      []error          // what kept others from it
	pending   bool             // the local batch may still become a durable copy
	syncing   bool             // the local batch, copy or cache, is being committed
}

// Begin starts an upload: it picks a partition, at random among those whose row has this node if
// there are any, and opens streams to the row's other nodes without waiting for them (P1). It waits
// for the ledger to have a table. If ctx ends before Commit has succeeded, so do the streams.
func (c *Copies) Begin(ctx context.Context) (*Upload, error) {
	u := &Upload{
		c:         c,
		nodes:     c.cfg.Nodes(),
		site:      make(map[peer.ID]string),
		tape:      newTape(),
		changed:   make(chan struct{}),
		lanes:     make(map[*lane]Node),
		lateLanes: make(map[*lane]bool),
		tried:     map[peer.ID]bool{c.cfg.Self: true},
		pending:   true,
	}
	for _, n := range u.nodes {
		u.site[n.ID] = n.Site
	}
	u.need = c.needed(u.nodes)
	row, err := u.choose(ctx)
	if err != nil {
		return nil, fmt.Errorf("begin upload: %w", err)
	}
	u.ctx, u.cancel = context.WithCancelCause(c.life)
	u.unwatch = context.AfterFunc(ctx, func() { u.cancel(context.Cause(ctx)) })
	u.local = c.cfg.NewBatch(!u.kept)
	u.pending = u.kept
	for _, seat := range row {
		i := slices.IndexFunc(u.nodes, func(n Node) bool { return n.ID == seat.Node })
		if i < 0 || !seat.wanted() || seat.Node == c.cfg.Self {
			continue
		}
		l := &lane{u: u, node: u.nodes[i]}
		u.tape.join(l)
		u.lanes[l] = l.node
		u.tried[seat.Node] = true
	}
	for l := range u.lanesNow() {
		if !c.start(l.run) {
			u.Abort()
			return nil, fmt.Errorf("begin upload: %w", ErrClosed)
		}
	}
	return u, nil
}

// needed is how many copies must be durable where these are the nodes.
func (c *Copies) needed(nodes []Node) int {
	able := 0
	for _, n := range nodes {
		if canHold(n) {
			able++
		}
	}
	return max(1, min(c.cfg.Ack, c.cfg.wanted(), able))
}

// canHold says whether a node may get copies.
func canHold(n Node) bool { return n.Weight >= 0 && n.Store != [16]byte{} }

func (u *Upload) lanesNow() map[*lane]Node {
	u.mu.Lock()
	defer u.mu.Unlock()
	out := make(map[*lane]Node, len(u.lanes))
	for l, n := range u.lanes {
		out[l] = n
	}
	return out
}

// Add hands on one block, children before their parents, the root last. It keeps the block until the
// slowest peer has it, and waits while it holds 8 MiB of such. An error says that Commit will not
// succeed either: ErrNotDurable, ErrNoSpace, or the context's.
func (u *Upload) Add(ctx context.Context, b blocks.Block) error {
	if u.ended {
		return errors.New("upload has ended")
	}
	if u.lost == nil {
		u.lost = u.add(ctx, b)
	}
	return u.lost
}

func (u *Upload) add(ctx context.Context, b blocks.Block) error {
	if err := u.hopeless(); err != nil {
		return err
	}
	// The lanes first: they send while this node writes.
	if err := u.tape.add(ctx, b); err != nil {
		return fmt.Errorf("upload block %s: %w", b.Cid(), err)
	}
	u.last = b.Cid()
	if links, err := u.c.cfg.Links(b); err != nil {
		return fmt.Errorf("upload block %s: links: %w", b.Cid(), err)
	} else if len(links) > 0 {
		u.parents = append(u.parents, b.Cid())
	}
	if u.local == nil {
		return nil
	}
	err := u.local.Add(ctx, b)
	if err == nil && u.reread.Swap(false) {
		err = u.settleSome(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("upload block %s: %w", b.Cid(), err)
		}
		u.local.Abort()
		u.loseLocal()
		u.settleLocal(err)
		return u.hopeless()
	}
	return nil
}

func (u *Upload) loseLocal() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.local = nil
}

// settleLocal notes how the local batch ended.
func (u *Upload) settleLocal(err error) {
	if err != nil {
		u.c.log.WarnContext(u.ctx, "upload is not kept here", "kept", u.kept, "error", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pending, u.syncing = false, false
	switch {
	case !u.kept: // it was only a cache
	case err != nil:
		u.errs = append(u.errs, fmt.Errorf("copy here: %w", u.c.spaceError(err)))
	default:
		u.copies = append(u.copies, Copy{Node: u.c.cfg.Self, Store: u.c.cfg.Disk.ID()})
	}
	u.signal()
}

// spaceError makes the disk's want of room ours.
func (c *Copies) spaceError(err error) error {
	if c.cfg.NoSpace(err) && !errors.Is(err, ErrNoSpace) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// signal wakes Commit. The caller holds mu.
func (u *Upload) signal() {
	close(u.changed)
	u.changed = make(chan struct{})
}

// settle notes how a lane ended.
func (u *Upload) settle(l *lane, copy Copy, err error) {
	if err != nil && u.ctx.Err() == nil {
		u.c.log.WarnContext(u.ctx, "upload did not reach a node", "error", err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.lanes, l)
	delete(u.lateLanes, l)
	if err != nil {
		u.errs = append(u.errs, err)
	} else {
		u.copies = append(u.copies, copy)
	}
	u.signal()
}

// root is what Commit was called with; valid once the tape has ended.
func (u *Upload) root() cid.Cid { return u.last }

// Commit returns once need copies are durable: W, or as many as there are nodes; at two sites as far
// as two are live. root is the block added last. Slower peers go on in the background for a while;
// whether they succeed is their own keepers' affair. Otherwise ErrNotDurable, or ErrNoSpace if that
// was the reason: nothing was recorded, what was written is garbage, and trying again is safe.
func (u *Upload) Commit(ctx context.Context, root cid.Cid) (Placed, error) {
	if u.ended {
		return Placed{}, errors.New("upload has ended")
	}
	if root != u.last {
		u.Abort()
		return Placed{}, fmt.Errorf("commit upload: root %s was not added last", root)
	}
	if u.lost != nil {
		u.Abort()
		return Placed{}, fmt.Errorf("commit upload of %s: %w", root, u.lost)
	}
	// From the end of the blocks on every node touches what it has: the epochs are read before.
	epochs, err := u.c.readEpochs(u.nodes)
	if err != nil {
		u.Abort()
		return Placed{}, fmt.Errorf("commit upload of %s: %w", root, err)
	}
	u.epochs, u.epoch = epochs, epochs[u.c.cfg.Self]
	u.ended = true
	u.tape.end()
	batch := u.local
	u.mu.Lock()
	u.syncing, u.local = batch != nil, nil
	u.mu.Unlock()
	if batch != nil && !u.c.start(func() { u.commitLocal(batch) }) {
		batch.Abort()
		u.unwatch()
		u.cancel(ErrClosed)
		return Placed{}, fmt.Errorf("commit upload: %w", ErrClosed)
	}
	copies, err := u.await(ctx)
	if err != nil {
		u.unwatch()
		u.cancel(err)
		return Placed{}, fmt.Errorf("commit upload of %s: %w", root, err)
	}
	u.unwatch()
	u.linger()
	if slices.ContainsFunc(copies, func(c Copy) bool { return c.Node == u.c.cfg.Self }) {
		u.c.tell(root)
	}
	return Placed{Root: root, Partition: u.partition, Copies: copies, need: u.need, sites: u.site, epochs: u.epochs}, nil
}

// commitLocal goes on when the upload's streams are ended: what is on this disk is not sent again.
func (u *Upload) commitLocal(batch Batch) {
	var err error
	if u.kept {
		err = u.c.whole(u.c.life, batch, u.root(), u.parents)
	}
	if err == nil {
		err = batch.Commit(u.c.life)
	}
	if err != nil {
		batch.Abort()
	} else if u.kept { // the keeper settles it, if the upload did not wait
		u.c.acked.add(u.root(), u.epoch)
		u.c.poke()
	}
	u.settleLocal(err)
}

// Abort ends the upload and its streams, unless Commit was called. What was written is garbage.
func (u *Upload) Abort() {
	if u.ended {
		return
	}
	u.ended = true
	u.unwatch()
	u.cancel(errors.New("upload aborted"))
	if u.local != nil {
		u.local.Abort()
	}
}

// linger lets slower peers and this disk finish, within bounds, and then ends what the upload has running.
func (u *Upload) linger() {
	size := int64(u.tape.size())
	if u.c.lingering.Add(size) > maxLingering {
		u.cancel(errors.New("too many uploads wait for slow peers"))
	}
	ok := u.c.start(func() {
		defer u.c.lingering.Add(-size)
		defer u.cancel(nil)
		enough := time.NewTimer(u.c.cfg.timing.linger)
		defer enough.Stop()
		for {
			u.mu.Lock()
			busy, changed := len(u.lanes) > 0 || u.syncing, u.changed
			u.mu.Unlock()
			if !busy {
				return
			}
			select {
			case <-changed:
			case <-enough.C:
				return
			case <-u.ctx.Done():
				return
			}
		}
	})
	if !ok {
		u.c.lingering.Add(-size)
		u.cancel(ErrClosed)
	}
}
