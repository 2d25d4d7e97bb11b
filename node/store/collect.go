package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ipfs/go-cid"
)

// A Collection says what Collect may free.
type Collection struct {
	// Before is the first epoch whose blocks stay whether they are live or not: whoever added them may
	// still be about to refer to them (T6). So do those added since the oldest open batch began.
	Before uint32
	// Live calls keep for every block that something refers to. It may be called several times. After
	// an error nothing more is condemned.
	Live func(ctx context.Context, keep func(cid.Cid)) error
	// Erase is for deletion that is to be proven: everything that is not live goes, and its bytes are
	// overwritten at once. Otherwise one block in three hundred may be taken for live by mistake, and the
	// bytes of the others stay until their pack is rewritten, when less than half of it is live.
	Erase bool
}

// Collected is what one Collect did.
type Collected struct {
	Before    uint32 // Collection.Before, or the epoch of the oldest open batch if that is earlier
	Condemned int    // blocks that nothing refers to
	Bytes     int64  // theirs
	Packs     int    // that were given back to the disk
	Freed     int64  // bytes of those, less what had to be moved
}

// markMemory bounds what a collection remembers of live blocks, in bytes; more blocks than fit are
// collected in several passes. Where it has to be exact it may use eight times as much.
const markMemory = 8 << 20

// A marker remembers the digests of live blocks.
type marker interface {
	add(digest)
	has(digest) bool
}

// exactly is a marker that makes no mistakes.
type exactly map[digest]struct{}

func (m exactly) add(d digest)      { m[d] = struct{}{} }
func (m exactly) has(d digest) bool { _, ok := m[d]; return ok }

// exactBits is about what a map needs for a digest.
const exactBits = 8 * 64

// Collect frees kept blocks that are not live and were added before an epoch (T6). It goes on beside
// everything else; one Collect, Erase or EvictCache runs at a time. After an error, what was condemned
// is garbage all the same, and trying again is safe.
func (s *Store) Collect(ctx context.Context, c Collection) (Collected, error) {
	if err := s.enter(); err != nil {
		return Collected{}, err
	}
	defer s.leave()
	s.collecting.Lock()
	defer s.collecting.Unlock()
	r := collector{store: s, Collection: c, live: make(map[uint64]int64)}
	r.Before = s.protected(c.Before)
	r.done.Before = r.Before
	if err := r.run(ctx); err != nil {
		return r.done, fmt.Errorf("collect: %w", err)
	}
	return r.done, nil
}

// protected is the first epoch that stays because somebody is adding blocks. Batches that begin later
// begin in the present epoch or a later one.
func (s *Store) protected(before uint32) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, epoch := range s.batches {
		before = min(before, epoch)
	}
	return before
}

// A collector is one Collect.
type collector struct {
	store *Store
	Collection
	memory int              // of a marker, in bytes; zero is markMemory
	live   map[uint64]int64 // bytes that stay, by pack
	done   Collected
}

func (r *collector) run(ctx context.Context) error {
	total, err := r.count(ctx)
	if err != nil || total == 0 {
		return err
	}
	if r.memory == 0 {
		r.memory = markMemory
	}
	bits, memory := filterBits, r.memory
	if r.Erase {
		bits, memory = exactBits, 8*r.memory
	}
	passes := total*bits/8/memory + 1
	for i := range passes {
		part := span{from: uint64(i), of: uint64(passes)}
		var live marker = make(exactly)
		if !r.Erase {
			live = newFilter(min(total/passes+total/8+64, math.MaxInt32))
		}
		if err := r.pass(ctx, part, live); err != nil {
			return err
		}
	}
	return r.repackAll(ctx)
}

// A span is one of several equal parts of all digests.
type span struct{ from, of uint64 }

func (p span) has(d digest) bool {
	return uint64(binary.BigEndian.Uint32(d[:]))*p.of>>32 == p.from
}

// first is the first digest of the span.
func (p span) first() (d digest) {
	binary.BigEndian.PutUint32(d[:], uint32((p.from<<32+p.of-1)/p.of))
	return d
}

func (r *collector) count(ctx context.Context) (n int, err error) {
	err = r.each(ctx, digest{}, func(page []entry) (bool, error) {
		n += len(page)
		return true, nil
	})
	return n, err
}

// indexPage is how many entries of the index are read, or changed, at a time.
const indexPage = 1024

// each goes over the kept blocks in pages until fn says false.
func (r *collector) each(ctx context.Context, from digest, fn func([]entry) (bool, error)) error {
	for done := false; !done; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		var page []entry
		var err error
		if page, from, done, err = r.store.index.page(Kept, from, indexPage); err != nil {
			return err
		}
		if more, err := fn(page); err != nil || !more {
			return err
		}
	}
	return nil
}

// pass marks and sweeps one span.
func (r *collector) pass(ctx context.Context, part span, live marker) error {
	err := r.Live(ctx, func(c cid.Cid) {
		if d, err := digestOf(c); err == nil && part.has(d) {
			live.add(d)
		}
	})
	if err != nil {
		return fmt.Errorf("find what is live: %w", err)
	}
	return r.each(ctx, part.first(), func(page []entry) (bool, error) {
		var dead []entry
		for _, e := range page {
			switch {
			case !part.has(e.digest):
				page = nil // the span is over
			case e.flags&condemned != 0: // of an earlier collection
				if r.Erase {
					dead = append(dead, e)
				}
			case e.epoch >= r.Before || live.has(e.digest):
				r.live[e.pack] += int64(e.length)
			default:
				dead = append(dead, e)
			}
			if page == nil {
				break
			}
		}
		dead, err := r.store.condemn(dead, r.Before)
		for _, e := range dead {
			r.done.Condemned++
			r.done.Bytes += int64(e.length)
		}
		if err == nil && r.Erase {
			err = r.store.erase(dead)
		}
		return page != nil, err
	})
}

// condemn marks blocks so that they are never hits again, but for those that were met since. It
// returns the ones it marked, or found marked, as they lie now.
func (s *Store) condemn(dead []entry, before uint32) ([]entry, error) {
	if len(dead) == 0 {
		return nil, nil
	}
	s.placing.Lock()
	defer s.placing.Unlock()
	dead = s.doom(dead)
	defer s.pardon()
	// From here on nobody meets them. Who met one before is waiting for a round, or that round has
	// written the epoch.
	var done []entry
	for _, e := range dead {
		p, ok, err := s.index.find(Kept, e.digest)
		if err != nil {
			return nil, err
		}
		if ok && (p.epoch < before || p.flags&condemned != 0) {
			p.flags |= condemned
			done = append(done, entry{e.digest, p})
		}
	}
	return done, s.index.writeAlive(false, func(b *pebble.Batch) error { return putEntries(b, Kept, done) })
}

func putEntries(b *pebble.Batch, k Kind, entries []entry) error {
	for _, e := range entries {
		if err := putPlace(b, k, e.digest, e.place); err != nil {
			return err
		}
	}
	return nil
}

// doom keeps blocks from being met, but for those that wait for a round. It returns the others.
func (s *Store) doom(entries []entry) (doomed []entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		_, waits := s.pending[Kept][e.digest]
		_, again := s.touched[e.digest]
		if !waits && !again {
			s.doomed[e.digest] = true
			doomed = append(doomed, e)
		}
	}
	return doomed
}

func (s *Store) pardon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.doomed)
}
