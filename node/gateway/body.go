package gateway

import (
	"context"
	"errors"
	"io"
	"sync"
)

// aheadSize is how much is read before the header goes out, in bytes.
const aheadSize = 4 << 10

// A body is a file's bytes, opened when the first of them is wanted: asking
// for its size, seeking, HEAD and 304 cost nothing.
type body struct {
	ctx  context.Context // of the transfer
	open func(context.Context) (io.ReadSeekCloser, error)
	size int64

	// mu guards the fields below. ServeContent reads several ranges from a
	// goroutine of its own, which may outlive it.
	mu     sync.Mutex
	at     int64 // where the next Read begins
	src    io.ReadSeekCloser
	srcAt  int64
	ahead  []byte // src's bytes at at, already read
	err    error  // the first fault; the end of the file is none
	closed bool
	first  [aheadSize]byte
}

var errBodyClosed = errors.New("the transfer has ended")

// Seek implements io.Seeker by arithmetic.
func (b *body) Seek(offset int64, whence int) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += b.at
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start")
	}
	if offset != b.at {
		b.at, b.ahead = offset, nil
	}
	return b.at, nil
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.read(p)
	if err != nil && err != io.EOF && b.err == nil {
		b.err = err
	}
	return n, err
}

// prepare opens the file and reads the first bytes that will be wanted, so
// that a file without a reachable holder can still be answered as that.
func (b *body) prepare() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.at
	n, err := b.read(b.first[:])
	if err != nil && err != io.EOF {
		return err
	}
	b.at, b.ahead = at, b.first[:n]
	return nil
}

func (b *body) read(p []byte) (int, error) {
	if b.closed {
		return 0, errBodyClosed
	}
	if b.at >= b.size {
		return 0, io.EOF
	}
	if len(b.ahead) > 0 {
		n := copy(p, b.ahead)
		b.at, b.ahead = b.at+int64(n), b.ahead[n:]
		return n, nil
	}
	if err := b.position(); err != nil {
		return 0, err
	}
	n, err := b.src.Read(p[:min(int64(len(p)), b.size-b.at)])
	b.at, b.srcAt = b.at+int64(n), b.srcAt+int64(n)
	if err == io.EOF && b.at < b.size {
		err = io.ErrUnexpectedEOF // the size was promised
	}
	return n, err
}

// position opens src and brings it to at.
func (b *body) position() error {
	if b.src == nil {
		src, err := b.open(b.ctx)
		if err != nil {
			return err
		}
		b.src = src
	}
	if b.srcAt == b.at {
		return nil
	}
	if _, err := b.src.Seek(b.at, io.SeekStart); err != nil {
		return err
	}
	b.srcAt = b.at
	return nil
}

// fault is the first error of a Read, nil for none.
func (b *body) fault() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

func (b *body) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.src == nil {
		return nil
	}
	src := b.src
	b.src = nil
	return src.Close()
}
