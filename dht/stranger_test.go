package dht

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	pingproto "github.com/libp2p/go-libp2p/p2p/protocol/ping"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/multiformats/go-multistream"
)

// newStranger is an ordinary libp2p host, with identify and all.
func newStranger(t *testing.T, opts ...libp2p.Option) host.Host {
	t.Helper()
	h, err := libp2p.New(append([]libp2p.Option{libp2p.NoListenAddrs, libp2p.DisableMetrics()}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// every is every protocol a node serves or might be thought to serve.
func every(r *Road) []protocol.ID {
	ids := []protocol.ID{
		"/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", pingproto.ID, "/ipfs/kad/1.0.0", "/ipfs/lan/kad/1.0.0",
		"/ipfs/bitswap", "/ipfs/bitswap/1.2.0", "/libp2p/circuit/relay/0.2.0/hop", "/libp2p/circuit/relay/0.2.0/stop", "/libp2p/dcutr",
		"/libp2p/autonat/1.0.0", "/libp2p/autonat/2/dial-request", "/libp2p/fetch/0.0.1", "/floodsub/1.0.0", "/meshsub/1.1.0", "/http/1.1", "ls",
	}
	for _, h := range []*laneHost{r.bulk.host, r.ledger.host} {
		for _, mux := range h.muxes {
			ids = append(ids, mux.Protocols()...)
		}
	}
	for _, name := range []string{membersProtocol, JoinProtocol, "raft/1", "blocks/1", "kad/1.0.0", "bitswap/1.2.0"} {
		ids = append(ids, r.bulk.protocol(name))
	}
	return ids
}

// served sets up what a node serves, with handlers that would give themselves away.
func served(r *Road, called func(string)) {
	for lane, l := range map[string]*Lane{"bulk": r.Bulk(), "ledger": r.Ledger()} {
		for _, name := range []string{"raft/1", "blocks/1"} {
			l.Handle(name, Member|BlocksOnly|Federated, func(s network.Stream) {
				called(lane + " " + name)
				s.Write([]byte("secret"))
				s.Close()
			})
		}
	}
	r.Bulk().Handle(JoinProtocol, TicketHolder, func(s network.Stream) {
		called(JoinProtocol)
		s.Write([]byte("welcome"))
		s.Close()
	})
}

func TestR1_StrangerLearnsThePeerIDAndNothingElse(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	quic := multiaddr.StringCast("/ip4/127.0.0.1/udp/0/quic-v1")
	both := func(c *Config) {
		c.BulkListen = []multiaddr.Multiaddr{loopback[0], quic}
		c.LedgerListen = []multiaddr.Multiaddr{loopback[0], quic}
	}
	r := o.members(2, both)[0]
	served(r, func(what string) { t.Errorf("a stranger reached the handler of %s", what) })

	for name, lane := range map[string]*Lane{"bulk": r.Bulk(), "ledger": r.Ledger()} {
		for _, addr := range lane.Addrs() {
			t.Run(name+strings.ReplaceAll(addr.String(), "/", "_"), func(t *testing.T) {
				t.Parallel()
				h := newStranger(t)
				identified, err := h.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted))
				if err != nil {
					t.Fatal(err)
				}
				defer identified.Close()
				for _, id := range every(r) {
					tryStranger(t, h, r, addr, id)
				}
				select {
				case e := <-identified.Out():
					t.Errorf("identify has run: %+v", e)
				default:
				}
				ps := h.Peerstore()
				if got, _ := ps.GetProtocols(r.Self()); len(got) > 0 {
					t.Errorf("the stranger knows protocols %v", got)
				}
				if got, err := ps.Get(r.Self(), "AgentVersion"); err == nil {
					t.Errorf("the stranger knows the agent version %v", got)
				}
				if got := ps.Addrs(r.Self()); len(got) > 1 || len(got) == 1 && !got[0].Equal(addr) {
					t.Errorf("the stranger knows addresses %v, dialled %v", got, addr)
				}
				if got := ps.Peers(); len(got) > 2 {
					t.Errorf("the stranger knows peers %v", got)
				}
			})
		}
	}
}

// tryStranger dials, tries a protocol, and waits until the connection is cut.
func tryStranger(t *testing.T, h host.Host, r *Road, addr multiaddr.Multiaddr, id protocol.ID) {
	t.Helper()
	ctx := network.WithForceDirectDial(within(t), "test")
	h.Peerstore().AddAddr(r.Self(), addr, peerstore.TempAddrTTL)
	h.Network().(*swarm.Swarm).Backoff().Clear(r.Self())
	before := r.Status().Rejected
	if _, err := h.Network().DialPeer(ctx, r.Self()); err == nil {
		s, err := h.Network().NewStream(network.WithNoDial(ctx, "test"), r.Self())
		if err == nil {
			s.SetDeadline(time.Now().Add(patience))
			if _, err := multistream.SelectOneOf([]protocol.ID{id}, s); err == nil {
				t.Errorf("the stranger opened %s", id)
			} else if _, told := errors.AsType[multistream.ErrNotSupported[protocol.ID]](err); told {
				t.Errorf("the stranger was told that %s is not served", id)
			}
			s.Reset()
		}
	}
	until(t, "the connection is cut", func() bool { return len(h.Network().ConnsToPeer(r.Self())) == 0 })
	until(t, "the rejection is counted", func() bool { return r.Status().Rejected > before })
	if got := append(r.bulk.host.net.ConnsToPeer(h.ID()), r.ledger.host.net.ConnsToPeer(h.ID())...); len(got) > 0 {
		t.Errorf("this side keeps a connection to the stranger")
	}
}

// A stranger with bare TLS, who presents a good certificate and speaks first,
// reads the end of the connection and not one byte.
func TestR1_RawTLS(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	r := o.members(2)[0]
	served(r, func(what string) { t.Errorf("a stranger reached the handler of %s", what) })
	for name, lane := range map[string]*Lane{"bulk": r.Bulk(), "ledger": r.Ledger()} {
		for _, alpn := range [][]string{{"/yamux/1.0.0", "libp2p"}, {"libp2p"}} {
			t.Run(fmt.Sprint(name, alpn), func(t *testing.T) {
				t.Parallel()
				conn := rawTLS(t, lane.Addrs()[0], alpn)
				if got, err := libp2ptls.PubKeyFromCertChain(conn.ConnectionState().PeerCertificates); err != nil || !r.Self().MatchesPublicKey(got) {
					t.Fatalf("the certificate does not show the peer id: %v", err)
				}
				// A yamux window update that opens stream 1, then a protocol choice.
				conn.Write([]byte{0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0})
				conn.Write([]byte("\x13/multistream/1.0.0\n"))
				got, err := io.ReadAll(conn)
				if len(got) > 0 {
					t.Errorf("a stranger read %q", got)
				}
				if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
					t.Errorf("the connection is not cut: %v", err)
				}
			})
		}
	}
}

// rawTLS makes a handshake as libp2p does, with a fresh key, by hand.
func rawTLS(t *testing.T, addr multiaddr.Multiaddr, alpn []string) *tls.Conn {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := libp2ptls.NewIdentity(key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := manet.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(patience))
	if err := multistream.SelectProtoOrFail(libp2ptls.ID, raw); err != nil {
		t.Fatal(err)
	}
	config, _ := id.ConfigForPeer("")
	config.NextProtos = alpn
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(context.Background()); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Before the handshake, only the transport's own names are there to be found.
func TestR1_NothingInTheClear(t *testing.T) {
	t.Parallel()
	r := newOrg(t).members(2)[0]
	for _, lane := range []*Lane{r.Bulk(), r.Ledger()} {
		for _, try := range []string{"/noise", "/plaintext/2.0.0", "/yamux/1.0.0", "/ipfs/id/1.0.0", string(lane.protocol(membersProtocol))} {
			raw, err := manet.Dial(lane.Addrs()[0])
			if err != nil {
				t.Fatal(err)
			}
			raw.SetDeadline(time.Now().Add(patience))
			err = multistream.SelectProtoOrFail(try, raw)
			if _, refused := errors.AsType[multistream.ErrNotSupported[string]](err); !refused {
				t.Errorf("%s: got %v, want it refused", try, err)
			}
			raw.Close()
		}
		raw, err := manet.Dial(lane.Addrs()[0])
		if err != nil {
			t.Fatal(err)
		}
		raw.SetDeadline(time.Now().Add(patience))
		io.WriteString(raw, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"+strings.Repeat("x", 1000))
		got, _ := io.ReadAll(raw)
		if rest := bytes.TrimPrefix(got, []byte("\x13/multistream/1.0.0\n")); len(rest) > 0 {
			t.Errorf("a stranger read %q", rest)
		}
		raw.Close()
	}
}

// A host of ours that was told to dial a stranger does not even try, and one
// that finds a stranger at a member's address lets go of it.
func TestR1_NoStrangerIsDialled(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	r := o.members(2)[0]
	h := newStranger(t, libp2p.ListenAddrs(loopback...))
	for _, lane := range []*Lane{r.Bulk(), r.Ledger()} {
		lane.Host().Peerstore().AddAddrs(h.ID(), h.Addrs(), peerstore.TempAddrTTL)
		if _, err := lane.Dial(within(t), h.ID(), "raft/1"); !errors.Is(err, ErrNotAdmitted) {
			t.Errorf("got %v, want ErrNotAdmitted", err)
		}
		if _, err := lane.Host().Network().DialPeer(within(t), h.ID()); err == nil {
			t.Error("a stranger was dialled")
		}
		if err := lane.Host().Connect(within(t), peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()}); !errors.Is(err, ErrNotAdmitted) {
			t.Errorf("got %v, want ErrNotAdmitted", err)
		}
	}
	// a member's line leads to the stranger's address
	ghost := o.open()
	line := peerOf(ghost, Member, "")
	line.Bulk = h.Addrs()
	o.add(line)
	o.publish(r)
	if s, err := r.Bulk().Dial(within(t), ghost.Self(), membersProtocol); err == nil {
		s.Reset()
		t.Error("a stranger passed for a member")
	}
	if got := h.Network().Conns(); len(got) > 0 {
		until(t, "the stranger's side is cut too", func() bool { return len(h.Network().Conns()) == 0 })
	}
	if got, _ := h.Peerstore().GetProtocols(r.Self()); len(got) > 0 {
		t.Errorf("the stranger knows protocols %v", got)
	}
}
