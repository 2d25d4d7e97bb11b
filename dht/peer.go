package dht

import (
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Class says what a peer is to this cluster. A peer has exactly one class; a
// handler states a set of them, joined with |.
type Class uint8

const (
	// Member is a full node: ledger, routing, bytes.
	Member Class = 1 << iota
	// BlocksOnly is a node that keeps encrypted blocks and sees nothing else.
	BlocksOnly
	// Federated is a node of another organisation.
	Federated
	// TicketHolder dials under a Ticket's key: it may join, once, and nothing else.
	TicketHolder
)

// String names the classes of the set, for logs.
func (c Class) String() string {
	if c == 0 {
		return "none"
	}
	var names []string
	for bit, name := range map[Class]string{Member: "member", BlocksOnly: "blocks-only", Federated: "federated", TicketHolder: "ticket"} {
		if c&bit != 0 {
			names = append(names, name)
		}
	}
	if rest := c &^ (Member | BlocksOnly | Federated | TicketHolder); rest != 0 {
		names = append(names, "unknown")
	}
	return strings.Join(names, "|")
}

// A Peer is one line of the member list.
type Peer struct {
	ID    peer.ID
	Class Class  // exactly one
	Site  string // the place it stands at; a label, may be empty
	// Bulk and Ledger are what others dial, per host. A TicketHolder has none.
	Bulk, Ledger []multiaddr.Multiaddr
	// Until is when the gate stops admitting the peer, to the second; zero
	// means never. Every TicketHolder has one.
	Until time.Time
}
