package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// ReadAt implements io.ReaderAt. It reads apart from Read and Seek, asking the Source for just the
// chunks it needs, and keeps the last one for the next call.
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("read at: position before the start of the file")
	}
	if err := f.last.enter(); err != nil {
		return 0, err
	}
	defer f.last.leave()
	if err := context.Cause(f.ctx); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off >= f.Size() {
		return 0, io.EOF
	}
	want := p
	if room := f.Size() - off; int64(len(want)) > room {
		want, err = want[:room], io.EOF
	}
	n, readErr := f.readAt(want, off)
	if readErr != nil {
		return n, readErr
	}
	return n, err
}

// readAt fills p, which lies within the file.
func (f *File) readAt(p []byte, off int64) (n int, err error) {
	from, to := f.chunkAt(off), f.chunkAt(off+int64(len(p))-1)+1
	if got, ok := f.last.copy(from, p, off-f.offsets[from]); ok {
		if n = got; n == len(p) {
			return n, nil
		}
		from++
	}
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	err = f.fetch(ctx, from, to, func(c plain) error {
		n += copy(p[n:], c.bytes[off+int64(n)-f.offsets[c.number]:])
		if c.number == to-1 {
			f.last.set(c)
		} else {
			c.release()
		}
		return nil
	})
	return n, err
}

// lastChunk keeps the chunk that ReadAt ended in, and counts the calls under way.
type lastChunk struct {
	mu     sync.Mutex
	chunk  plain
	calls  sync.WaitGroup
	closed bool
}

func (l *lastChunk) enter() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("read file: %w", ErrClosed)
	}
	l.calls.Add(1)
	return nil
}

func (l *lastChunk) leave() { l.calls.Done() }

// copy fills p from the chunk kept, if it is this one.
func (l *lastChunk) copy(number int, p []byte, off int64) (int, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.chunk.bytes == nil || l.chunk.number != number {
		return 0, false
	}
	return copy(p, l.chunk.bytes[off:]), true
}

func (l *lastChunk) set(c plain) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chunk.release()
	l.chunk = c
}

func (l *lastChunk) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.calls.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.chunk.release()
}
