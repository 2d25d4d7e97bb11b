package dht

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// testLimits is a lane's resource manager with peers 1 to 4, one of each class,
// and members from 10 on.
func testLimits(t *testing.T, memory int64) network.ResourceManager {
	t.Helper()
	g := &gate{clock: time.Now, reach: func(peer.ID) bool { return true }}
	peers := []Peer{{ID: fixedID(t, 1), Class: Member}, {ID: fixedID(t, 2), Class: BlocksOnly}, {ID: fixedID(t, 3), Class: Federated},
		{ID: fixedID(t, 4), Class: TicketHolder, Until: time.Now().Add(time.Hour)}}
	for i := range byte(100) {
		peers = append(peers, Peer{ID: fixedID(t, 10+i), Class: Member})
	}
	g.table.Store(newTable("", List{Peers: peers}))
	rm, err := newResources(g, memory)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rm.Close() })
	return rm
}

// libp2p's own manager lets eight connections in from one address that is not
// loopback: the ninth node of a site behind NAT would stay outside. Ours has no
// limit of addresses, for members that are in.
func TestR1_SiteBehindOneAddress(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"/ip4/203.0.113.1", "/ip6/2001:db8::1"} {
		for _, transport := range []string{"/tcp/%d", "/udp/%d/quic-v1"} {
			rm := testLimits(t, 1<<30)
			for i := range 400 { // four connections of each member
				c, err := rm.OpenConnection(network.DirInbound, true, multiaddr.StringCast(from+fmt.Sprintf(transport, i+1)))
				if err != nil {
					t.Fatalf("connection %d from %s: %v", i, from, err)
				}
				defer c.Done()
				if err := c.SetPeer(fixedID(t, byte(10+i%100))); err != nil {
					t.Fatalf("connection %d from %s: %v", i, from, err)
				}
			}
		}
	}
}

// What one peer can hold is bounded, by its class.
func TestR1_PeersAreBoundedByClass(t *testing.T) {
	t.Parallel()
	rm := testLimits(t, 4<<30)
	for n, want := range map[byte]struct{ conns, streams, memory int }{
		1: {16, 1024, 512 << 20}, 2: {16, 1024, 512 << 20}, // they carry bytes
		3: {4, 16, 16 << 20}, 4: {4, 16, 16 << 20}, 5: {4, 16, 16 << 20}, // a federated node, a ticket, a stranger
	} {
		id := fixedID(t, n)
		conns := count(5000, func() error {
			c, err := rm.OpenConnection(network.DirInbound, true, multiaddr.StringCast("/ip4/203.0.113.1/tcp/1"))
			if err != nil {
				return err
			}
			t.Cleanup(c.Done)
			return c.SetPeer(id)
		})
		var last network.StreamManagementScope
		streams := count(5000, func() error {
			s, err := rm.OpenStream(id, network.DirInbound)
			if err == nil {
				last = s
				t.Cleanup(s.Done)
				err = s.SetProtocol("/a")
			}
			return err
		})
		memory := count(1<<12, func() error { return last.ReserveMemory(1<<20, network.ReservationPriorityAlways) }) << 20
		if conns != want.conns || streams != want.streams || memory != want.memory {
			t.Errorf("peer %d holds %d connections, %d streams and %d bytes, want %+v", n, conns, streams, memory, want)
		}
	}
}

// What all peers can hold together is bounded by what the configuration says.
func TestR1_LaneMemoryIsBounded(t *testing.T) {
	t.Parallel()
	const memory = 64 << 20
	rm := testLimits(t, memory)
	total := 0
	for n := range byte(20) {
		s, err := rm.OpenStream(fixedID(t, 10+n), network.DirInbound)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Done()
		if err := s.SetProtocol("/a"); err != nil {
			t.Fatal(err)
		}
		total += count(16, func() error { return s.ReserveMemory(1<<20, network.ReservationPriorityAlways) }) << 20
	}
	if total != memory {
		t.Errorf("%d bytes are held, want %d", total, memory)
	}
}

// count says how often fn succeeds, up to a bound.
func count(bound int, fn func() error) (n int) {
	for n < bound && fn() == nil {
		n++
	}
	return n
}
