package store

import (
	"bytes"
	"fmt"
	"io"

	chunkers "github.com/PlakarKorp/go-cdc-chunkers"
	_ "github.com/PlakarKorp/go-cdc-chunkers/chunkers/fastcdc" // registers the algorithm by name
)

// The parameters of chunkerID 1. Other ones, or another algorithm, are another id.
const (
	chunkerID     = 1
	chunkerName   = "fastcdc-v1.0.0"
	chunkMin      = 256 << 10
	chunkNormal   = 1 << 20
	chunkMax      = 2<<20 - 4<<10 // with tag and framing still under 2 MiB
	chunkOverhead = tagSize
)

// A cutter cuts a stream where its content says so (T1). The places depend on a key, so that
// somebody who knows a public file cannot recognise it by the sizes of its blocks.
type cutter struct {
	head   []byte // the first chunk, where the whole stream is shorter than chunkMin
	stream *chunkers.Chunker
	ended  bool
}

// newCutter reads up to chunkMin bytes: a stream that ends there is one chunk and needs no chunker.
// head is the memory for that, at least chunkMin long.
func newCutter(r io.Reader, key [32]byte, head []byte) (*cutter, error) {
	n, err := fill(r, head[:chunkMin])
	switch {
	case err == io.EOF && n == 0:
		return &cutter{ended: true}, nil
	case err == io.EOF:
		return &cutter{head: head[:n]}, nil
	case err != nil:
		return nil, err
	}
	stream, err := chunkers.NewChunker(chunkerName, io.MultiReader(bytes.NewReader(head[:n]), r), &chunkers.ChunkerOpts{
		MinSize: chunkMin, NormalSize: chunkNormal, MaxSize: chunkMax, Key: key[:],
	})
	if err != nil {
		return nil, fmt.Errorf("start chunker: %w", err)
	}
	return &cutter{stream: stream}, nil
}

// next returns the next chunk, valid until the following call, and io.EOF after the last.
func (c *cutter) next() ([]byte, error) {
	if c.ended {
		return nil, io.EOF
	}
	if c.stream == nil {
		c.ended = true
		return c.head, nil
	}
	chunk, err := c.stream.Next()
	if err == io.EOF {
		c.ended = true
		if len(chunk) > 0 {
			return chunk, nil
		}
	}
	return chunk, err
}

// fill reads until p is full or r ends, which is io.EOF. Unlike io.ReadFull it passes on a reader's
// own io.ErrUnexpectedEOF, which is how a broken upload looks.
func fill(r io.Reader, p []byte) (n int, err error) {
	for empty := 0; n < len(p) && err == nil; {
		var m int
		m, err = r.Read(p[n:])
		n += m
		if m > 0 {
			empty = 0
		} else if empty++; err == nil && empty == 100 {
			return n, io.ErrNoProgress
		}
	}
	if n == len(p) {
		return n, nil
	}
	return n, err
}
