package dht

import (
	"context"
	"crypto/ed25519"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// A Ticket invites one node (R4). It is a secret: formatting and logging it
// show "redacted"; only a call of String gives its text.
type Ticket struct {
	Seed      [32]byte // of the Ed25519 key under which the joiner dials
	ClusterID string   // always ClusterID(OrgKey)
	OrgKey    ed25519.PublicKey
	Inviter   peer.ID
	Addrs     []multiaddr.Multiaddr // of the inviter's bulk lane
	Site      string
	Expires   time.Time
}

// ParseTicket reads a ticket's text form.
func ParseTicket(s string) (Ticket, error) { return Ticket{}, errors.ErrUnsupported }

// String returns the text form: the secret itself.
func (t Ticket) String() string { return "" }

// LogValue hides the ticket.
func (t Ticket) LogValue() slog.Value { return slog.StringValue("redacted") }

// PeerID is the peer id of the ticket's key: what the list admits.
func (t Ticket) PeerID() peer.ID { return "" }

// DialTicket dials the inviter under the ticket's key and opens join/1.
func DialTicket(ctx context.Context, t Ticket) (network.Stream, io.Closer, error) {
	return nil, nil, errors.ErrUnsupported
}
