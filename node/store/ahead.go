package store

import (
	"context"
	"fmt"
	"slices"
	"sync"

	blocks "github.com/ipfs/go-block-format"
)

// aheadDepth is how many decrypted chunks may wait for the reader. One more is in its hands and one
// in work: with chunks of 2 MiB at most a File holds about 8 MiB of content.
const aheadDepth = 2

// maxWindow is how many chunks are asked of the Source at a time, once reading is known to go on.
const maxWindow = 64

// plain is the content of one chunk. Its memory goes back where it came from with release.
type plain struct {
	number int   // in the file
	offset int64 // likewise
	bytes  []byte
	free   func()
}

// covers tells whether the byte at off is one of these.
func (p *plain) covers(off int64) bool { return off >= p.offset && off < p.offset+int64(len(p.bytes)) }

func (p *plain) release() {
	if p.free != nil {
		p.free()
	}
	*p = plain{}
}

// ahead is one run of sequential reading: a goroutine asks the Source for windows of 1, 4, 16, 64,
// 64 ... chunks and decrypts them. The second window is asked for only when its first chunk is
// wanted, so that a small range touches one chunk (T3); after that reading is taken to go on.
type ahead struct {
	chunks chan plain // closed at the end
	err    error      // why, set before chunks is closed
	more   chan struct{}
	next   int // the chunk that chunks yields next; owned by the taker
	first  int
	cancel context.CancelFunc
	wg     sync.WaitGroup
	once   sync.Once
}

// startAhead begins reading at a chunk.
func (f *File) startAhead(first int) *ahead {
	ctx, cancel := context.WithCancel(f.ctx)
	a := &ahead{chunks: make(chan plain, aheadDepth), more: make(chan struct{}), next: first, first: first, cancel: cancel}
	a.wg.Go(func() {
		defer close(a.chunks)
		a.err = f.readAhead(ctx, a)
	})
	return a
}

func (f *File) readAhead(ctx context.Context, a *ahead) error {
	window := 1
	for i := a.first; ; window = min(4*window, maxWindow) {
		if i > a.first {
			select {
			case <-a.more:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		l, _, err := f.outline.leafOf(ctx, i)
		if l == nil || err != nil {
			return err
		}
		end := min(i+window, l.first()+len(l.links))
		if err := f.fetch(ctx, i, end, func(p plain) error {
			select {
			case a.chunks <- p:
				return nil
			case <-ctx.Done():
				p.release()
				return context.Cause(ctx)
			}
		}); err != nil {
			return err
		}
		i = end
	}
}

// reaches tells whether chunk i comes soon enough to wait for it.
func (a *ahead) reaches(i int) bool { return i >= a.next && i <= a.next+aheadDepth }

// take returns chunk i, which reaches allowed, skipping those before.
func (a *ahead) take(i int) (plain, error) {
	for {
		if a.next > a.first {
			a.once.Do(func() { close(a.more) })
		}
		p, ok := <-a.chunks
		if !ok {
			return plain{}, a.err
		}
		a.next = p.number + 1
		if p.number == i {
			return p, nil
		}
		p.release()
	}
}

// stop ends the goroutine and gives back what it had ready.
func (a *ahead) stop() {
	a.cancel()
	for p := range a.chunks {
		p.release()
	}
	a.wg.Wait()
}

// fetch asks the Source for chunks [from, to), which the file has, and passes their content on in
// order.
func (f *File) fetch(ctx context.Context, from, to int, yield func(plain) error) error {
	for from < to {
		l, at, err := f.outline.leafOf(ctx, from)
		if err != nil {
			return err
		}
		end := min(at+to-from, len(l.links))
		if err := f.fetchLeaf(ctx, l, at, end, yield); err != nil {
			return err
		}
		from += end - at
	}
	return nil
}

// fetchLeaf is fetch within one leaf.
func (f *File) fetchLeaf(ctx context.Context, l *leaf, at, end int, yield func(plain) error) error {
	for blk, err := range f.src.Blocks(ctx, slices.Clone(l.links[at:end])) {
		if at == end {
			break // what a Source says after the last block asked for is of no concern
		}
		if err != nil {
			return l.chunkError(at, err)
		}
		p, err := f.decrypt(ctx, l, at, blk)
		if err != nil {
			return l.chunkError(at, err)
		}
		if err := yield(p); err != nil {
			return err
		}
		at++
	}
	if at < end {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		return l.chunkError(at, ErrNotFound)
	}
	return nil
}

func (l *leaf) chunkError(at int, err error) error {
	return fmt.Errorf("chunk %d (%s): %w", l.first()+at, l.links[at], err)
}

// decrypt opens a chunk; the tag proves the bytes (T7). Memory that is ours to overwrite is
// decrypted in place.
func (f *File) decrypt(ctx context.Context, l *leaf, at int, blk blocks.Block) (plain, error) {
	data := blk.RawData()
	if s, ok := blk.(Scratch); ok {
		if out, err := l.open(at, data[:0], data); err == nil {
			return l.plain(at, out, s.Release), nil
		}
		s.Release()
	} else if p, err := l.openInto(at, data); err == nil {
		return p, nil
	}
	data, err := refetch(ctx, f.src, l.links[at])
	if err != nil {
		return plain{}, err
	}
	return l.openInto(at, data)
}

func (l *leaf) plain(at int, content []byte, free func()) plain {
	return plain{number: l.first() + at, offset: l.offsets[at], bytes: content, free: free}
}

// openInto decrypts into memory of its own.
func (l *leaf) openInto(at int, sealed []byte) (plain, error) {
	buf := getBuffer(int(l.sizes[at]))
	out, err := l.open(at, buf[:0], sealed)
	if err != nil {
		putBuffer(buf)
		return plain{}, err
	}
	return l.plain(at, out, func() { putBuffer(buf) }), nil
}

func (l *leaf) open(at int, dst, sealed []byte) ([]byte, error) {
	if int64(len(sealed)) != l.sizes[at]+tagSize {
		return nil, ErrCorrupt
	}
	out, err := openTo(dst, l.keys[at], sealed, nil)
	if err != nil {
		return nil, ErrCorrupt
	}
	return out, nil
}
