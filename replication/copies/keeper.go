package copies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/replication"
)

const (
	keeperPage     = 256  // roots read from the ledger at a time
	keeperParallel = 4    // roots fetched at a time
	keeperFailed   = 4096 // roots whose failures are remembered; the others are tried in every pass
	keeperCommit   = 64   // blocks between two commits, so that a restart goes on where it was
)

// A keeper makes this node hold what the ledger says it should: first the roots listed as missing
// here, then whole rows in which it is Incoming. It goes over all of them in passes, from the
// ledger's pages, so that its memory does not grow with what is missing.
//
// Only a node itself takes itself off a root's missing list, and only it puts itself there in order
// to delete (Release): what the ledger says of it follows its own disk in its own order.
type keeper struct {
	c *Copies

	mu     sync.Mutex
	failed map[cid.Cid]*attempt  // guarded by mu
	seen   map[cid.Cid]time.Time // when a root was first left to a push; guarded by mu
}

// An attempt is a root that could not be had.
type attempt struct {
	pause time.Duration
	next  time.Time
}

func newKeeper(c *Copies) *keeper {
	return &keeper{c: c, failed: make(map[cid.Cid]*attempt), seen: make(map[cid.Cid]time.Time)}
}

// run makes passes until ctx ends: when something changed, when a root is due again, and now and
// then anyway.
func (k *keeper) run(ctx context.Context) {
	for ctx.Err() == nil {
		k.pass(ctx)
		wait := time.NewTimer(k.due())
		select {
		case <-k.c.wake:
		case <-wait.C:
		case <-ctx.Done():
		}
		wait.Stop()
	}
}

// due is how long the keeper may sleep.
func (k *keeper) due() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	wait := k.c.cfg.timing.retryMax
	for _, a := range k.failed {
		wait = min(wait, time.Until(a.next))
	}
	if len(k.seen) > 0 {
		wait = min(wait, k.c.cfg.timing.grace/4)
	}
	return max(wait, k.c.cfg.timing.retryMin/8)
}

func (k *keeper) pass(ctx context.Context) {
	begun := time.Now()
	if err := k.tendExtras(ctx); err != nil && ctx.Err() == nil {
		k.c.log.DebugContext(ctx, "not all copies of nodes that leave could be fetched", "error", err)
	}
	own := missingKeys(k.c.cfg.Self)
	err := k.each(ctx, own, func(root cid.Cid) error { return k.tend(ctx, root, false) })
	if err != nil && ctx.Err() == nil {
		k.c.log.DebugContext(ctx, "not all missing copies could be fetched", "error", err)
	}
	if err := k.fillRows(ctx); err != nil && ctx.Err() == nil {
		k.c.log.DebugContext(ctx, "not all incoming rows could be filled", "error", err)
	}
	k.forget(begun)
}

// forget drops what was due when a pass began and is due still: no list has it any more, because
// its row went to another node, say. Where the pass was cut short, forgetting is safe.
func (k *keeper) forget(begun time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.failed, func(_ cid.Cid, a *attempt) bool { return a.next.Before(begun) })
	maps.DeleteFunc(k.seen, func(_ cid.Cid, first time.Time) bool {
		return first.Add(k.c.cfg.timing.grace).Before(begun)
	})
}

// each calls fn for the roots listed under prefix, several at a time, and joins up to a page of errors.
func (k *keeper) each(ctx context.Context, prefix []byte, fn func(cid.Cid) error) error {
	var mu sync.Mutex
	var errs []error
	from := prefix
	for from != nil && ctx.Err() == nil {
		var roots []cid.Cid
		err := k.c.led.View(func(tx scanner) error {
			roots, from = page(tx.Scan(from, replication.PrefixEnd(prefix)), len(prefix))
			return nil
		})
		if err != nil {
			return err
		}
		work := make(chan cid.Cid)
		var wg sync.WaitGroup
		for range min(keeperParallel, len(roots)) {
			wg.Go(func() {
				for root := range work {
					if err := fn(root); err != nil {
						mu.Lock()
						if len(errs) < keeperPage {
							errs = append(errs, err)
						}
						mu.Unlock()
					}
				}
			})
		}
		for _, root := range roots {
			work <- root
		}
		close(work)
		wg.Wait()
	}
	return errors.Join(append(errs, context.Cause(ctx))...)
}

// page reads one page of keys that end in a root, and where the next begins; nil at the end.
func page(scan iter.Seq2[[]byte, []byte], prefix int) (roots []cid.Cid, next []byte) {
	for key := range scan {
		if len(roots) == keeperPage {
			return roots, bytes.Clone(key)
		}
		if root, err := cid.Cast(bytes.Clone(key[prefix:])); err == nil {
			roots = append(roots, root)
		}
	}
	return roots, nil
}

var errLater = errors.New("not due yet")

// tend has one root healed if it is due, and remembers how it went.
func (k *keeper) tend(ctx context.Context, root cid.Cid, whole bool) error {
	if k.postponed(root) {
		return fmt.Errorf("root %s: %w", root, errLater)
	}
	err := k.heal(ctx, root, whole)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.seen, root)
	a := k.failed[root]
	switch {
	case err == nil:
		delete(k.failed, root)
		return nil
	case a == nil && len(k.failed) >= keeperFailed:
		return err
	case a == nil:
		a = &attempt{}
		k.failed[root] = a
		k.c.log.InfoContext(ctx, "copy is missing here and cannot be had yet", "root", root, "error", err)
	}
	a.pause = min(max(2*a.pause, k.c.cfg.timing.retryMin), k.c.cfg.timing.retryMax)
	a.next = time.Now().Add(a.pause)
	return err
}

// postponed says whether a root is to be left alone: it failed lately, or is likely arriving by a
// push that is under way.
func (k *keeper) postponed(root cid.Cid) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if k.c.acked.has(root) {
		return false
	}
	if a := k.failed[root]; a != nil {
		return now.Before(a.next)
	}
	first, seen := k.seen[root]
	if !seen {
		if k.c.pushes.Load() == 0 || len(k.seen) >= keeperFailed {
			return false
		}
		k.seen[root] = now
		return true
	}
	return k.c.pushes.Load() > 0 && now.Sub(first) < k.c.cfg.timing.grace
}

// heal makes this node hold root, and the ledger know it. With whole it is for a row in which the
// node is Incoming: then a root that does not list it as missing needs no word.
func (k *keeper) heal(ctx context.Context, root cid.Cid, whole bool) error {
	var was standing
	err := k.c.led.View(func(tx scanner) (err error) {
		was, err = k.stands(tx, root)
		return err
	})
	if err != nil || was.leaving {
		return err // it stays listed: the seat may end, or be given back
	}
	// What was made durable before the last two epochs may have gone before the root was wanted here;
	// from now on Live names it.
	since, acked := k.c.acked.since(root)
	fetched := false
	if was.wanted && (!acked || lapsed(since, was.epoch)) {
		if fetched, err = k.fetch(ctx, root); err != nil {
			return fmt.Errorf("copy root %s: %w", root, err)
		}
		since = was.epoch
		k.c.acked.add(root, since)
		k.c.tell(root)
	}
	if whole && !was.listed {
		return nil
	}
	err = k.c.led.Update(ctx, func(tx ledgerTx) error {
		// Since it was looked at the root may have been recorded anew, or come to be wanted, or not to be
		// for so long that it was collected: then it stays on the list.
		now, err := k.stands(tx, root)
		if err != nil {
			return err
		}
		if now.leaving || now.wanted && now.listed && (!was.wanted || lapsed(since, now.epoch)) {
			return errLater
		}
		tx.Delete(missingKey(k.c.cfg.Self, root))
		if !was.wanted { // whoever wants it here again makes the row Incoming
			return nil
		}
		return found(tx, k.c.cfg.Self, root)
	})
	if err != nil {
		return fmt.Errorf("root %s, to be settled: %w", root, err)
	}
	if was.wanted && acked { // it became durable behind its upload's back
		k.c.tell(root)
	}
	k.c.log.InfoContext(ctx, "a copy that was missing is settled", "root", root, "wanted", was.wanted, "fetched", fetched)
	return nil
}

// A standing is what the ledger says of a root and this node.
type standing struct {
	wanted  bool   // it should be here
	leaving bool   // it should not, but the seat has not ended
	listed  bool   // as missing
	epoch   uint32 // this node's, of collection
}

func (k *keeper) stands(tx Reader, root cid.Cid) (s standing, err error) {
	if s.epoch, err = epochOf(tx, k.c.cfg.Self); err != nil {
		return s, err
	}
	rec, err := getRecord(tx, root)
	if errors.Is(err, ErrNotRecorded) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	row, _, err := k.c.tables.row(tx, rec.Partition)
	if err != nil {
		return s, err
	}
	seat, ok := seatOf(row, k.c.cfg.Self)
	s.wanted, s.leaving = ok && seat.wanted(), ok && !seat.wanted()
	s.listed = rec.misses(k.c.cfg.Self)
	return s, nil
}

// found takes a node off a root's missing list.
func found(tx ReadWriter, self peer.ID, root cid.Cid) error {
	rec, err := getRecord(tx, root)
	if errors.Is(err, ErrNotRecorded) {
		return nil
	}
	if err != nil {
		return err
	}
	if !rec.found(self) {
		return nil
	}
	return putRecord(tx, root, rec)
}

// maxDepth bounds the manifests above a block; ours have two.
const maxDepth = 8

// fetch makes every block under root durable here as a copy. Blocks that are here already, as cache
// or garbage perhaps, go through the batch like the others: it is the batch that makes them stay.
func (k *keeper) fetch(ctx context.Context, root cid.Cid) (fetched bool, err error) {
	f := &fetching{k: k, root: root, batch: k.c.cfg.NewBatch(false)}
	defer func() { f.batch.Abort() }()
	if err := f.take(ctx, []cid.Cid{root}, 0); err != nil {
		return f.fetched, err
	}
	return f.fetched, f.batch.Commit(ctx)
}

// A fetching is one call of fetch.
type fetching struct {
	k       *keeper
	root    cid.Cid
	batch   Batch
	added   int
	fetched bool // something was not here
}

// take makes blocks and all below them part of the batch, one manifest after the other: what it
// remembers is the links of one manifest of each level.
func (f *fetching) take(ctx context.Context, want []cid.Cid, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("more than %d manifests above a block", maxDepth)
	}
	for want = unique(want); len(want) > 0; {
		n := 1
		for n < len(want) && isLeaf(want[n-1]) && isLeaf(want[n]) {
			n++
		}
		for b, err := range f.k.c.blocks(ctx, f.root, want[:n], forKeeper) {
			if err != nil {
				return err
			}
			if err := f.add(ctx, b); err != nil {
				return err
			}
			links, err := f.k.links(b)
			if err != nil {
				return err
			}
			if err := f.take(ctx, links, depth+1); err != nil {
				return err
			}
		}
		want = want[n:]
	}
	return nil
}

// isLeaf says whether a block is known to have no links by its name alone.
func isLeaf(id cid.Cid) bool { return id.Prefix().Codec == cid.Raw }

func (f *fetching) add(ctx context.Context, b blocks.Block) error {
	f.fetched = f.fetched || !f.k.c.cfg.Disk.Has(b.Cid())
	if err := f.batch.Add(ctx, b); err != nil {
		return err
	}
	if f.added++; f.added%keeperCommit > 0 {
		return nil
	}
	if err := f.batch.Commit(ctx); err != nil {
		return err
	}
	f.batch = f.k.c.cfg.NewBatch(false)
	return nil
}

func (k *keeper) links(b blocks.Block) ([]cid.Cid, error) {
	links, err := k.c.cfg.Links(b)
	if err != nil {
		return nil, fmt.Errorf("links of %s: %w", b.Cid(), err)
	}
	return links, nil
}

// unique drops repetitions and keeps the order.
func unique(ids []cid.Cid) []cid.Cid {
	seen := make(map[cid.Cid]bool, len(ids))
	return slices.DeleteFunc(ids, func(id cid.Cid) bool {
		again := seen[id]
		seen[id] = true
		return again
	})
}
