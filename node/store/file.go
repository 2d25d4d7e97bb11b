package store

import (
	"context"
	"errors"
	"io"
	"iter"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// A Source yields blocks.
type Source interface {
	// Blocks yields the blocks of want in the order asked. After an error it ends. It may yield
	// the next block only after the last was taken, or read ahead.
	Blocks(ctx context.Context, want []cid.Cid) iter.Seq2[blocks.Block, error]
}

// A Refetcher is a Source that can be asked for another copy of a block that turned out corrupt.
type Refetcher interface {
	// Refetch returns the block, verified against its CID, from somewhere else than Blocks did.
	Refetch(ctx context.Context, c cid.Cid) (blocks.Block, error)
}

// A File reads the content under one root. Read, Seek and WriteTo share one position and must not
// be called concurrently; ReadAt may, with them and itself.
type File struct{}

// OpenFile fetches the manifest root from src and opens it with key. ctx bounds the whole life of
// the File: when it is done, reads fail. Close must be called.
func OpenFile(ctx context.Context, root cid.Cid, key [32]byte, src Source) (*File, error) {
	return nil, errors.ErrUnsupported
}

// Size returns the number of bytes of content.
func (f *File) Size() int64 { return 0 }

// Read implements io.Reader.
func (f *File) Read(p []byte) (int, error) { return 0, errors.ErrUnsupported }

// Seek implements io.Seeker. It costs nothing until the next read.
func (f *File) Seek(offset int64, whence int) (int64, error) { return 0, errors.ErrUnsupported }

// ReadAt implements io.ReaderAt.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return 0, errors.ErrUnsupported }

// WriteTo implements io.WriterTo: it writes the rest of the file without a copy in between.
func (f *File) WriteTo(w io.Writer) (int64, error) { return 0, errors.ErrUnsupported }

// Close stops all reading ahead and waits for it to end.
func (f *File) Close() error { return errors.ErrUnsupported }

var (
	_ io.ReadSeekCloser = (*File)(nil)
	_ io.ReaderAt       = (*File)(nil)
	_ io.WriterTo       = (*File)(nil)
)
