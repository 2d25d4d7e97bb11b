package dht

import (
	"cmp"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	goyamux "github.com/libp2p/go-yamux/v5"
	"github.com/multiformats/go-multiaddr"
	"github.com/quic-go/quic-go"
)

const (
	// handshakeTimeout bounds what an incoming connection may take until its
	// peer is known and admitted, and an outgoing one until it is up.
	handshakeTimeout = 10 * time.Second
	// connectTimeout bounds a TCP connect within that.
	connectTimeout = 5 * time.Second
	// tcpHeadStart is how long a TCP address is tried alone before QUIC ones,
	// which cost two and a half times the processor time.
	tcpHeadStart = 300 * time.Millisecond
)

// netConfig is what newSwarm needs.
type netConfig struct {
	key       crypto.PrivKey
	gater     connmgr.ConnectionGater
	resources network.ResourceManager
	listen    []multiaddr.Multiaddr
	quic      bool
	// handshake bounds incoming handshakes over TCP; default handshakeTimeout.
	handshake time.Duration
	// keepAlive is how often a silent connection is probed, and how long a
	// probe or a blocked write may take before the connection counts as dead.
	keepAlive time.Duration
}

// newSwarm builds libp2p's network layer: TCP with TLS 1.3 and yamux, QUIC
// where asked, and nothing else: no relay, port mapping, observed addresses.
// The function it returns closes all of it.
func newSwarm(c netConfig) (_ *swarm.Swarm, _ event.Bus, _ func() error, err error) {
	id, err := peer.IDFromPrivateKey(c.key)
	if err != nil {
		return nil, nil, nil, err
	}
	var closers []io.Closer
	closeAll := func() error {
		var errs []error
		for i := len(closers) - 1; i >= 0; i-- {
			errs = append(errs, closers[i].Close())
		}
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()

	closers = append(closers, c.resources)
	ps, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, nil, nil, err
	}
	closers = append(closers, ps)
	if err := errors.Join(ps.AddPrivKey(id, c.key), ps.AddPubKey(id, c.key.GetPublic())); err != nil {
		return nil, nil, nil, err
	}
	bus := eventbus.NewBus()
	s, err := swarm.NewSwarm(id, ps, bus,
		swarm.WithConnectionGater(c.gater),
		swarm.WithResourceManager(c.resources),
		swarm.WithDialRanker(rankTCPFirst),
		swarm.WithDialTimeout(handshakeTimeout),
		// Members are few and known: no transport is written off because
		// some of them are down.
		swarm.WithUDPBlackHoleSuccessCounter(nil),
		swarm.WithIPv6BlackHoleSuccessCounter(nil),
	)
	if err != nil {
		return nil, nil, nil, err
	}
	closers = append(closers, s)

	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: newMuxer(c.keepAlive)}}
	tls, err := newTLS(c.key, id, yamux.ID)
	if err != nil {
		return nil, nil, nil, err
	}
	up, err := upgrader.New([]sec.SecureTransport{tls}, muxers, nil, c.resources, c.gater, upgrader.WithAcceptTimeout(cmp.Or(c.handshake, handshakeTimeout)))
	if err != nil {
		return nil, nil, nil, err
	}
	// No port reuse: a second daemon on the same port must fail, and dialling
	// needs no particular source port where nobody punches holes.
	overTCP, err := tcp.NewTCPTransport(up, c.resources, nil, tcp.DisableReuseport(), tcp.WithConnectionTimeout(connectTimeout))
	if err != nil {
		return nil, nil, nil, err
	}
	if err := s.AddTransport(overTCP); err != nil {
		return nil, nil, nil, err
	}
	if c.quic {
		cm, err := newQUIC(s, c)
		if err != nil {
			return nil, nil, nil, err
		}
		closers = append([]io.Closer{cm}, closers...)
	}
	for _, a := range c.listen {
		if err := s.Listen(a); err != nil {
			return nil, nil, nil, hint(fmt.Errorf("listen on %s: %w", a, err),
				"another process may hold the port, or the address is not this machine's; \"listen-base\" and \"listen\" choose others")
		}
	}
	return s, bus, closeAll, nil
}

// newMuxer is yamux with the window libp2p uses, 16 MiB, so that one stream can
// fill a long line.
func newMuxer(keepAlive time.Duration) network.Multiplexer {
	c := *yamux.DefaultTransport.Config()
	c.KeepAliveInterval = keepAlive
	c.ConnectionWriteTimeout = keepAlive
	return (*yamux.Transport)((*goyamux.Config)(&c))
}

// newQUIC adds the QUIC transport. Every client proves its source address
// first, so that nobody uses up another address's share of the door.
func newQUIC(s *swarm.Swarm, c netConfig) (*quicreuse.ConnManager, error) {
	raw, err := c.key.Raw()
	if err != nil {
		return nil, err
	}
	var reset quic.StatelessResetKey
	var token quic.TokenGeneratorKey
	for info, into := range map[string][]byte{"valise quic stateless reset 1": reset[:], "valise quic address token 1": token[:]} {
		key, err := hkdf.Key(sha256.New, raw, nil, info, len(into))
		if err != nil {
			return nil, err
		}
		copy(into, key)
	}
	cm, err := quicreuse.NewConnManager(reset, token,
		quicreuse.DisableReuseport(),
		quicreuse.VerifySourceAddress(func(net.Addr) bool { return true }),
		quicreuse.ConnContext(func(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
			from, err := quicreuse.ToQuicMultiaddr(info.RemoteAddr, quic.Version1)
			if err != nil {
				return ctx, err
			}
			scope, err := c.resources.OpenConnection(network.DirInbound, false, from)
			if err != nil {
				return ctx, err
			}
			context.AfterFunc(ctx, scope.Done)
			return network.WithConnManagementScope(ctx, scope), nil
		}))
	if err != nil {
		return nil, err
	}
	over, err := libp2pquic.NewTransport(c.key, cm, nil, c.gater, c.resources, libp2pquic.WithTLSIdentityOption(timeless()))
	if err != nil {
		return nil, errors.Join(err, cm.Close())
	}
	if err := s.AddTransport(over); err != nil {
		return nil, errors.Join(err, cm.Close())
	}
	return cm, nil
}

// rankTCPFirst dials TCP addresses as libp2p ranks them, QUIC ones after them.
func rankTCPFirst(addrs []multiaddr.Multiaddr) []network.AddrDelay {
	var quics, others []multiaddr.Multiaddr
	for _, a := range addrs {
		if isQUIC(a) {
			quics = append(quics, a)
		} else {
			others = append(others, a)
		}
	}
	ranked := swarm.DefaultDialRanker(others)
	var after time.Duration
	for _, r := range ranked {
		after = max(after, r.Delay+tcpHeadStart)
	}
	for _, r := range swarm.DefaultDialRanker(quics) {
		ranked = append(ranked, network.AddrDelay{Addr: r.Addr, Delay: r.Delay + after})
	}
	return ranked
}

func isQUIC(a multiaddr.Multiaddr) bool {
	_, err := a.ValueForProtocol(multiaddr.P_QUIC_V1)
	return err == nil
}
