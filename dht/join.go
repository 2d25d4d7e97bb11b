package dht

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/multiformats/go-multistream"
)

// JoinProtocol is the name under which an inviter serves ticket holders, on the
// bulk lane, and the only one they can open.
const JoinProtocol = "join/1"

// ErrRefused says that the inviter was reached, and let this ticket not in.
var ErrRefused = errors.New("the inviter refuses this ticket")

// DialTicket dials the inviter under the ticket's key, from a throw-away host
// that listens nowhere and talks to nobody else, and opens join/1. ctx bounds
// the dialling; the stream has no deadline yet (Deadline). Close the stream,
// then the io.Closer. Trying again is safe. The errors are ErrTicketExpired,
// ErrForeign when another node answers at the inviter's addresses, ErrRefused
// when the ticket was used, cancelled or has expired, each with a hint, and
// network errors.
func DialTicket(ctx context.Context, t Ticket) (network.Stream, io.Closer, error) {
	if err := errors.Join(t.Validate(), t.Check(time.Now())); err != nil {
		return nil, nil, fmt.Errorf("dial the inviter: %w", err)
	}
	key, err := KeyFromSeed(t.Seed)
	if err != nil {
		return nil, nil, fmt.Errorf("dial the inviter: %w", err)
	}
	h, err := ticketHost(t, netConfig{key: key, quic: slices.ContainsFunc(t.Addrs, isQUIC), keepAlive: bulkKeepAlive})
	if err != nil {
		return nil, nil, fmt.Errorf("dial the inviter: %w", err)
	}
	s, err := openJoin(ctx, h, t)
	if err != nil {
		return nil, nil, fmt.Errorf("dial the inviter %s: %w", t.Inviter, errors.Join(err, h.Close()))
	}
	return s, h, nil
}

// ticketHost is a host whose whole world is the inviter.
func ticketHost(t Ticket, c netConfig) (*laneHost, error) {
	g := &gate{self: t.PeerID(), reach: func(peer.ID) bool { return true }, clock: time.Now, log: slog.New(slog.DiscardHandler)}
	g.table.Store(&table{peers: map[peer.ID]Peer{t.Inviter: {ID: t.Inviter, Class: Member, Bulk: t.Addrs}}})
	resources, err := newResources(g, 64<<20)
	if err != nil {
		return nil, err
	}
	c.resources = resources
	h, err := newHost(laneGate{g, "join", Member}, c)
	if err != nil {
		return nil, err
	}
	h.Peerstore().AddAddrs(t.Inviter, t.Addrs, peerstore.PermanentAddrTTL)
	return h, nil
}

func openJoin(ctx context.Context, h *laneHost, t Ticket) (network.Stream, error) {
	if err := h.Connect(ctx, peer.AddrInfo{ID: t.Inviter}); err != nil {
		if _, mismatch := errors.AsType[sec.ErrPeerIDMismatch](err); mismatch {
			return nil, hint(fmt.Errorf("another node answers at its address: %w: %w", ErrForeign, err),
				"the inviter's address has changed hands, or something stands in between; check where the ticket's addresses lead")
		}
		return nil, hint(err, "check that the inviting node is up and that its bulk port can be reached from here")
	}
	// TLS lets this side believe it is in; the gate's no arrives afterwards, as
	// the end of the connection.
	s, err := h.NewStream(network.WithNoDial(ctx, "connected"), t.Inviter, protocol.ID("/valise/"+t.ClusterID+"/"+JoinProtocol))
	if err != nil && ctx.Err() == nil {
		if _, unknown := errors.AsType[multistream.ErrNotSupported[protocol.ID]](err); unknown {
			return nil, hint(fmt.Errorf("it serves no tickets of cluster %s: %w", t.ClusterID, err), "let the inviting node finish starting, and try again")
		}
		if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
			return nil, hint(err, "the inviting node is there and does not answer; the ticket is good still, try again")
		}
		return nil, hint(fmt.Errorf("%w: %w", ErrRefused, err), "it was used, cancelled or has expired; ask for a new one with \"valise cluster invite\"")
	}
	return s, err
}
