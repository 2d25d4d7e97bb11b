package copies

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Blocks are read in windows of that many, two windows at a time: one is delivered while the next
// comes in. It bounds a reader's memory: 16 MiB of average blocks.
const windowBlocks = 8

// Blocks yields the blocks of want, all of them under root, in the order asked: from this node's
// disk, else from the nearest holder the ledger knows, else from whom the DHT names. Each is
// verified. When a holder fails, the next one goes on where it ended. An error ends the sequence;
// trying again is safe. It reads up to 16 blocks ahead of its consumer.
func (c *Copies) Blocks(ctx context.Context, root cid.Cid, want []cid.Cid) iter.Seq2[blocks.Block, error] {
	return c.blocks(ctx, root, want, forReader)
}

func (c *Copies) blocks(ctx context.Context, root cid.Cid, want []cid.Cid, why purpose) iter.Seq2[blocks.Block, error] {
	return func(yield func(blocks.Block, error) bool) {
		if len(want) == 1 { // a range touches one chunk
			if b, err := c.cfg.Disk.Block(ctx, want[0]); err == nil {
				yield(b, nil)
				return
			}
		}
		ctx, cancel := context.WithCancelCause(ctx)
		defer context.AfterFunc(c.life, func() { cancel(ErrClosed) })()
		r := &reading{c: c, root: root, why: why}
		defer r.end()
		defer cancel(nil)
		next := r.window(ctx, &want)
		for next != nil {
			now := next
			next = r.window(ctx, &want)
			for b := range now.blocks {
				if !yield(b, nil) {
					return
				}
			}
			if now.err != nil {
				yield(nil, now.err)
				return
			}
		}
	}
}

// A reading is one call of Blocks.
type reading struct {
	c    *Copies
	root cid.Cid
	why  purpose
	wg   sync.WaitGroup

	mu     sync.Mutex
	asked  bool      // the ledger, for near
	looked bool      // in the DHT, for far
	near   []peer.ID // holders
	far    []peer.ID // others that may have blocks
	cache  Batch     // what was fetched, where reads are cached
	broken bool      // the cache failed
}

// A window is a part of the blocks wanted, under way.
type window struct {
	blocks chan blocks.Block
	err    error // valid once blocks is closed
}

// window starts the next part of want; nil at its end.
func (r *reading) window(ctx context.Context, want *[]cid.Cid) *window {
	if len(*want) == 0 {
		return nil
	}
	n := min(len(*want), windowBlocks)
	part := (*want)[:n]
	*want = (*want)[n:]
	w := &window{blocks: make(chan blocks.Block, n)} // room for all: who fills it never waits
	r.wg.Add(1)
	if !r.c.start(func() {
		defer r.wg.Done()
		defer close(w.blocks)
		w.err = r.fill(ctx, w, part)
	}) {
		w.err = ErrClosed
		close(w.blocks)
		r.wg.Done()
	}
	return w
}

// fill delivers a window's blocks in order. What is missing here is fetched in one go.
func (r *reading) fill(ctx context.Context, w *window, part []cid.Cid) error {
	local := make([]blocks.Block, len(part))
	var missing []cid.Cid
	for i, id := range part {
		b, err := r.c.cfg.Disk.Block(ctx, id)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			if r.c.cfg.Disk.Has(id) {
				r.c.log.ErrorContext(ctx, "a block kept here cannot be read", "cid", id, "error", err)
			}
			missing = append(missing, id)
		case len(missing) == 0:
			w.blocks <- b
		default:
			local[i] = b
		}
	}
	if len(missing) == 0 {
		return nil
	}
	at := slices.Index(part, missing[0])
	return r.fetch(ctx, missing, func(b blocks.Block) {
		w.blocks <- b
		for at++; at < len(part) && local[at] != nil; at++ {
			w.blocks <- local[at]
		}
		r.keep(ctx, b)
	})
}

// fetch gets blocks from one peer after the other, in order, each once. It ends with an error when
// all who may have the next block were asked for it.
func (r *reading) fetch(ctx context.Context, want []cid.Cid, deliver func(blocks.Block)) error {
	var errs []error
	tried := make(map[peer.ID]bool)
	for len(want) > 0 {
		id, ok := r.source(ctx, tried)
		if !ok {
			return r.notFound(want[0], errs)
		}
		n, err := r.c.fetchFrom(ctx, id, want, r.why, deliver)
		want = want[n:]
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if n > 0 { // the next block is another question
			clear(tried)
			errs = nil
		}
		if err != nil {
			r.c.log.InfoContext(ctx, "peer did not give a block", "peer", id, "root", r.root, "error", err)
			errs = append(errs, fmt.Errorf("%s: %w", id, err))
			if n == 0 {
				tried[id] = true
			}
		}
	}
	return nil
}

func (r *reading) notFound(id cid.Cid, errs []error) error {
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("fetch %s under %s: %w (%v)", id, r.root, ErrNotFound, err)
	}
	return fmt.Errorf("fetch %s under %s: %w", id, r.root, ErrNotFound)
}

// source names the nearest peer not yet tried.
func (r *reading) source(ctx context.Context, tried map[peer.ID]bool) (peer.ID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.asked {
		r.asked = true
		r.near, r.far = r.c.whoHas(r.root)
	}
	for _, group := range []*[]peer.ID{&r.near, &r.far} {
		if group == &r.far && !r.looked {
			r.looked = true
			r.far = append(r.far, r.find(ctx)...)
		}
		r.c.ranks.nearest(*group, r.c.sites(), r.c.cfg.Self)
		for _, id := range *group {
			if !tried[id] && id != r.c.cfg.Self {
				return id, true
			}
		}
	}
	return "", false
}

// find asks the DHT.
func (r *reading) find(ctx context.Context) []peer.ID {
	ctx, cancel := context.WithTimeout(ctx, r.c.cfg.timing.dial)
	defer cancel()
	found, err := r.c.cfg.Find(ctx, r.root)
	if err != nil {
		r.c.log.InfoContext(ctx, "the DHT names no holders", "root", r.root, "error", err)
	}
	return found
}

// whoHas lists a root's holders, and the rest of its row: they may have it without the ledger
// knowing yet.
func (c *Copies) whoHas(root cid.Cid) (holding, perhaps []peer.ID) {
	err := c.led.View(func(tx scanner) error {
		rec, err := getRecord(tx, root)
		if err != nil {
			return err
		}
		row, _, err := c.tables.row(tx, rec.Partition)
		if err != nil {
			return err
		}
		holding = holders(rec, row, c.stores())
		for _, seat := range row {
			if !slices.Contains(holding, seat.Node) {
				perhaps = append(perhaps, seat.Node)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, ErrNotRecorded) {
		c.log.Warn("the ledger does not say who holds a root", "root", root, "error", err)
	}
	return holding, perhaps
}

func (c *Copies) sites() map[peer.ID]string {
	out := make(map[peer.ID]string)
	for _, n := range c.cfg.Nodes() {
		out[n.ID] = n.Site
	}
	return out
}

// keep writes a fetched block to the cache, if reads are cached.
func (r *reading) keep(ctx context.Context, b blocks.Block) {
	if !r.c.cfg.CacheReads || r.why != forReader {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken {
		return
	}
	if r.cache == nil {
		r.cache = r.c.cfg.NewBatch(true)
	}
	if err := r.cache.Add(ctx, b); err != nil && ctx.Err() == nil {
		r.broken = true
		r.c.log.InfoContext(ctx, "a read is not cached", "root", r.root, "error", err)
	}
}

// end waits for the windows; the cache is committed in the background.
func (r *reading) end() {
	r.wg.Wait()
	if r.cache == nil {
		return
	}
	commit := func() {
		if err := r.cache.Commit(r.c.life); err != nil && r.c.life.Err() == nil {
			r.c.log.Info("a read is not cached", "root", r.root, "error", err)
		}
	}
	if r.broken || !r.c.start(commit) {
		r.cache.Abort()
	}
}

// fetchFrom asks one peer for blocks and delivers them in order, verified. It returns how many it
// delivered. deliver does not wait for anybody, so that the slot is held only while bytes move.
func (c *Copies) fetchFrom(ctx context.Context, id peer.ID, want []cid.Cid, why purpose, deliver func(blocks.Block)) (n int, err error) {
	if err := c.slots.acquire(ctx, id, why); err != nil {
		return 0, err
	}
	defer c.slots.release(id)
	begun := time.Now()
	w, stop, err := c.dial(ctx, id, fetchProtocol, blockBuffer, wordBuffer)
	if err != nil {
		if ctx.Err() == nil { // a reader that went away says nothing of the peer
			c.ranks.failed(id)
		}
		return 0, err
	}
	defer func() {
		stop()
		if err != nil {
			_ = w.s.Reset()
			return
		}
		_ = w.s.Close()
	}()
	var first time.Duration
	bytes := 0
	n, err = c.request(w, want[:min(len(want), maxWant)], begun, &first, func(b blocks.Block) {
		bytes += len(b.RawData())
		deliver(b)
	})
	said, refused := errors.AsType[*statusError](err)
	switch {
	case refused && said.code == codeBusy:
		c.ranks.answered(id)
	case errors.Is(err, errHash):
		c.ranks.failed(id)
		c.log.ErrorContext(ctx, "peer sent a corrupt block", "peer", id, "cid", want[n], "error", err)
	case err == nil:
		c.ranks.answered(id)
		c.ranks.measured(id, first, time.Since(begun), bytes)
	case ctx.Err() == nil && !errors.Is(err, ErrNotFound):
		c.ranks.failed(id)
	}
	return n, err
}

// request runs the dialogue of one fetch.
func (c *Copies) request(w *wire, want []cid.Cid, begun time.Time, first *time.Duration, deliver func(blocks.Block)) (n int, err error) {
	if err := writeWants(w.w, want); err != nil {
		return 0, err
	}
	if err := w.s.CloseWrite(); err != nil {
		return 0, err
	}
	w.within(c.cfg.timing.dial) // the header comes at once from a peer that lives
	if err := readHeader(w.r); err != nil {
		return 0, err
	}
	*first = time.Since(begun)
	for {
		w.within(c.cfg.timing.progress)
		id, data, err := readSection(w.r, unreserved)
		if errors.Is(err, errEnd) {
			break
		}
		if err != nil {
			return n, noEOF(err)
		}
		if n == len(want) || id != want[n] {
			return n, fmt.Errorf("block %s was not asked for: %w", id, errSection)
		}
		b, err := verify(id, data)
		if err != nil {
			return n, err
		}
		deliver(b)
		n++
	}
	s, err := readStatus(w.r)
	if err == nil {
		err = s.err()
	}
	if err == nil && n < len(want) {
		err = fmt.Errorf("%d of %d blocks: %w", n, len(want), errSection)
	}
	return n, err
}
