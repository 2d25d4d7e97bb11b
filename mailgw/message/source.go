package message

import (
	"bytes"
	"context"
	"io"
)

// A source looks at this much of a message in one go: little at first, most messages are small.
const (
	firstBuffer  = 8 << 10
	sourceBuffer = 128 << 10
)

// A source hands out the normal form of a message piece by piece, and puts every octet into the spool as it reads it.
type source struct {
	ctx   context.Context
	r     io.Reader // the normal form
	spool *spool
	buf   []byte
	lo    int   // next octet to be handed out
	hi    int   // end of what was read
	off   int64 // offset of buf[lo] in the normal form
	err   error // what r ended with
}

func newSource(ctx context.Context, r io.Reader, s *spool) *source {
	return &source{ctx: ctx, r: Normalise(r), spool: s, buf: make([]byte, firstBuffer)}
}

// fill reads once more behind what is there. It reports false at the end of the input or when the buffer is full.
func (s *source) fill() bool {
	if s.lo > 0 && (s.lo == s.hi || s.hi == len(s.buf)) {
		s.hi = copy(s.buf, s.buf[s.lo:s.hi])
		s.lo = 0
	}
	if s.hi == len(s.buf) && s.hi < sourceBuffer {
		s.buf = append(s.buf, make([]byte, sourceBuffer-s.hi)...)
	}
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err != nil || s.hi == len(s.buf) {
		return false
	}
	n, err := s.r.Read(s.buf[s.hi:])
	if n > 0 {
		if _, werr := s.spool.Write(s.buf[s.hi : s.hi+n]); werr != nil {
			err = werr
		}
	}
	s.hi += n
	s.err = err
	return n > 0 || err == nil
}

// failed returns the error that ended the input, nil while it goes on and at its regular end.
func (s *source) failed() error {
	if s.err == io.EOF {
		return nil
	}
	return s.err
}

// advance gives up the first n octets.
func (s *source) advance(n int) {
	s.lo += n
	s.off += int64(n)
}

// line returns the line that starts after skip octets, with its CRLF, without consuming it; or as much as there is of one
// that is longer than limit, which is far less than the buffer, or that has no end.
func (s *source) line(skip, limit int) []byte {
	for scanned := skip; ; {
		view := s.buf[s.lo:s.hi]
		if i := bytes.IndexByte(view[min(scanned, len(view)):], '\n'); i >= 0 {
			return view[skip : scanned+i+1]
		}
		scanned = max(skip, len(view))
		if scanned > limit || !s.fill() {
			view = s.buf[s.lo:s.hi]
			return view[min(skip, len(view)):]
		}
	}
}

// drain reads the rest of the input into the spool.
func (s *source) drain() error {
	for {
		s.advance(s.hi - s.lo)
		if !s.fill() {
			return s.failed()
		}
	}
}
