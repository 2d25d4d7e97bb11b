package store

import (
	"errors"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
)

// Links returns the children of a manifest block in file order, without needing a key; a raw block
// has none. It takes bytes from strangers: what is not exactly a manifest this version writes is
// ErrManifest.
func Links(b blocks.Block) ([]cid.Cid, error) { return nil, errors.ErrUnsupported }
