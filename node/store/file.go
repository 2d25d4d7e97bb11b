package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A Source yields blocks.
type Source interface {
	// Blocks yields the blocks of want in the order asked. After an error it ends. It must stop
	// soon after ctx is done.
	Blocks(ctx context.Context, want []cid.Cid) iter.Seq2[blocks.Block, error]
}

// A Refetcher is a Source that can be asked for another copy of a block that turned out corrupt.
type Refetcher interface {
	// Refetch returns the block, verified against its CID, from somewhere else than Blocks did.
	Refetch(ctx context.Context, c cid.Cid) (blocks.Block, error)
}

// A File reads the content under one root. Read, Seek and WriteTo share one position and must not
// be called concurrently; ReadAt may, with them and itself. Close may be called at any time.
type File struct {
	src     Source
	outline *outline
	ctx     context.Context // the File's life, from OpenFile to Close
	cancel  context.CancelCauseFunc

	// seq guards the fields below, owned by Read, Seek and WriteTo, against Close.
	seq   sync.Mutex
	pos   int64
	ahead *ahead // nil until a read
	cur   plain  // the chunk at hand
	done  bool

	last lastChunk
}

// OpenFile fetches the manifest root from src and opens it with key. ctx bounds the whole life of
// the File: when it is done, reads fail. Close must be called. Errors name the chunk by its number
// in the file and its CID; ErrCorrupt means that bytes came which are not the chunk's.
func OpenFile(ctx context.Context, root cid.Cid, key [32]byte, src Source) (*File, error) {
	o, err := openOutline(ctx, root, key, src)
	if err != nil {
		return nil, fmt.Errorf("open file %s: %w", root, err)
	}
	f := &File{src: src, outline: o}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	return f, nil
}

func fetchManifest(ctx context.Context, root cid.Cid, key [32]byte, src Source) (*manifest, error) {
	if !root.Defined() || root.Type() != cid.DagCBOR {
		return nil, fmt.Errorf("%w: %w", ErrManifest, ErrUnsupported)
	}
	for blk, err := range src.Blocks(ctx, []cid.Cid{root}) {
		if err != nil {
			return nil, err
		}
		data := blk.RawData()
		if !nameOf(cid.DagCBOR, data).Equals(root) {
			if data, err = refetch(ctx, src, root); err != nil {
				return nil, err
			}
		}
		return openManifest(data, key)
	}
	return nil, ErrNotFound
}

// refetch asks a Refetcher for a good copy of a block that was corrupt.
func refetch(ctx context.Context, src Source, c cid.Cid) ([]byte, error) {
	r, ok := src.(Refetcher)
	if !ok {
		return nil, ErrCorrupt
	}
	blk, err := r.Refetch(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("%w; elsewhere: %w", ErrCorrupt, err)
	}
	return blk.RawData(), nil
}

// Size returns the number of bytes of content.
func (f *File) Size() int64 { return f.outline.size() }

// Read implements io.Reader. Reading on fetches and decrypts ahead.
func (f *File) Read(p []byte) (int, error) {
	f.seq.Lock()
	defer f.seq.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	rest, err := f.rest()
	if err != nil {
		return 0, err
	}
	n := copy(p, rest)
	f.pos += int64(n)
	return n, nil
}

// WriteTo implements io.WriterTo: it writes the rest of the file, a chunk at a time, without
// copying it.
func (f *File) WriteTo(w io.Writer) (written int64, err error) {
	f.seq.Lock()
	defer f.seq.Unlock()
	for {
		rest, err := f.rest()
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
		n, err := w.Write(rest)
		written += int64(n)
		f.pos += int64(n)
		if err != nil {
			return written, err
		}
	}
}

// rest returns what is left of the chunk at the position, at least one byte. seq is held.
func (f *File) rest() ([]byte, error) {
	if err := f.usable(); err != nil {
		return nil, err
	}
	if f.pos >= f.Size() {
		return nil, io.EOF
	}
	if !f.cur.covers(f.pos) {
		i, err := f.outline.chunkAt(f.ctx, f.pos)
		if err != nil {
			return nil, err
		}
		f.cur.release()
		if f.ahead == nil || !f.ahead.reaches(i) {
			f.stopAhead()
			f.ahead = f.startAhead(i)
		}
		if f.cur, err = f.ahead.take(i); err != nil {
			f.stopAhead() // another Read tries again
			return nil, err
		}
	}
	return f.cur.bytes[f.pos-f.cur.offset:], nil
}

func (f *File) usable() error {
	if f.done {
		return fmt.Errorf("read file: %w", ErrClosed)
	}
	return context.Cause(f.ctx)
}

func (f *File) stopAhead() {
	if f.ahead != nil {
		f.ahead.stop()
		f.ahead = nil
	}
}

// Seek implements io.Seeker. It costs nothing until the next read.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	f.seq.Lock()
	defer f.seq.Unlock()
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += f.pos
	case io.SeekEnd:
		offset += f.Size()
	default:
		return 0, fmt.Errorf("seek: whence %d", whence)
	}
	if offset < 0 {
		return 0, errors.New("seek: position before the start of the file")
	}
	f.pos = offset
	return offset, nil
}

// Close stops all reading, also what is under way, and waits for it to end.
func (f *File) Close() error {
	f.cancel(fmt.Errorf("read file: %w", ErrClosed))
	f.seq.Lock()
	defer f.seq.Unlock()
	f.done = true
	f.stopAhead()
	f.cur.release()
	f.last.close()
	return nil
}

var (
	_ io.ReadSeekCloser = (*File)(nil)
	_ io.ReaderAt       = (*File)(nil)
	_ io.WriterTo       = (*File)(nil)
)
