// Package store keeps encrypted, content-addressed blocks on this node's disk, and turns files
// into blocks and back.
//
// Seal cuts a stream into chunks, encrypts each and names it by the hash of its ciphertext; a Batch
// makes blocks durable in pack files; OpenFile reads the content again, from this store or from
// any other Source. DESIGN.md beside this file has the formats and the order of writes.
package store

import (
	"context"
	"errors"
	"iter"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// Config says where a store lies and what it may use.
type Config struct {
	// Dir is the store's own folder; it is created when absent.
	Dir string
	// FS is the file system of Dir; nil means vfs.Default.
	FS vfs.FS
	// Cache is the block cache shared by all of a node's Pebble databases; nil means a small own one.
	Cache *pebble.Cache
	// Reserve is the free space, in bytes, that new blocks must leave (T8). Zero means none.
	Reserve int64
	// Free tells how many bytes are free on the disk of Dir; nil asks FS, and where that cannot
	// tell there is no reserve.
	Free func() (int64, error)
	// PackSize is the size in bytes at which a pack is full; zero means 1 GiB.
	PackSize int64
	// Logger receives what an operator should know; nil discards it.
	Logger *slog.Logger
}

// A Store keeps blocks in pack files on one disk. Its methods may be called concurrently.
type Store struct{}

// Open opens the store in c.Dir, creating it where there is none. What was written but not
// acknowledged before a crash is verified and kept, or cut off. If it returns an error, nothing is
// left running.
func Open(ctx context.Context, c Config) (*Store, error) { return nil, errors.ErrUnsupported }

// Close ends all writing and closes the store's files. Commits under way finish first; batches not
// committed are abandoned. After a value on Fatal it leaves the index as it is.
func (s *Store) Close() error { return errors.ErrUnsupported }

// ID returns the random name the store was given when it was created: a wiped disk has another one.
func (s *Store) ID() [16]byte { return [16]byte{} }

// Fatal yields an error once the index can no longer be written; the node must then stop (L11).
func (s *Store) Fatal() <-chan error { return nil }

// Has tells whether the block is durable here as a kept copy. Cached blocks and blocks whose
// Commit has not returned do not count.
func (s *Store) Has(c cid.Cid) bool { return false }

// Block returns a block, kept or cached, verified against its CID. It returns ErrNotFound when
// there is none and ErrCorrupt when the disk gave other bytes.
func (s *Store) Block(ctx context.Context, c cid.Cid) (blocks.Block, error) {
	return nil, errors.ErrUnsupported
}

// Blocks yields the blocks of want in order, kept or cached, until one cannot be read. They are NOT
// checked against their CIDs: it is meant for File, whose decryption authenticates them. A block
// handed to a peer comes from Block.
func (s *Store) Blocks(ctx context.Context, want []cid.Cid) iter.Seq2[blocks.Block, error] {
	return func(yield func(blocks.Block, error) bool) { yield(nil, errors.ErrUnsupported) }
}

var _ Source = (*Store)(nil)
