package replication

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// A Server is a node that should hold the ledger.
type Server struct {
	ID   peer.ID
	Site string
}

// ServerStatus is one server as this node sees it.
type ServerStatus struct {
	Server
	Voter  bool
	Live   bool   // known to the leader only: it answered lately
	Synced uint64 // known to the leader only: last index in its synced log
}

// Status is what one node knows about the ledger.
type Status struct {
	ID        peer.ID
	Site      string
	Leader    peer.ID // empty while none is known
	Term      uint64
	Applied   uint64         // index this copy shows
	Last      uint64         // last index in this node's log
	Servers   []ServerStatus // raft's configuration, sorted by id
	Quorum    bool           // a majority confirmed this copy lately
	Confirmed bool           // this copy was confirmed since Open
	// Age is the time since a read index confirmed by the leader was applied here
	// (L4), or since Open while Confirmed is false.
	Age time.Duration
}
