package dht

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
)

// redial is the least time between two attempts to connect to a peer that did
// not answer. libp2p's own pause, 5 s and growing, is too long for a ledger
// that waits for a restarted node.
const redial = time.Second

// A Lane is one of the two hosts: bulk for bytes, lists and joining; ledger
// for the replicated log alone, so that no transfer delays a heartbeat. Its
// methods may be called concurrently.
type Lane struct {
	host   *laneHost
	door   *door
	prefix string // /valise/<cluster>/
	addrs  func(Peer) []multiaddr.Multiaddr

	mu    sync.Mutex // guards tried
	tried map[peer.ID]time.Time
}

// Host is the lane's libp2p host, for libraries that want one. What they
// handle under protocols of their own is served to members only.
func (l *Lane) Host() host.Host { return l.host }

// Addrs are the addresses this lane listens on, with their real ports; an
// unspecified address (0.0.0.0) stands for each of the machine's.
func (l *Lane) Addrs() []multiaddr.Multiaddr { return l.host.Addrs() }

// Handle serves protocol /valise/<cluster>/<name> to peers of the classes. To
// all others the protocol does not exist. The class is looked up anew for every
// stream. A second Handle of the same name replaces the first; nil ends it. fn
// owns the stream and must return once the stream was reset.
func (l *Lane) Handle(name string, classes Class, fn func(network.Stream)) {
	l.host.handle(l.protocol(name), nil, classes, fn)
}

func (l *Lane) protocol(name string) protocol.ID { return protocol.ID(l.prefix + name) }

// Serves says to which classes each protocol is served on this lane, whoever
// set its handler, for those who hold it against R2.
func (l *Lane) Serves() map[protocol.ID]Class {
	all := make(map[protocol.ID]Class)
	for class, mux := range l.host.muxes {
		for _, name := range mux.Protocols() {
			all[name] |= class
		}
	}
	return all
}

// Dial opens a stream of protocol /valise/<cluster>/<name> to a peer of the
// list, connecting first where needed, and returns when the peer has agreed.
// It ends with ctx, at the latest after 20 s; the stream then has no deadline
// (Deadline, Idle). Trying again is safe: no byte of the caller's was sent.
func (l *Lane) Dial(ctx context.Context, id peer.ID, name string) (network.Stream, error) {
	l.forgive(id)
	s, err := l.host.NewStream(ctx, id, l.protocol(name))
	if err != nil {
		return nil, fmt.Errorf("dial %s on the %s lane: %w", name, l.host.gate.lane, err)
	}
	return s, nil
}

// forgive lifts libp2p's pause after a failed dial once redial has passed.
func (l *Lane) forgive(id peer.ID) {
	if l.host.net.Connectedness(id) == network.Connected {
		return
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.tried[id]) < redial {
		return
	}
	l.tried[id] = now
	l.host.net.Backoff().Clear(id)
}

// Connected says whether a connection to id is open on this lane.
func (l *Lane) Connected(id peer.ID) bool {
	return l.host.net.Connectedness(id) == network.Connected
}

// For returns the lane as rooms see it that know no classes.
func (l *Lane) For(classes Class) *Port { return &Port{l, classes} }

// follow makes the lane fit the list that has just come into force.
func (l *Lane) follow(before, now *table) {
	ps := l.host.Peerstore()
	for id, old := range before.peers {
		p, named := now.peers[id]
		if !named || !sameAddrs(l.addrs(old), l.addrs(p)) {
			ps.ClearAddrs(id)
		}
		if !named {
			l.mu.Lock()
			delete(l.tried, id)
			l.mu.Unlock()
		}
	}
	for id, p := range now.peers {
		if id != l.host.ID() {
			ps.AddAddrs(id, l.addrs(p), peerstore.PermanentAddrTTL)
		}
	}
	l.sweep()
}

// sweep closes the connections of peers that are not admitted any more.
func (l *Lane) sweep() {
	for _, id := range l.host.net.Peers() {
		if !l.host.gate.admits(id) {
			l.host.net.ClosePeer(id)
		}
	}
}

func sameAddrs(a, b []multiaddr.Multiaddr) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}

// A Port is a lane with the classes settled.
type Port struct {
	lane    *Lane
	classes Class
}

// Handle is Lane.Handle for the port's classes.
func (p *Port) Handle(name string, fn func(network.Stream)) { p.lane.Handle(name, p.classes, fn) }

// Dial is Lane.Dial.
func (p *Port) Dial(ctx context.Context, id peer.ID, name string) (network.Stream, error) {
	return p.lane.Dial(ctx, id, name)
}

// Self is this node's peer id.
func (p *Port) Self() peer.ID { return p.lane.host.ID() }
