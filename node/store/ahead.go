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
	number int
	bytes  []byte
	free   func()
}

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
	for i := a.first; i < len(f.m.links); window = min(4*window, maxWindow) {
		if i > a.first {
			select {
			case <-a.more:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		end := min(i+window, len(f.m.links))
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
	return nil
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

// fetch asks the Source for chunks [from, to) and passes their content on in order.
func (f *File) fetch(ctx context.Context, from, to int, yield func(plain) error) error {
	i := from
	for blk, err := range f.src.Blocks(ctx, slices.Clone(f.m.links[from:to])) {
		if i == to {
			break // what a Source says after the last block asked for is of no concern
		}
		if err != nil {
			return f.chunkError(i, err)
		}
		p, err := f.decrypt(ctx, i, blk)
		if err != nil {
			return f.chunkError(i, err)
		}
		if err := yield(p); err != nil {
			return err
		}
		i++
	}
	if i < to {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		return f.chunkError(i, ErrNotFound)
	}
	return nil
}

func (f *File) chunkError(i int, err error) error {
	return fmt.Errorf("chunk %d of %d (%s): %w", i, len(f.m.links), f.m.links[i], err)
}

// decrypt opens chunk i; the tag proves the bytes (T7). Memory that is ours to overwrite is
// decrypted in place.
func (f *File) decrypt(ctx context.Context, i int, blk blocks.Block) (plain, error) {
	data := blk.RawData()
	if s, ok := blk.(Scratch); ok {
		if out, err := f.open(i, data[:0], data); err == nil {
			return plain{number: i, bytes: out, free: s.Release}, nil
		}
		s.Release()
	} else if p, err := f.openInto(i, data); err == nil {
		return p, nil
	}
	data, err := refetch(ctx, f.src, f.m.links[i])
	if err != nil {
		return plain{}, err
	}
	return f.openInto(i, data)
}

// openInto decrypts into memory of its own.
func (f *File) openInto(i int, sealed []byte) (plain, error) {
	buf := getBuffer(int(f.m.sizes[i]))
	out, err := f.open(i, buf[:0], sealed)
	if err != nil {
		putBuffer(buf)
		return plain{}, err
	}
	return plain{number: i, bytes: out, free: func() { putBuffer(buf) }}, nil
}

func (f *File) open(i int, dst, sealed []byte) ([]byte, error) {
	if int64(len(sealed)) != f.m.sizes[i]+tagSize {
		return nil, ErrCorrupt
	}
	out, err := openTo(dst, f.m.keys[i], sealed, nil)
	if err != nil {
		return nil, ErrCorrupt
	}
	return out, nil
}
