package store

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/ipfs/go-cid"
)

// scrubPage is how many blocks are looked up, and noted as read, at a time.
const scrubPage = 64

// Scrub reads every kept block again, at most rate bytes a second (0: as fast as it can), and calls
// bad for each whose bytes are not those its name says (T7). The block is named as raw whatever it
// was: the index knows digests. Scrub goes on where an earlier one was cut off, and returns nil after
// the last block; an error of bad ends it.
func (s *Store) Scrub(ctx context.Context, rate int64, bad func(context.Context, cid.Cid) error) error {
	from, err := s.scrubbed()
	for done := false; err == nil && !done; {
		if from, done, err = s.scrubSome(ctx, from, rate, bad); err == nil {
			err = s.noteScrubbed(from, done)
		}
	}
	if err != nil {
		return fmt.Errorf("scrub: %w", err)
	}
	return nil
}

func (s *Store) scrubSome(ctx context.Context, from digest, rate int64, bad func(context.Context, cid.Cid) error) (digest, bool, error) {
	if err := s.enter(); err != nil {
		return from, false, err
	}
	page, next, done, err := s.index.page(Kept, from, scrubPage)
	s.leave()
	if err != nil {
		return from, false, err
	}
	for _, e := range page {
		if e.flags&condemned != 0 {
			continue
		}
		begun := time.Now()
		ok, err := s.sound(ctx, e.digest)
		if err != nil {
			return from, false, err
		}
		if !ok {
			c := cidOf(cid.Raw, e.digest)
			s.log.ErrorContext(ctx, "block on disk is corrupt", "cid", c, "pack", packName(e.pack))
			if err := bad(ctx, c); err != nil {
				return from, false, err
			}
		}
		if rate > 0 {
			rest(ctx, time.Duration(e.length)*time.Second/time.Duration(rate)-time.Since(begun))
		}
	}
	return next, done, context.Cause(ctx)
}

// sound tells whether a block reads back as its name says. One that went meanwhile is.
func (s *Store) sound(ctx context.Context, d digest) (bool, error) {
	if err := s.enter(); err != nil {
		return false, err
	}
	defer s.leave()
	p, ok, err := s.index.find(Kept, d)
	if err != nil || !ok || p.flags&condemned != 0 {
		return true, err
	}
	f, err := s.files.acquire(Kept, p.pack)
	if err != nil {
		again, ok, findErr := s.index.find(Kept, d)
		moved := findErr == nil && (!ok || again.pack != p.pack)
		return moved && os.IsNotExist(err), nil
	}
	defer s.files.release(f)
	data := getBuffer(p.length)
	defer putBuffer(data)
	n, _ := f.ReadAt(data, p.offset) // an error is a block that cannot be read
	if err := context.Cause(ctx); err != nil {
		return false, err
	}
	return n == len(data) && sha256.Sum256(data) == d, nil
}

// rest waits, or until ctx ends.
func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// scrubbed reads where the last scrub was cut off.
func (s *Store) scrubbed() (from digest, err error) {
	if err := s.enter(); err != nil {
		return from, err
	}
	defer s.leave()
	v, ok, err := s.index.get([]byte("s"))
	if ok && len(v) == len(from) {
		from = digest(v)
	}
	return from, err
}

func (s *Store) noteScrubbed(from digest, done bool) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	return s.index.writeAlive(false, func(b *pebble.Batch) error {
		if done {
			return b.Delete([]byte("s"), nil)
		}
		return b.Set([]byte("s"), from[:], nil)
	})
}
