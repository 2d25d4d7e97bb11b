package message

import (
	"fmt"
	"io"
	"os"
)

// spoolBlock is the size of the pieces of a spool in memory, and of its writes to the file.
const spoolBlock = 128 << 10

// A spool keeps the octets of one message: the first in memory, all of them in an unlinked temporary file once they are
// more than limit.
type spool struct {
	dir    string
	limit  int64
	size   int64
	blocks [][]byte // all octets while file is nil, else one block: those from flushed on
	file   *os.File
	inFile int64 // octets in the file
}

// Write appends p.
func (s *spool) Write(p []byte) (int, error) {
	done := len(p)
	for len(p) > 0 {
		if s.file != nil && len(p) >= spoolBlock/2 {
			return done, s.direct(p)
		}
		last := len(s.blocks) - 1
		if last < 0 || len(s.blocks[last]) == cap(s.blocks[last]) {
			if err := s.grow(); err != nil {
				return 0, err
			}
			last = len(s.blocks) - 1
		}
		b := s.blocks[last]
		c := min(len(p), cap(b)-len(b))
		s.blocks[last] = append(b, p[:c]...)
		s.size += int64(c)
		p = p[c:]
	}
	return done, nil
}

// grow makes room behind full blocks.
func (s *spool) grow() error {
	if s.file == nil && s.size+spoolBlock > s.limit && s.size > 0 {
		f, err := unlinked(s.dir)
		if err != nil {
			return err
		}
		s.file = f
	}
	if s.file == nil {
		size := spoolBlock
		if len(s.blocks) == 0 {
			size = 16 << 10 // most messages are small
		}
		s.blocks = append(s.blocks, make([]byte, 0, size))
		return nil
	}
	return s.flush()
}

// flush writes what is in memory to the file and keeps one empty block.
func (s *spool) flush() error {
	for _, b := range s.blocks {
		if len(b) == 0 {
			continue
		}
		n, err := s.file.Write(b)
		s.inFile += int64(n)
		if err != nil {
			return fmt.Errorf("write mail spool: %w", err)
		}
	}
	keep := s.blocks[len(s.blocks)-1]
	if cap(keep) < spoolBlock {
		keep = make([]byte, 0, spoolBlock)
	}
	s.blocks = append(s.blocks[:0], keep[:0])
	clear(s.blocks[1:cap(s.blocks)])
	return nil
}

// direct writes p to the file without keeping it first.
func (s *spool) direct(p []byte) error {
	if err := s.flush(); err != nil {
		return err
	}
	n, err := s.file.Write(p)
	s.inFile += int64(n)
	s.size += int64(n)
	if err != nil {
		return fmt.Errorf("write mail spool: %w", err)
	}
	return nil
}

// unlinked makes a temporary file that has no name any more.
func unlinked(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "valise-mail-*")
	if err != nil {
		return nil, fmt.Errorf("make mail spool: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, fmt.Errorf("unlink mail spool: %w", err)
	}
	return f, nil
}

// ReadAt implements io.ReaderAt.
func (s *spool) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	if off < s.inFile {
		n, err := s.file.ReadAt(p[:min(int64(len(p)), s.inFile-off)], off)
		done += n
		if err != nil {
			return done, fmt.Errorf("read mail spool: %w", err)
		}
	}
	at := s.inFile
	for _, b := range s.blocks {
		if pos := off + int64(done) - at; pos >= 0 && pos < int64(len(b)) {
			done += copy(p[done:], b[pos:])
		}
		if done == len(p) {
			return done, nil
		}
		at += int64(len(b))
	}
	return done, io.EOF
}

// section reads the octets [from, to).
func (s *spool) section(from, to int64) *io.SectionReader {
	return io.NewSectionReader(s, from, to-from)
}

// Close frees the file.
func (s *spool) Close() error {
	s.blocks = nil
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file, s.size, s.inFile = nil, 0, 0
	return err
}
