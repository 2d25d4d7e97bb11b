package store

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/cockroachdb/pebble/v2"
	blocks "github.com/ipfs/go-block-format"
)

// appendBlock writes a block to the active pack of its kind and makes it findable. Where it was moved
// from elsewhere, it keeps its epoch. The caller holds appending of that kind.
func (s *Store) appendBlock(k Kind, blk blocks.Block, d digest, from *place) (*pack, int64, error) {
	data := blk.RawData()
	p, at, err := s.packFor(k, len(data))
	if err != nil {
		return nil, 0, spaceError(fmt.Errorf("new pack: %w", err))
	}
	offset, end, err := p.append(blk.Cid(), data, at)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		err = spaceError(fmt.Errorf("write pack %s: %w", packName(p.id), err))
		if !errors.Is(err, ErrNoSpace) {
			p.over = true // a full disk gets room again; a broken one is not trusted further
			s.log.Error("pack cannot be written and is closed", "pack", packName(p.id), "error", err)
		}
		return nil, 0, err
	}
	if p.err != nil { // a sync failed meanwhile
		return nil, 0, p.err
	}
	w := written{digest: d, place: place{pack: p.id, offset: offset, length: len(data), epoch: s.epoch}}
	if from != nil {
		w.place.epoch = from.epoch
	}
	p.written = end
	p.unindexed = append(p.unindexed, w)
	if !p.dirty {
		p.dirty = true
		s.dirty = append(s.dirty, p)
	}
	s.pending[k][d] = &pendingBlock{pack: p, place: w.place, end: end}
	s.unsynced += w.weight()
	if s.unsynced >= syncEvery {
		s.askRound()
	}
	return p, end, nil
}

// packFor returns the pack to append to and the offset, beginning a new one where the last is full
// or broken.
func (s *Store) packFor(k Kind, length int) (*pack, int64, error) {
	if p := s.active[k]; p != nil {
		s.mu.Lock()
		if p.written+int64(length) > s.packSize && p.written > int64(len(packHeader(k))) {
			p.over = true
		}
		at, over := p.written, p.over
		if over && p.written == p.durable { // no round has it, and none will
			p.closeSync()
		}
		s.mu.Unlock()
		if !over {
			return p, at, nil
		}
		s.active[k] = nil
		p.w.Close()
	}
	s.mu.Lock()
	id := s.nextPack
	s.nextPack++
	s.mu.Unlock()
	p, err := createPack(s.fs, s.dir, k, id)
	if err != nil {
		return nil, 0, err
	}
	s.active[k] = p
	return p, p.written, nil
}

// throttle waits while too much is unsynced.
func (s *Store) throttle(ctx context.Context) error {
	for {
		s.mu.Lock()
		full, wait := s.unsynced >= maxUnsynced, s.rounded
		s.mu.Unlock()
		if !full {
			return context.Cause(ctx)
		}
		s.askRound()
		select {
		case <-wait:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.index.dead:
			return s.index.reason
		}
	}
}

// askRound wakes the committer; a round that begins after the call covers what was written before it.
func (s *Store) askRound() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// commitLoop runs rounds until Close, and a last one for what nobody committed. Between rounds it
// makes the index durable, where they left that open, no later than indexWithin.
func (s *Store) commitLoop() {
	defer close(s.done)
	due := time.NewTimer(0)
	<-due.C
	defer due.Stop()
	for {
		select {
		case _, open := <-s.kick:
			durable := s.lag == 0
			s.round()
			if !open {
				s.syncIndex()
				return
			}
			if durable && s.lag > 0 {
				due.Reset(indexWithin)
			}
		case <-due.C:
			s.syncIndex()
		}
	}
}

// syncIndex makes durable what rounds left in the index. An index that cannot is dead, and says so
// itself.
func (s *Store) syncIndex() {
	if s.lag == 0 {
		return
	}
	if err := s.index.sync(); err != nil {
		s.log.Error("block index cannot be synced", "error", err)
		return
	}
	s.lag = 0
}

// taken is what one round makes durable of one pack.
type taken struct {
	pack   *pack
	upto   int64
	blocks []written
	err    error
}

// round makes everything written so far durable, for all who wait (T4): the packs are synced, new
// ones' directory too; then one index batch names the blocks and how far each pack is indexed; then
// those who wait are told. The batch itself is synced only now and then: what a power cut takes from
// the index is found again in the packs, from where it says they are indexed to.
func (s *Store) round() {
	s.mu.Lock()
	var took []taken
	for _, p := range s.dirty {
		took = append(took, taken{pack: p, upto: p.written, blocks: p.unindexed})
		p.unindexed, p.dirty = nil, false
	}
	s.dirty = nil
	touched, epoch, turn := maps.Clone(s.touched), s.epoch, s.turn
	if len(touched) > 0 {
		s.turn++
	}
	s.mu.Unlock()
	if len(took) == 0 && len(touched) == 0 {
		return
	}
	for i := range took {
		took[i].err = s.syncPack(took[i].pack)
	}
	err := s.writeRound(took, touched, epoch)

	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range took {
		if t.err == nil {
			t.err = err
		}
		if t.err != nil {
			s.failPack(t)
		} else {
			s.settlePack(t)
		}
	}
	if len(touched) > 0 {
		s.turnErr = err
	}
	if err == nil && len(touched) > 0 {
		s.turned = turn
		for d, t := range s.touched {
			if t <= turn {
				delete(s.touched, d)
			}
		}
	}
	close(s.rounded)
	s.rounded = make(chan struct{})
}

// writeRound notes in the index what was synced and what was met again. Its batch is synced when much
// is behind, and when it says what the packs do not: that one failed, or that a block was met again.
func (s *Store) writeRound(took []taken, touched map[digest]uint64, epoch uint32) error {
	s.placing.Lock()
	defer s.placing.Unlock()
	sync := len(touched) > 0
	for _, t := range took {
		sync = sync || t.err != nil
		for _, w := range t.blocks {
			s.lag += w.weight()
		}
	}
	sync = sync || s.lag >= indexEvery
	err := s.index.write(sync, func(b *pebble.Batch) error {
		if err := s.fillTouched(b, touched, epoch); err != nil {
			return err
		}
		return fillRound(b, took, touched, epoch)
	})
	if err != nil {
		return err
	}
	if sync {
		s.lag = 0
	}
	return nil
}

// syncPack makes a pack's bytes durable, and its name where it is new.
func (s *Store) syncPack(p *pack) error {
	if err := p.sync.SyncData(); err != nil {
		return spaceError(fmt.Errorf("sync pack %s: %w", packName(p.id), err))
	}
	if p.fresh { // only the committer reads and clears it once the pack is published
		if err := s.syncDir(s.fs.PathJoin(s.dir, packDir(p.kind))); err != nil {
			return spaceError(fmt.Errorf("sync folder of pack %s: %w", packName(p.id), err))
		}
		p.fresh = false
	}
	return nil
}

// fillTouched gives blocks that were met again the present epoch. None is condemned: hit and the
// collector see to that.
func (s *Store) fillTouched(b *pebble.Batch, touched map[digest]uint64, epoch uint32) error {
	for d := range touched {
		p, ok, err := s.index.find(Kept, d)
		if err != nil {
			return err
		}
		if !ok || p.epoch >= epoch {
			continue
		}
		p.epoch = epoch
		if err := putPlace(b, Kept, d, p); err != nil {
			return err
		}
	}
	return nil
}

// fillRound notes what was synced. Of a pack whose sync failed it notes that nothing more is to be
// looked for there: after a failed sync, what reads back may not be what the disk has.
func fillRound(b *pebble.Batch, took []taken, touched map[digest]uint64, epoch uint32) error {
	for _, t := range took {
		if t.err != nil {
			if err := putPack(b, t.pack.kind, t.pack.id, packRecord{flags: retired, indexed: t.pack.durable}); err != nil {
				return err
			}
			continue
		}
		for _, w := range t.blocks {
			if _, again := touched[w.digest]; again && t.pack.kind == Kept { // met again while it was moved
				w.place.epoch = epoch
			}
			if err := putPlace(b, t.pack.kind, w.digest, w.place); err != nil {
				return err
			}
		}
		if err := putPack(b, t.pack.kind, t.pack.id, packRecord{indexed: t.upto}); err != nil {
			return err
		}
	}
	return nil
}

// settlePack moves blocks from pending to durable. mu is held.
func (s *Store) settlePack(t taken) {
	p := t.pack
	p.durable = t.upto
	s.forget(p, t.blocks)
	if p.over && p.durable == p.written {
		p.closeSync()
	}
}

// failPack gives a pack up: all that is not durable in it fails. mu is held.
func (s *Store) failPack(t taken) {
	p := t.pack
	p.err, p.over = t.err, true
	s.forget(p, t.blocks)
	s.forget(p, p.unindexed)
	p.unindexed = nil
	if p.dirty {
		p.dirty = false
		for i, q := range s.dirty {
			if q == p {
				s.dirty = append(s.dirty[:i], s.dirty[i+1:]...)
				break
			}
		}
	}
	p.closeSync()
	s.log.Error("pack cannot be made durable and is closed", "pack", packName(p.id), "error", p.err)
}

// forget removes blocks from those that wait. mu is held.
func (s *Store) forget(p *pack, blocks []written) {
	for _, w := range blocks {
		delete(s.pending[p.kind], w.digest)
		s.unsynced -= w.weight()
	}
}
