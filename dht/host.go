package dht

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"
)

const (
	// negotiateTimeout bounds the choice of a stream's protocol, both ways.
	negotiateTimeout = 10 * time.Second
	// handlersTimeout bounds how long Close waits for handlers whose streams
	// it has reset.
	handlersTimeout = 10 * time.Second
)

// laneHost is a host.Host without identify: two nodes tell each other no
// protocols, addresses or versions, because the list has told what they may
// know. It has one protocol switch per class, so that a protocol a class may
// not use does not exist for its peers. Handlers set through the host.Host
// interface, as libraries do (Kademlia, bitswap), are for members.
type laneHost struct {
	gate    laneGate
	net     *swarm.Swarm
	bus     event.Bus
	updates event.Emitter
	release func() error
	muxes   map[Class]*multistream.MultistreamMuxer[protocol.ID]
	// negotiateTimeout and handlersTimeout, for tests to shorten.
	negotiateWithin, closeWithin time.Duration

	mu      sync.Mutex // guards closed and adding to serving
	closed  bool
	serving sync.WaitGroup // handlers that run
}

var _ host.Host = (*laneHost)(nil)

func newHost(g laneGate, c netConfig) (*laneHost, error) {
	c.gater = g
	s, bus, release, err := newSwarm(c)
	if err != nil {
		return nil, err
	}
	h := &laneHost{gate: g, net: s, bus: bus, release: release, muxes: make(map[Class]*multistream.MultistreamMuxer[protocol.ID]),
		negotiateWithin: negotiateTimeout, closeWithin: handlersTimeout}
	if h.updates, err = bus.Emitter(&event.EvtLocalProtocolsUpdated{}); err != nil {
		return nil, errors.Join(err, release())
	}
	for class := Member; class&known != 0; class <<= 1 {
		h.muxes[class] = multistream.NewMultistreamMuxer[protocol.ID]()
	}
	s.SetStreamHandler(h.accept)
	return h, nil
}

// accept serves one incoming stream.
func (h *laneHost) accept(s network.Stream) {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		s.Reset()
		return
	}
	h.serving.Add(1)
	h.mu.Unlock()
	defer h.serving.Done()

	mux := h.muxes[h.gate.class(s.Conn().RemotePeer())&h.gate.classes]
	if mux == nil { // no class: the list has changed, or the cable is cut
		s.Reset()
		return
	}
	name, handle, err := h.negotiate(s, mux)
	if err != nil {
		s.ResetWithError(network.StreamProtocolNegotiationFailed)
		return
	}
	if err := s.SetProtocol(name); err != nil {
		s.ResetWithError(network.StreamResourceLimitExceeded)
		return
	}
	handle(name, s)
}

func (h *laneHost) negotiate(s network.Stream, mux *multistream.MultistreamMuxer[protocol.ID]) (protocol.ID, multistream.HandlerFunc[protocol.ID], error) {
	if err := s.SetDeadline(time.Now().Add(h.negotiateWithin)); err != nil {
		return "", nil, err
	}
	name, handle, err := mux.Negotiate(s)
	if err != nil {
		return "", nil, err
	}
	return name, handle, s.SetDeadline(time.Time{})
}

// handle serves a protocol to the classes of the set; a nil fn ends that.
func (h *laneHost) handle(name protocol.ID, match func(protocol.ID) bool, classes Class, fn network.StreamHandler) {
	if match == nil {
		match = func(p protocol.ID) bool { return p == name }
	}
	serve := func(_ protocol.ID, rwc io.ReadWriteCloser) error {
		fn(rwc.(network.Stream))
		return nil
	}
	for class, mux := range h.muxes {
		if fn != nil && classes&class != 0 {
			mux.AddHandlerWithFunc(name, match, serve)
		} else {
			mux.RemoveHandler(name)
		}
	}
	change := event.EvtLocalProtocolsUpdated{Added: []protocol.ID{name}}
	if fn == nil {
		change = event.EvtLocalProtocolsUpdated{Removed: []protocol.ID{name}}
	}
	h.updates.Emit(change)
}

// NewStream opens a stream and agrees on its protocol before it returns.
// Without a deadline in ctx, connecting and agreeing may take 10 s each.
func (h *laneHost) NewStream(ctx context.Context, id peer.ID, names ...protocol.ID) (network.Stream, error) {
	if !h.gate.admits(id) {
		return nil, fmt.Errorf("open stream to %s: %w", id, ErrNotAdmitted)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout+negotiateTimeout)
	defer cancel()
	s, err := h.net.NewStream(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("open stream to %s: %w", id, err)
	}
	stop := Deadline(ctx, s, h.negotiateWithin)
	name, err := multistream.SelectOneOf(names, s)
	stop()
	if err == nil {
		err = s.SetProtocol(name)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		s.ResetWithError(network.StreamProtocolNegotiationFailed)
		return nil, fmt.Errorf("agree on a protocol with %s: %w", id, errors.Join(err, ctx.Err()))
	}
	return s, nil
}

// Connect dials a peer unless a connection is open.
func (h *laneHost) Connect(ctx context.Context, to peer.AddrInfo) error {
	if !h.gate.admits(to.ID) {
		return fmt.Errorf("connect to %s: %w", to.ID, ErrNotAdmitted)
	}
	if h.net.Connectedness(to.ID) == network.Connected {
		return nil
	}
	h.Peerstore().AddAddrs(to.ID, to.Addrs, peerstore.TempAddrTTL)
	_, err := h.net.DialPeer(ctx, to.ID)
	return err
}

// Close ends the network and waits until the handlers have returned, which
// they do because their streams are reset; after 10 s it gives up on them.
func (h *laneHost) Close() error {
	h.mu.Lock()
	again := h.closed
	h.closed = true
	h.mu.Unlock()
	if again {
		return nil
	}
	err := errors.Join(h.net.Close(), h.updates.Close())
	done := make(chan struct{})
	go func() {
		h.serving.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(h.closeWithin):
		err = errors.Join(err, fmt.Errorf("close lane %s: a stream handler does not return", h.gate.lane))
	}
	return errors.Join(err, h.release())
}

// SetStreamHandler serves a protocol to members.
func (h *laneHost) SetStreamHandler(name protocol.ID, fn network.StreamHandler) {
	h.handle(name, nil, Member, fn)
}

// SetStreamHandlerMatch serves matching protocols to members.
func (h *laneHost) SetStreamHandlerMatch(name protocol.ID, match func(protocol.ID) bool, fn network.StreamHandler) {
	h.handle(name, match, Member, fn)
}

// RemoveStreamHandler ends serving a protocol.
func (h *laneHost) RemoveStreamHandler(name protocol.ID) { h.handle(name, nil, 0, nil) }

// Addrs are the addresses listened on, as other machines can dial them.
func (h *laneHost) Addrs() []multiaddr.Multiaddr {
	addrs, err := h.net.InterfaceListenAddresses()
	if err != nil {
		return h.net.ListenAddresses()
	}
	return addrs
}

// ID is this node's peer id.
func (h *laneHost) ID() peer.ID { return h.net.LocalPeer() }

// Peerstore holds the addresses of the list's peers.
func (h *laneHost) Peerstore() peerstore.Peerstore { return h.net.Peerstore() }

// Network is the host's libp2p network.
func (h *laneHost) Network() network.Network { return h.net }

// Mux is the switch that members meet.
func (h *laneHost) Mux() protocol.Switch { return h.muxes[Member] }

// ConnManager trims nothing: members are few, and the gate bounds them.
func (h *laneHost) ConnManager() connmgr.ConnManager { return connmgr.NullConnMgr{} }

// EventBus is the host's bus.
func (h *laneHost) EventBus() event.Bus { return h.bus }
