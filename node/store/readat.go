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
	if n = f.last.copy(p, off); n == len(p) {
		return n, nil
	}
	from, err := f.outline.chunkAt(f.ctx, off+int64(n))
	if err != nil {
		return n, err
	}
	last, err := f.outline.chunkAt(f.ctx, off+int64(len(p))-1)
	if err != nil {
		return n, err
	}
	ctx, cancel := context.WithCancel(f.ctx)
	defer cancel()
	err = f.fetch(ctx, from, last+1, func(c plain) error {
		n += copy(p[n:], c.bytes[off+int64(n)-c.offset:])
		if c.number == last {
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

// copy begins p with what the chunk kept has from off on.
func (l *lastChunk) copy(p []byte, off int64) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.chunk.covers(off) {
		return 0
	}
	return copy(p, l.chunk.bytes[off-l.chunk.offset:])
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
