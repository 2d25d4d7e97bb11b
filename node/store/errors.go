package store

import "errors"

var (
	// ErrNotFound says that this store, or the Source asked, does not hold the block.
	ErrNotFound = errors.New("block not found")
	// ErrCorrupt says that bytes were there but are not the right ones: a block whose hash or tag
	// does not agree. Another copy may be good; asking the same one again is of no use.
	ErrCorrupt = errors.New("block is corrupt")
	// ErrNoSpace says that a block was refused because the disk is full or free space is at the
	// reserve (T8). The store stays usable; retrying is safe once there is room.
	ErrNoSpace = errors.New("no space left for blocks")
	// ErrClosed says that the store, batch or file was closed before or during the call.
	ErrClosed = errors.New("store is closed")
	// ErrInUse says that another process has this store open.
	ErrInUse = errors.New("store is in use by another process")
	// ErrTooLarge says that a block is larger than MaxBlock.
	ErrTooLarge = errors.New("block is too large")
	// ErrTooManyChunks says that a file needs more than MaxChunks chunks.
	ErrTooManyChunks = errors.New("file has too many chunks")
	// ErrWrongKey says that a manifest was not sealed under the key given.
	ErrWrongKey = errors.New("manifest does not open with this key")
	// ErrManifest says that a block is no manifest, or not one this version wrote or can read.
	ErrManifest = errors.New("malformed manifest")
	// ErrUnsupported says that a CID is of a kind the store does not keep: it keeps CIDv1 with
	// SHA-256, raw or DAG-CBOR.
	ErrUnsupported = errors.New("unsupported kind of CID")
)

const (
	// MaxBlock is the largest block the store takes, in bytes: 2 MiB, the limit of what block
	// exchange protocols carry.
	MaxBlock = 2 << 20
	// maxLinks is the largest number of links in one manifest: the manifest of about 8 GiB is 620 KiB.
	maxLinks = 8000
	// MaxChunks is the largest number of chunks of a file, more than 60 TiB: a tree has two levels.
	MaxChunks = maxLinks * maxLinks
)
