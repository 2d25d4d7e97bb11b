package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ipfs/go-cid"
)

// erase overwrites condemned blocks where they lie, and deletes their entries. That they are condemned
// is made durable first: whenever this is cut short, a collection takes it up again, and nobody counts
// on bytes that are gone. In their place stands a filler, so that the pack stays a CAR.
func (s *Store) erase(dead []entry) error {
	if len(dead) == 0 {
		return nil
	}
	if err := s.index.writeAlive(true, func(b *pebble.Batch) error { return b.LogData(nil, nil) }); err != nil {
		return fmt.Errorf("erase: %w", err)
	}
	byPack := make(map[uint64][]entry)
	for _, e := range dead {
		byPack[e.pack] = append(byPack[e.pack], e)
	}
	for id, entries := range byPack {
		if err := s.overwrite(id, entries); err != nil {
			return fmt.Errorf("erase blocks in pack %s: %w", packName(id), err)
		}
	}
	return s.deleteEntries(Kept, dead, true)
}

// overwrite puts a filler in the place of each block, durably.
func (s *Store) overwrite(id uint64, entries []entry) error {
	f, err := s.fs.OpenReadWrite(s.fs.PathJoin(s.dir, packDir(Kept), packName(id)), diskWrites)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		zeros := getBuffer(e.length)
		clear(zeros)
		name := cidOf(cid.Raw, sha256.Sum256(zeros)).Bytes() // as long as every other
		_, err = f.WriteAt(zeros, e.offset)
		putBuffer(zeros)
		if err == nil {
			_, err = f.WriteAt(name, e.offset-int64(len(name)))
		}
		if err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(f.SyncData(), f.Close())
}

// Damaged notes that a block's bytes here are not the right ones: it is no hit any more, and not held
// (Has), so that adding it writes it anew.
func (s *Store) Damaged(ctx context.Context, c cid.Cid) error {
	d, err := digestOf(c)
	if err != nil {
		return fmt.Errorf("block %s: %w", c, err)
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.placing.Lock()
	defer s.placing.Unlock()
	p, ok, err := s.index.find(Kept, d)
	if err != nil || !ok {
		return err
	}
	p.flags |= condemned
	return s.index.writeAlive(true, func(b *pebble.Batch) error { return putPlace(b, Kept, d, p) })
}
