package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	blocks "github.com/ipfs/go-block-format"
)

// repackAll rewrites the packs of which less than half stays, and deletes those of which nothing does.
func (r *collector) repackAll(ctx context.Context) error {
	s := r.store
	packs, err := s.closedPacks(Kept)
	if err != nil {
		return err
	}
	for _, p := range packs {
		if r.live[p.id] > p.size/2 {
			continue
		}
		freed, err := s.dropPack(ctx, Kept, p.id)
		switch {
		case errors.Is(err, ErrCorrupt): // left for a scrub to heal
			s.log.WarnContext(ctx, "pack cannot be rewritten", "pack", packName(p.id), "error", err)
			continue
		case err != nil:
			return fmt.Errorf("rewrite pack %s: %w", packName(p.id), err)
		}
		r.done.Packs++
		r.done.Freed += freed
	}
	return nil
}

type packInfo struct {
	id   uint64
	size int64
}

// closedPacks lists the packs that nobody appends to, oldest first.
func (s *Store) closedPacks(k Kind) (packs []packInfo, err error) {
	s.appending[k].Lock()
	active := s.active[k]
	s.appending[k].Unlock()
	dir := s.fs.PathJoin(s.dir, packDir(k))
	names, err := s.fs.List(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		id, ok := packID(name)
		if !ok || active != nil && id >= active.id {
			continue
		}
		info, err := s.fs.Stat(s.fs.PathJoin(dir, name))
		if err != nil {
			return nil, err
		}
		packs = append(packs, packInfo{id, info.Size()})
	}
	return packs, nil
}

// dropPack deletes a pack after moving what is live in it, which for cached blocks is nothing. The
// order is: what is moved durable in its new pack; the index that points there synced; then the file
// goes. Whenever that is cut short, the blocks are in one of the two, and the next collection goes on.
func (s *Store) dropPack(ctx context.Context, k Kind, id uint64) (freed int64, err error) {
	if s.waits(k, id) {
		return 0, nil // a round of it is still to come
	}
	record, ok, err := s.index.pack(k, id)
	if err != nil || !ok {
		return 0, err
	}
	m := mover{store: s, kind: k, id: id, batch: s.NewBatch(k)}
	defer m.batch.Abort()
	if err := m.walk(ctx, record.indexed); err != nil {
		return 0, err
	}
	if err := m.batch.commit(ctx); err != nil {
		return 0, err
	}
	if err := m.forget(); err != nil {
		return 0, err
	}
	record.flags |= retired
	err = s.index.writeAlive(true, func(b *pebble.Batch) error { return putPack(b, k, id, record) })
	if err != nil {
		return 0, err
	}
	s.files.drop(k, id)
	return max(0, m.size-m.moved), s.deletePack(k, id)
}

// waits tells whether a pack has blocks that are not in the index yet.
func (s *Store) waits(k Kind, id uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, blk := range s.pending[k] {
		if blk.pack.id == id {
			return true
		}
	}
	return false
}

// deletePack removes the file of a pack that nothing points into, then its record.
func (s *Store) deletePack(k Kind, id uint64) error {
	dir := s.fs.PathJoin(s.dir, packDir(k))
	if err := s.fs.Remove(s.fs.PathJoin(dir, packName(id))); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := s.syncDir(dir); err != nil {
		return err
	}
	return s.index.writeAlive(false, func(b *pebble.Batch) error { return b.Delete(packKey(k, id), nil) })
}

// A mover walks through a pack that is to go.
type mover struct {
	store *Store
	kind  Kind
	id    uint64
	batch *Batch
	gone  []entry // entries to be deleted, up to a page of them
	size  int64
	moved int64
}

func (m *mover) walk(ctx context.Context, end int64) error {
	f, err := m.store.files.acquire(m.kind, m.id)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer m.store.files.release(f)
	m.size = end
	for at := int64(len(packHeader(m.kind))); at < end; {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		head := make([]byte, binary.MaxVarintLen32+cidLength)
		n, err := f.ReadAt(head, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		length, headLength, c := parseSection(head[:n])
		if headLength == 0 {
			return fmt.Errorf("%w: no section at offset %d", ErrCorrupt, at)
		}
		d, err := digestOf(c)
		if err != nil {
			return fmt.Errorf("%w: section at offset %d: %w", ErrCorrupt, at, err)
		}
		e := entry{d, place{pack: m.id, offset: at + int64(headLength), length: length}}
		read := func() (blocks.Block, error) {
			data := make([]byte, length)
			if n, err := f.ReadAt(data, e.offset); n < length {
				return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
			}
			if sha256.Sum256(data) != d {
				return nil, fmt.Errorf("block %s: %w", c, ErrCorrupt)
			}
			return blocks.NewBlockWithCid(data, c)
		}
		if err := m.section(ctx, e, read); err != nil {
			return err
		}
		at = e.offset + int64(length)
	}
	return nil
}

// section moves one block, if it lies here and is live, or notes that its entry goes.
func (m *mover) section(ctx context.Context, e entry, read func() (blocks.Block, error)) error {
	s := m.store
	p, ok, err := s.index.find(m.kind, e.digest)
	if err != nil {
		return err
	}
	if !ok || p.pack != m.id || p.offset != e.offset {
		return nil // another section has it
	}
	if m.kind == Kept && p.flags&condemned == 0 {
		blk, err := read()
		if err != nil {
			return err
		}
		m.moved += int64(p.length)
		return m.batch.move(ctx, blk, e.digest, p)
	}
	m.gone = append(m.gone, entry{e.digest, p})
	if len(m.gone) == indexPage {
		return m.forget()
	}
	return nil
}

// forget deletes entries that still say what they said: a block may have been added again.
func (m *mover) forget() error {
	s, gone := m.store, m.gone
	m.gone = nil
	return s.deleteEntries(m.kind, gone, false)
}

func (s *Store) deleteEntries(k Kind, gone []entry, sync bool) error {
	if len(gone) == 0 {
		return nil
	}
	s.placing.Lock()
	defer s.placing.Unlock()
	return s.index.writeAlive(sync, func(b *pebble.Batch) error {
		for _, e := range gone {
			p, ok, err := s.index.find(k, e.digest)
			if err != nil {
				return err
			}
			if ok && p.pack == e.pack && p.offset == e.offset {
				if err := b.Delete(blockKey(k, e.digest), nil); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// move appends a block that lies elsewhere already. It may use the reserve, which is there for this.
func (b *Batch) move(ctx context.Context, blk blocks.Block, d digest, from place) error {
	s := b.store
	if err := s.throttle(ctx); err != nil {
		return err
	}
	s.appending[b.kind].Lock()
	defer s.appending[b.kind].Unlock()
	p, end, err := s.appendBlock(b.kind, blk, d, &from)
	if err != nil {
		return err
	}
	b.needs[p] = max(b.needs[p], end)
	return nil
}

// EvictCache deletes cached packs, oldest first, until the others have at most so many bytes. What is
// being read may have to be fetched again.
func (s *Store) EvictCache(ctx context.Context, most int64) (freed int64, err error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.leave()
	s.collecting.Lock()
	defer s.collecting.Unlock()
	s.retireActive(Cached, most)
	packs, err := s.closedPacks(Cached)
	if err != nil {
		return 0, fmt.Errorf("evict cache: %w", err)
	}
	var total int64
	for _, p := range packs {
		total += p.size
	}
	for _, p := range packs {
		if total <= most {
			break
		}
		n, err := s.dropPack(ctx, Cached, p.id)
		if err != nil {
			return freed, fmt.Errorf("evict cached pack %s: %w", packName(p.id), err)
		}
		freed += n
		total -= p.size
	}
	return freed, nil
}

// retireActive lets nothing more into the active pack of a kind when it alone is larger than that.
func (s *Store) retireActive(k Kind, most int64) {
	s.appending[k].Lock()
	defer s.appending[k].Unlock()
	p := s.active[k]
	if p == nil {
		return
	}
	s.mu.Lock()
	over := p.written > most && p.written == p.durable
	if over {
		p.over = true
		p.closeSync()
	}
	s.mu.Unlock()
	if over {
		s.active[k] = nil
		p.w.Close()
	}
}
