package dht

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime/pprof"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/quic-go/quic-go"
)

func testDoor(t *testing.T) *door {
	g := &gate{clock: time.Now, reach: func(peer.ID) bool { return true }}
	g.table.Store(newTable("", List{Peers: []Peer{
		{ID: fixedID(t, 1), Class: Member, Bulk: addrs("/ip4/198.51.100.7/tcp/4101", "/ip4/198.51.100.8/tcp/4101")},
		{ID: fixedID(t, 2), Class: BlocksOnly},
	}}))
	return newDoor(&network.NullResourceManager{}, laneGate{g, "ledger", Member})
}

func enterAll(d *door, n int, from func(i int) string) (in []*pending) {
	for i := range n {
		if p, ok := d.enter(multiaddr.StringCast(from(i))); ok {
			in = append(in, p)
		}
	}
	return in
}

func TestPromise6_UnfinishedHandshakesAreBounded(t *testing.T) {
	t.Parallel()
	d := testDoor(t)
	one := enterAll(d, 1000, func(i int) string { return fmt.Sprintf("/ip4/203.0.113.1/tcp/%d", i+1) })
	if len(one) != maxPendingIP {
		t.Errorf("one address holds %d, want %d", len(one), maxPendingIP)
	}
	net6 := enterAll(d, 1000, func(i int) string { return fmt.Sprintf("/ip6/2001:db8::%x/tcp/1", i+1) })
	if len(net6) != maxPendingIP {
		t.Errorf("one IPv6 network holds %d, want %d", len(net6), maxPendingIP)
	}
	many := enterAll(d, 200, func(i int) string { return fmt.Sprintf("/ip4/203.0.113.%d/tcp/1", i+2) })
	if got := len(one) + len(net6) + len(many); got != maxPendingOther {
		t.Errorf("unlisted addresses hold %d, want %d", got, maxPendingOther)
	}
	listed := enterAll(d, 200, func(i int) string { return fmt.Sprintf("/ip4/198.51.100.%d/tcp/%d", 7+i%2, i+1) })
	if len(listed) != maxPending-maxPendingOther {
		t.Errorf("listed addresses find %d places, want %d", len(listed), maxPending-maxPendingOther)
	}
	for _, p := range append(append(append(one, net6...), many...), listed...) {
		p.leave(false)
		p.leave(false)
	}
	if d.total != 0 || d.other != 0 || len(d.perIP) != 0 {
		t.Errorf("left over: %d, %d, %v", d.total, d.other, d.perIP)
	}
}

// QUIC names the peer before the gate is asked. Only whom this lane admits is
// through with its handshake then, and gets its unit back.
func TestPromise6_PeersOfTheOtherLaneStayCounted(t *testing.T) {
	t.Parallel()
	for class, want := range map[byte]struct {
		pending int
		left    float64
	}{1: {0, handshakeBurst}, 2: {1, handshakeBurst - 1}, 3: {1, handshakeBurst - 1}} {
		d := testDoor(t)
		d.otherRate.perSecond = 0
		scope, err := d.OpenConnection(network.DirInbound, false, multiaddr.StringCast("/ip4/203.0.113.1/udp/1/quic-v1"))
		if err != nil {
			t.Fatal(err)
		}
		if err := scope.SetPeer(fixedID(t, class)); err != nil {
			t.Fatal(err)
		}
		if d.total != want.pending || d.otherRate.left != want.left {
			t.Errorf("peer %d: %d handshakes are pending, %v units left, want %+v", class, d.total, d.otherRate.left, want)
		}
		scope.Done()
		if d.total != 0 {
			t.Errorf("peer %d: %d handshakes are pending after the end", class, d.total)
		}
	}
}

// Handshakes that finish soon are bounded by rate; those that succeed give
// their unit back, so that a whole site behind one address can come in.
func TestPromise6_HandshakesAreBoundedByRate(t *testing.T) {
	t.Parallel()
	d := testDoor(t)
	in := 0
	for range 20 * handshakeBurst {
		if p, ok := d.enter(multiaddr.StringCast("/ip4/203.0.113.1/tcp/1")); ok {
			in++
			p.leave(false)
		}
	}
	if in < handshakeBurst || in > 2*handshakeBurst {
		t.Errorf("one address began %d handshakes", in)
	}
	for i := range 20 * handshakeBurst {
		p, ok := d.enter(multiaddr.StringCast("/ip4/198.51.100.7/tcp/1"))
		if !ok {
			t.Fatalf("good handshake %d was refused", i)
		}
		p.leave(true)
	}
	for i := range 3 * maxRememberedDoors { // many addresses
		if p, ok := d.enter(multiaddr.StringCast(fmt.Sprintf("/ip4/10.0.%d.%d/tcp/1", i/256%256, i%256))); ok {
			p.leave(false)
		}
	}
	if len(d.rates) > maxRememberedDoors {
		t.Errorf("%d addresses are remembered", len(d.rates))
	}
}

// One address that knocks faster than it may uses up its own rate and not the
// one that all unlisted addresses share: who joins by a ticket gets in beside it.
func TestPromise6_OneAddressDoesNotShutOutTheOthers(t *testing.T) {
	t.Parallel()
	d := testDoor(t)
	knock := func(ip string) bool {
		p, ok := d.enter(multiaddr.StringCast("/ip4/" + ip + "/tcp/1"))
		if ok {
			p.leave(false)
		}
		return ok
	}
	for knock("203.0.113.1") {
	}
	d.otherRate.left = 100
	for range 10 * handshakeBurst {
		knock("203.0.113.1")
	}
	if !knock("203.0.113.2") {
		t.Fatal("a second address is refused")
	}
	// nor does the shared rate cost an address its own
	d.otherRate.left, d.otherRate.perSecond = 0, 0
	before := d.rates["203.0.113.2"].left
	if knock("203.0.113.2") || d.rates["203.0.113.2"].left < before {
		t.Errorf("%v units left of %v", d.rates["203.0.113.2"].left, before)
	}
}

// Silent connections: only so many are kept, and none longer than the
// handshake may take. Afterwards a member gets in.
func TestPromise6_SilentConnections(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	r := o.open(func(c *Config) { c.HandshakeTimeout = 2 * time.Second })
	m := o.open()
	o.add(peerOf(r, Member, ""), peerOf(m, Member, ""))
	o.publish(r, m)
	for _, l := range []*Lane{r.Bulk(), r.Ledger()} {
		var wg sync.WaitGroup
		for range 2 * maxPendingIP {
			c, err := manet.Dial(l.Addrs()[0])
			if err != nil {
				continue
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				if _, err := io.Copy(io.Discard, c); isTimeout(err) {
					t.Error("a silent connection is kept")
				}
			})
		}
		until(t, "the crowd is counted", func() bool { return r.Status().Crowded > 0 })
		l.door.mu.Lock()
		if l.door.total > maxPendingIP {
			t.Errorf("%d handshakes are pending", l.door.total)
		}
		l.door.mu.Unlock()
		wg.Wait()
	}
	for _, l := range []*Lane{m.Bulk(), m.Ledger()} {
		until(t, "a member gets in", func() bool {
			s, err := l.Dial(within(t), r.Self(), "nothing/1")
			if err == nil {
				s.Reset()
			}
			return l.Connected(r.Self())
		})
	}
	r.bulk.door.mu.Lock()
	defer r.bulk.door.mu.Unlock()
	if r.bulk.door.total != 0 {
		t.Errorf("%d handshakes are pending still", r.bulk.door.total)
	}
}

// QUIC comes through the same door: who has shown no address is asked for it
// first, and handshakes that go no further are counted, bounded and ended.
func TestPromise6_UnfinishedQUIC(t *testing.T) {
	t.Parallel()
	r := newOrg(t).members(1, func(c *Config) { c.BulkListen = addrs("/ip4/127.0.0.1/udp/0/quic-v1") })[0]
	to, _, err := quicreuse.FromQuicMultiaddr(r.Bulk().Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	heard := &firstPacket{PacketConn: udp}
	from := &quic.Transport{Conn: heard}
	defer from.Close()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	id, err := libp2ptls.NewIdentity(key)
	if err != nil {
		t.Fatal(err)
	}
	config, _ := id.ConfigForPeer("")
	ctx := within(t)
	held, letGo := context.WithCancel(ctx)
	defer letGo()
	config.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { <-held.Done(); return errors.New("no") }
	var wg sync.WaitGroup
	for range 2 * maxPendingIP {
		wg.Go(func() {
			if c, err := from.Dial(ctx, to, config, nil); err == nil {
				c.CloseWithError(0, "")
				t.Error("a handshake is done that cannot be")
			}
		})
	}
	until(t, "the crowd is counted", func() bool { return r.Status().Crowded > 0 })
	pending := func() int {
		r.bulk.door.mu.Lock()
		defer r.bulk.door.mu.Unlock()
		return r.bulk.door.total
	}
	if got := pending(); got > maxPendingIP {
		t.Errorf("%d handshakes are pending", got)
	}
	letGo()
	wg.Wait()
	until(t, "no handshake is pending", func() bool { return pending() == 0 })
	if got := heard.first.Load() & 0xf0; got != 0xf0 { // RFC 9000, 17.2.5
		t.Errorf("the first answer begins with %x, want a Retry", got)
	}
}

// firstPacket remembers the first byte of the first packet.
type firstPacket struct {
	net.PacketConn
	first atomic.Uint32
}

func (f *firstPacket) ReadFrom(p []byte) (int, net.Addr, error) {
	n, from, err := f.PacketConn.ReadFrom(p)
	if n > 0 {
		f.first.CompareAndSwap(0, uint32(p[0]))
	}
	return n, from, err
}

// libp2p's own limit is eight connections from one address, loopback exempt. A
// site of 40 nodes behind one address must get in, on QUIC and TCP.
func TestPromise6_ManyMembersBehindOneAddress(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	quic := addrs("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1")
	r := o.open(func(c *Config) { c.BulkListen = quic })
	o.add(peerOf(r, Member, ""))
	hosts := 40
	var all []interface{ Close() error }
	defer func() {
		for _, h := range all {
			h.Close()
		}
	}()
	type visitor struct {
		h    *swarm.Swarm
		addr multiaddr.Multiaddr
	}
	var visitors []visitor
	for i := range hosts {
		key, err := NewKey()
		if err != nil {
			t.Fatal(err)
		}
		h := newStranger(t, libp2p.Identity(key))
		all = append(all, h)
		o.add(Peer{ID: h.ID(), Class: Member})
		visitors = append(visitors, visitor{h.Network().(*swarm.Swarm), r.Bulk().Addrs()[i%2]})
	}
	o.publish(r)
	for _, v := range visitors {
		v.h.Peerstore().AddAddr(r.Self(), v.addr, peerstore.PermanentAddrTTL)
		if _, err := v.h.DialPeer(within(t), r.Self()); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all are connected", func() bool { return len(r.bulk.host.net.Peers()) == hosts })
	// the limiter as libp2p would apply it beyond loopback
	rm, err := newResources(r.gate, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	defer rm.Close()
	for i := range 500 {
		if _, err := rm.OpenConnection(network.DirInbound, true, multiaddr.StringCast(fmt.Sprintf("/ip4/203.0.113.1/tcp/%d", i+1))); err != nil && i < maxPending {
			t.Fatalf("connection %d from one address: %v", i, err)
		}
	}
}

// After Close no goroutine that this road began is left, libp2p's included.
func TestCloseLeavesNoGoroutine(t *testing.T) {
	t.Parallel()
	label := t.Name()
	pprof.Do(t.Context(), pprof.Labels("road", label), func(context.Context) {
		o := newOrg(t)
		roads := o.members(3, func(c *Config) { c.BulkListen = addrs("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1") })
		for _, r := range roads {
			r.Bulk().Handle("echo/1", Member, echo)
			s, err := roads[0].Bulk().Dial(within(t), roads[1].Self(), membersProtocol)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Reset()
			if err := r.Announce(t.Context(), root(t, "x")); err != nil {
				t.Fatal(err)
			}
			holders(t, r, root(t, "y"))
		}
		ticket := o.ticket(roads[0], time.Now().Add(time.Hour))
		o.publish(roads...)
		if _, _, err := DialTicket(within(t), ticket); err == nil {
			t.Error("joined without a handler")
		}
		for _, r := range roads {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if _, err := r.Bulk().Dial(t.Context(), roads[0].Self(), "echo/1"); err == nil {
				t.Error("a closed road dials")
			}
		}
	})
	var dump string
	left := func() bool {
		var b bytes.Buffer
		pprof.Lookup("goroutine").WriteTo(&b, 1)
		dump = ""
		for _, g := range strings.Split(b.String(), "\n\n") {
			if strings.Contains(g, label) && !strings.Contains(g, "testing.tRunner") {
				dump += g + "\n\n"
			}
		}
		return dump != ""
	}
	defer func() {
		if t.Failed() {
			t.Log(dump)
		}
	}()
	until(t, "all goroutines have ended", func() bool { return !left() })
}

// Close returns when the handlers have: what they use may be closed after it.
func TestCloseWaitsForHandlers(t *testing.T) {
	t.Parallel()
	roads := newOrg(t).members(2)
	running, reset, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	roads[1].Bulk().Handle("slow/1", Member, func(s network.Stream) {
		close(running)
		io.Copy(io.Discard, s)
		close(reset)
		<-done
	})
	s, err := roads[0].Bulk().Dial(within(t), roads[1].Self(), "slow/1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	<-running
	closed := make(chan error)
	go func() { closed <- roads[1].Close() }()
	<-reset
	select {
	case err := <-closed:
		t.Errorf("Close has returned before its handler: %v", err)
	case <-time.After(100 * time.Millisecond): // nothing to wait for: it must not happen
	}
	close(done)
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// One that does not return is waited for only so long, and said.
func TestCloseGivesUpOnAHandler(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	stuck, err := Open(t.Context(), Config{Key: key, OrgKey: o.public(), Dir: "road", FS: vfs.NewMem(), BulkListen: loopback})
	if err != nil {
		t.Fatal(err)
	}
	caller := o.open()
	o.add(peerOf(stuck, Member, ""), peerOf(caller, Member, ""))
	o.publish(stuck, caller)
	running, end := make(chan struct{}), make(chan struct{})
	defer close(end)
	stuck.Bulk().Handle("stuck/1", Member, func(network.Stream) { close(running); <-end })
	s, err := caller.Bulk().Dial(within(t), stuck.Self(), "stuck/1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	<-running
	stuck.bulk.host.closeWithin = 100 * time.Millisecond
	closed := make(chan error)
	go func() { closed <- stuck.Close() }()
	select {
	case err := <-closed:
		if err == nil || !strings.Contains(err.Error(), "does not return") {
			t.Errorf("got %v, want an error about the handler", err)
		}
	case <-time.After(patience):
		t.Error("Close waits without an end")
	}
}

// A peer that opens a stream and never says what for does not hold it.
func TestR2_SilentStreamIsReset(t *testing.T) {
	t.Parallel()
	roads := newOrg(t).members(2)
	roads[1].bulk.host.negotiateWithin = 100 * time.Millisecond
	s, err := roads[0].bulk.host.net.NewStream(within(t), roads[1].Self())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	s.SetDeadline(time.Now().Add(patience))
	s.Write([]byte{0x13}) // opens it: the length of the first line, and no line
	if _, err := io.Copy(io.Discard, s); err == nil || isTimeout(err) {
		t.Errorf("got %v, want the stream reset", err)
	}
}

// A failed Open leaves no listener behind.
func TestFailedOpenLeavesNothing(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	at, err := manet.FromNetAddr(taken.Addr())
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ledger, err := manet.FromNetAddr(free.Addr())
	if err != nil {
		t.Fatal(err)
	}
	free.Close()
	if _, err := Open(t.Context(), Config{Key: key, OrgKey: o.public(), Dir: t.TempDir(), LedgerListen: []multiaddr.Multiaddr{ledger}, BulkListen: []multiaddr.Multiaddr{at}}); err == nil || hintOf(err) == "" {
		t.Fatalf("got %v, want an error with a hint", err)
	}
	until(t, "the ledger's port is free again", func() bool {
		c, err := manet.Dial(ledger)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
}
