package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// Block returns a block, kept or cached, verified against its CID (T7); blocks not committed yet
// are found too. It returns ErrNotFound when there is none and ErrCorrupt when the disk gave other
// bytes. Verifying costs a SHA-256 of the block, about 0.6 ms a MiB.
func (s *Store) Block(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	d, data, err := s.read(ctx, c, func(n int) []byte { return make([]byte, n) })
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(data) != d {
		s.log.ErrorContext(ctx, "block on disk is corrupt", "cid", c)
		return nil, fmt.Errorf("block %s: %w", c, ErrCorrupt)
	}
	return blocks.NewBlockWithCid(data, c)
}

// Blocks yields the blocks of want in order, kept or cached, until one cannot be read. They are NOT
// checked against their CIDs: it is meant for a File, whose decryption authenticates them, and
// saves it the hashing. A block handed to a peer comes from Block. The blocks yielded are Scratch.
func (s *Store) Blocks(ctx context.Context, want []cid.Cid) iter.Seq2[blocks.Block, error] {
	return func(yield func(blocks.Block, error) bool) {
		for _, c := range want {
			_, data, err := s.read(ctx, c, getBuffer)
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(&scratchBlock{cid: c, data: data}, nil) {
				return
			}
		}
	}
}

var _ Source = (*Store)(nil)

// read finds a block and reads its bytes into memory from buffer, without checking them.
func (s *Store) read(ctx context.Context, c cid.Cid, buffer func(int) []byte) (digest, []byte, error) {
	d, err := digestOf(c)
	if err != nil {
		return d, nil, fmt.Errorf("block %s: %w", c, err)
	}
	if err := context.Cause(ctx); err != nil {
		return d, nil, fmt.Errorf("block %s: %w", c, err)
	}
	if err := s.enter(); err != nil {
		return d, nil, err
	}
	defer s.leave()
	p, f, err := s.openAt(d)
	if err != nil && !errors.Is(err, errOpenPack) {
		return d, nil, fmt.Errorf("block %s: %w", c, err)
	}
	if err != nil {
		s.log.ErrorContext(ctx, "pack cannot be opened", "cid", c, "pack", packName(p.pack), "error", err)
		return d, nil, fmt.Errorf("block %s: %w: %w", c, ErrCorrupt, err)
	}
	defer s.files.release(f)
	data := buffer(p.length)
	if n, err := f.ReadAt(data, p.offset); n < len(data) {
		s.log.ErrorContext(ctx, "block on disk cannot be read", "cid", c, "pack", packName(p.pack), "error", err)
		return d, nil, fmt.Errorf("block %s: %w: %w", c, ErrCorrupt, err)
	}
	return d, data, nil
}

var errOpenPack = errors.New("open pack")

// openAt finds a block and opens its pack, which is to be given back.
func (s *Store) openAt(d digest) (place, *packFile, error) {
	var last place
	for {
		k, p, err := s.locate(d)
		if err != nil {
			return place{}, nil, err
		}
		if p.length > MaxBlock {
			return p, nil, fmt.Errorf("%w: index says %d bytes", ErrCorrupt, p.length)
		}
		f, err := s.files.acquire(k, p.pack)
		if err == nil {
			return p, f, nil
		}
		if p == last { // it was not moved: the pack should be there
			return p, nil, fmt.Errorf("%w: %w", errOpenPack, err)
		}
		last = p
	}
}

// locate finds a block, kept before cached, durable or not. What waits is asked first: a round puts
// blocks into the index before it takes them from there.
func (s *Store) locate(d digest) (Kind, place, error) {
	for _, k := range []Kind{Kept, Cached} {
		s.mu.Lock()
		blk, ok := s.pending[k][d]
		s.mu.Unlock()
		if ok {
			return k, blk.place, nil
		}
		if p, ok, err := s.index.find(k, d); ok || err != nil {
			return k, p, err
		}
	}
	return 0, place{}, ErrNotFound
}

// A Scratch is a block whose bytes belong to whoever received it: they may be overwritten, and
// Release gives the memory back. Not releasing it is allowed.
type Scratch interface {
	blocks.Block
	Release()
}

type scratchBlock struct {
	cid  cid.Cid
	data []byte
}

func (b *scratchBlock) RawData() []byte          { return b.data }
func (b *scratchBlock) Cid() cid.Cid             { return b.cid }
func (b *scratchBlock) String() string           { return "[Block " + b.cid.String() + "]" }
func (b *scratchBlock) Loggable() map[string]any { return map[string]any{"block": b.cid.String()} }

func (b *scratchBlock) Release() {
	if b.data != nil {
		putBuffer(b.data)
		b.data = nil
	}
}
