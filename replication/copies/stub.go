package copies

import (
	"context"
	"errors"
	"iter"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	fetchProtocol = "blocks/1"
	pushProtocol  = "push/1"
	bulkStreams   = 4
)

type slots struct{}

func newSlots(int) *slots { return &slots{} }

type ranks struct{}

func newRanks() *ranks { return &ranks{} }

type acked struct{}

func newAcked(int) *acked { return &acked{} }

type tableCache struct{}

func isNoSpace(err error) bool { return errors.Is(err, ErrNoSpace) }

func (c *Copies) serving(fn func(network.Stream)) func(network.Stream) { return fn }

func (c *Copies) serveFetch(s network.Stream) { _ = s.Reset() }

func (c *Copies) servePush(s network.Stream) { _ = s.Reset() }

// Run keeps this node's copies complete, announces roots, and keeps the table while this node
// leads the ledger. It returns ctx's error when ctx ends.
func (c *Copies) Run(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// A Copy is a durable copy: a node and the id its store had when it acknowledged.
type Copy struct {
	Node  peer.ID
	Store [16]byte
}

// Placed says where an upload's blocks are durable.
type Placed struct {
	Root      cid.Cid
	Partition uint16
	Copies    []Copy
}

// Begin starts an upload (P1).
func (c *Copies) Begin(ctx context.Context) (*Upload, error) { return nil, errors.ErrUnsupported }

// An Upload streams blocks to the nodes that must hold them.
type Upload struct{}

// Add hands on one block; children come before their parents.
func (u *Upload) Add(ctx context.Context, b blocks.Block) error { return errors.ErrUnsupported }

// Commit returns when enough copies are durable: ErrNotDurable or ErrNoSpace otherwise.
func (u *Upload) Commit(ctx context.Context, root cid.Cid) (Placed, error) {
	return Placed{}, errors.ErrUnsupported
}

// Abort ends the upload, unless Commit succeeded.
func (u *Upload) Abort() {}

// Record writes the root's ledger record inside the transaction that creates what refers to it (P2).
func (c *Copies) Record(tx ReadWriter, p Placed) error { return errors.ErrUnsupported }

// Holders says which nodes hold a copy of root; ErrNotRecorded without a record.
func (c *Copies) Holders(tx Reader, root cid.Cid) ([]peer.ID, error) {
	return nil, errors.ErrUnsupported
}

// Blocks reads the blocks of want, all under root, in the order asked: local ones first, else from
// the nearest holder, verified.
func (c *Copies) Blocks(ctx context.Context, root cid.Cid, want []cid.Cid) iter.Seq2[blocks.Block, error] {
	return func(yield func(blocks.Block, error) bool) { yield(nil, errors.ErrUnsupported) }
}

// Release prepares the deletion of this node's copy (P2).
func (c *Copies) Release(ctx context.Context, root cid.Cid) error { return errors.ErrUnsupported }
