package dht

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// ErrNotAdmitted says that the member list in force does not admit a peer on
// this lane, or that a fault seam keeps it away. Trying again helps only after
// a newer list.
var ErrNotAdmitted = errors.New("peer is not admitted")

// skew is how much the clocks of two nodes may differ (R6).
const skew = 60 * time.Second

// A gate decides who gets in, on both lanes, by the list in force.
type gate struct {
	self  peer.ID
	reach func(peer.ID) bool
	clock func() time.Time
	log   *slog.Logger

	table    atomic.Pointer[table]
	shut     atomic.Bool // the road is closing
	rejected atomic.Uint64
}

// A table is one list in force, ready for look-ups. It never changes.
type table struct {
	list    List
	peers   map[peer.ID]Peer
	ips     map[string]bool // of the listed addresses
	removed bool            // the list does not name this node: the gate is closed for all
}

func newTable(self peer.ID, l List) *table {
	t := &table{list: l, peers: make(map[peer.ID]Peer, len(l.Peers)), ips: make(map[string]bool)}
	for _, p := range l.Peers {
		t.peers[p.ID] = p
		for _, addrs := range [][]multiaddr.Multiaddr{p.Bulk, p.Ledger} {
			for _, a := range addrs {
				if key := ipKey(a); key != "" {
					t.ips[key] = true
				}
			}
		}
	}
	_, named := t.peers[self]
	t.removed = l.Number > 0 && !named
	return t
}

// class returns what id is at this moment: no class for strangers, for those
// whose time is over, for classes of a later version, and for everybody while
// this node is removed or the cable to id is cut.
func (g *gate) class(id peer.ID) Class {
	t := g.table.Load()
	if t.removed || g.shut.Load() || id == g.self {
		return 0
	}
	p, ok := t.peers[id]
	if !ok || !g.reach(id) {
		return 0
	}
	if !p.Until.IsZero() && g.clock().After(p.Until.Add(skew)) {
		return 0
	}
	return p.Class & known
}

// laneGate is the gate as one lane's host asks it: only the lane's own classes
// get through.
type laneGate struct {
	*gate
	lane    string
	classes Class
}

var _ connmgr.ConnectionGater = laneGate{}

func (g laneGate) admits(id peer.ID) bool { return g.class(id)&g.classes != 0 }

// InterceptPeerDial keeps this node from even trying a peer that is not admitted.
func (g laneGate) InterceptPeerDial(id peer.ID) bool { return g.admits(id) }

// InterceptAddrDial has nothing to add: the handshake proves the peer's id.
func (g laneGate) InterceptAddrDial(id peer.ID, _ multiaddr.Multiaddr) bool { return g.admits(id) }

// InterceptAccept knows no peer yet; the limits on strangers decide here (door).
func (g laneGate) InterceptAccept(network.ConnMultiaddrs) bool { return !g.shut.Load() }

// InterceptSecured is the gate proper: the handshake has just proven the id,
// and no multiplexer, stream or protocol exists yet.
func (g laneGate) InterceptSecured(dir network.Direction, id peer.ID, at network.ConnMultiaddrs) bool {
	if g.admits(id) {
		return true
	}
	n := g.rejected.Add(1)
	g.log.LogAttrs(context.Background(), slog.LevelDebug, "rejected peer", slog.String("lane", g.lane), slog.String("peer", id.String()),
		slog.String("addr", at.RemoteMultiaddr().String()), slog.String("direction", dir.String()), slog.Uint64("rejected", n))
	return false
}

// InterceptUpgraded asks again, because the list may have changed meanwhile.
func (g laneGate) InterceptUpgraded(c network.Conn) (bool, control.DisconnectReason) {
	return g.admits(c.RemotePeer()), 0
}
