// Package dht is the road between nodes: a peer's identity, the gate, classes of peers, private Kademlia routing.
package dht

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Config is what Open needs. Fields without a stated default are required.
type Config struct {
	Key       crypto.PrivKey    // the node's Ed25519 key
	ClusterID string            // must be ClusterID(OrgKey); empty: that
	OrgKey    ed25519.PublicKey // signs the member list
	Dir       string            // folder of the stored list; made when missing
	FS        vfs.FS            // default vfs.Default

	// BulkListen and LedgerListen are the addresses to listen on; none means
	// that this lane only dials. QUIC is used when an address names it.
	BulkListen, LedgerListen []multiaddr.Multiaddr

	Reach  func(peer.ID) bool // fault seam, a cut cable; default everybody
	Clock  func() time.Time   // default time.Now
	Logger *slog.Logger       // default none
}

// A Road is this node's two hosts, bulk and ledger, behind one gate.
// Its methods may be called concurrently.
type Road struct{}

// Status is what a node can say about its road.
type Status struct {
	Number  uint64 // of the list in force; 0: none yet
	Removed bool   // the list in force does not name this node
}

// Open starts both hosts. If it returns an error, nothing is left running.
func Open(ctx context.Context, c Config) (*Road, error) { return nil, errors.ErrUnsupported }

// Bulk is the lane for bytes, lists and joining.
func (r *Road) Bulk() *Lane { return nil }

// Ledger is the lane of the replicated log; only members get through its gate.
func (r *Road) Ledger() *Lane { return nil }

// Self is this node's peer id.
func (r *Road) Self() peer.ID { return "" }

// Publish puts a signed list in force if it is newer than the one in force.
func (r *Road) Publish(signed []byte) error { return errors.ErrUnsupported }

// Pull asks the members of the list in force for a newer one.
func (r *Road) Pull(ctx context.Context) error { return errors.ErrUnsupported }

// Peers returns the list in force; Number 0 means none.
func (r *Road) Peers() List { return List{} }

// Removed is closed once a list was put in force that does not name this node.
func (r *Road) Removed() <-chan struct{} { return nil }

// Status returns a snapshot for operators.
func (r *Road) Status() Status { return Status{} }

// Connected says of every other peer of the list whether a connection is open.
func (r *Road) Connected() map[peer.ID]bool { return nil }

// Announce queues the news that this node holds root.
func (r *Road) Announce(ctx context.Context, root cid.Cid) error { return errors.ErrUnsupported }

// Holders returns the members known to have announced root, without this node.
func (r *Road) Holders(ctx context.Context, root cid.Cid) ([]peer.ID, error) {
	return nil, errors.ErrUnsupported
}

// Disconnect closes all connections to id, on both lanes.
func (r *Road) Disconnect(id peer.ID) {}

// Close ends both hosts and returns when their handlers have returned.
func (r *Road) Close() error { return nil }
