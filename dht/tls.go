package dht

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
)

// secureTLS is libp2p's TLS 1.3, on the wire as in its own transport, but for
// the certificate's time: libp2p's is valid from an hour before the process
// started, so that a node whose clock is more than that ahead is refused by all
// others, and one whose clock is behind refuses them (R6).
type secureTLS struct {
	identity *libp2ptls.Identity
	self     peer.ID
	alpn     []string // our multiplexer, so that it needs no round trip of its own
}

var _ sec.SecureTransport = (*secureTLS)(nil)

func newTLS(key crypto.PrivKey, self peer.ID, muxer protocol.ID) (*secureTLS, error) {
	identity, err := libp2ptls.NewIdentity(key, timeless())
	if err != nil {
		return nil, err
	}
	return &secureTLS{identity: identity, self: self, alpn: []string{string(muxer), "libp2p"}}, nil
}

// timeless has a certificate be valid by any clock: from 1970 until the end
// that stands for none (RFC 5280, 4.1.2.5). What expires here are lines of the
// member list.
func timeless() libp2ptls.IdentityOption {
	return libp2ptls.WithCertTemplate(&x509.Certificate{
		NotBefore: time.Unix(0, 0),
		NotAfter:  time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		Subject:   pkix.Name{SerialNumber: rand.Text()}, // RFC 5280, 4.1.2.4: never empty
	})
}

// ID is the transport's name in the choice before the handshake.
func (*secureTLS) ID() protocol.ID { return libp2ptls.ID }

// SecureInbound is the server's handshake; p is empty, for whoever comes.
func (t *secureTLS) SecureInbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	return t.handshake(ctx, insecure, p, tls.Server)
}

// SecureOutbound is the client's handshake. It ends before the server has seen
// the client's certificate.
func (t *secureTLS) SecureOutbound(ctx context.Context, insecure net.Conn, p peer.ID) (sec.SecureConn, error) {
	return t.handshake(ctx, insecure, p, tls.Client)
}

func (t *secureTLS) handshake(ctx context.Context, insecure net.Conn, p peer.ID, side func(net.Conn, *tls.Config) *tls.Conn) (sec.SecureConn, error) {
	config, key := t.identity.ConfigForPeer(p)
	config.NextProtos = t.alpn
	c := side(insecure, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, insecure.Close())
	}
	var proven crypto.PubKey
	select {
	case proven = <-key:
	default: // the handshake is done: it would be there
	}
	if proven == nil {
		return nil, errors.Join(errors.New("tls: the peer has proven no key"), insecure.Close())
	}
	id, err := peer.IDFromPublicKey(proven)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tls: %w", err), insecure.Close())
	}
	conn := &secureConn{Conn: c, self: t.self, peer: id, key: proven}
	if chosen := c.ConnectionState().NegotiatedProtocol; chosen == t.alpn[0] {
		conn.state = network.ConnectionState{StreamMultiplexer: protocol.ID(chosen), UsedEarlyMuxerNegotiation: true}
	}
	return conn, nil
}

// secureConn is a connection after its handshake.
type secureConn struct {
	*tls.Conn
	self, peer peer.ID
	key        crypto.PubKey
	state      network.ConnectionState
}

func (c *secureConn) LocalPeer() peer.ID                 { return c.self }
func (c *secureConn) RemotePeer() peer.ID                { return c.peer }
func (c *secureConn) RemotePublicKey() crypto.PubKey     { return c.key }
func (c *secureConn) ConnState() network.ConnectionState { return c.state }
