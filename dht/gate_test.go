package dht

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
)

// R2: protocol x class, on both lanes, the room's own protocols included. The
// callers' gates know the server as a member and ask for everything.
func TestR2_ProtocolByClass(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	server := o.open()
	o.add(peerOf(server, Member, "a"))

	callers := map[Class]*Road{}
	for _, class := range []Class{Member, BlocksOnly, Federated, TicketHolder, 1 << 6} {
		r := o.open()
		p := peerOf(r, class, "b")
		if class == TicketHolder {
			p.Bulk, p.Ledger, p.Until = nil, nil, time.Now().Add(time.Hour)
		}
		o.add(p)
		callers[class] = r
	}
	o.list.Number = 100
	list := o.sign()
	if err := server.Publish(list); err != nil {
		t.Fatal(err)
	}
	for class, r := range callers {
		// What a caller believes of itself must not matter: its own list says
		// that it is a member.
		mine := newOrg(t)
		mine.key, mine.list.ClusterID, mine.list.Number = o.key, o.list.ClusterID, 10
		mine.add(peerOf(server, Member, "a"), peerOf(r, Member, "b"))
		if err := r.Publish(mine.sign()); err != nil {
			t.Fatal(class, err)
		}
	}

	kad := protocol.ID("/valise/" + o.list.ClusterID + "/kad/1.0.0")
	bitswap := protocol.ID("/valise/" + o.list.ClusterID + "/ipfs/bitswap/1.2.0")
	server.Bulk().Host().SetStreamHandler(bitswap, echo)
	family := protocol.ID("/valise/" + o.list.ClusterID + "/ipfs/family/")
	server.Bulk().Host().SetStreamHandlerMatch(family, func(p protocol.ID) bool { return strings.HasPrefix(string(p), string(family)) }, echo)
	none := Class(0)
	rows := []struct {
		name         string
		bulk, ledger Class // who gets an answer on each lane
	}{
		{"members/1", Member | BlocksOnly, none},
		{"join/1", TicketHolder, none},
		{"blocks/1", Member | BlocksOnly, none},
		{"forward/1", Member | Federated, none},
		{"all/1", known, Member},
		{"raft/1", none, Member},
		{string(kad), Member, none},
		{string(bitswap), Member, none},
		{string(family) + "1.2.0", Member, none},
		{"/ipfs/id/1.0.0", none, none},
		{"/ipfs/ping/1.0.0", none, none},
		{"nothing/1", none, none},
	}
	server.Bulk().Handle("join/1", TicketHolder, echo)
	server.Bulk().Handle("blocks/1", Member|BlocksOnly, echo)
	server.Bulk().Handle("forward/1", Member|Federated, echo)
	server.Bulk().Handle("all/1", known|1<<6, echo)
	server.Ledger().Handle("all/1", known|1<<6, echo)
	server.Ledger().Handle("raft/1", Member, echo)

	for class, caller := range callers {
		for _, row := range rows {
			for lane, allowed := range map[string]Class{"bulk": row.bulk, "ledger": row.ledger} {
				t.Run(fmt.Sprintf("%v %s %s", class, lane, row.name), func(t *testing.T) {
					t.Parallel()
					l := caller.Bulk()
					if lane == "ledger" {
						l = caller.Ledger()
					}
					id := l.protocol(row.name)
					if row.name[0] == '/' {
						id = protocol.ID(row.name)
					}
					l.forgive(server.Self())
					s, err := l.Host().NewStream(within(t), server.Self(), id)
					if err == nil {
						defer s.Reset()
					}
					if got, want := err == nil, allowed&class != 0; got != want {
						t.Errorf("served: %v, want %v (%v)", got, want, err)
					}
				})
			}
		}
	}
}

// A class may change while a connection is open: the next stream is judged
// anew, and who lost the lane loses the connection.
func TestR2_ClassIsLookedUpForEveryStream(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(2)
	server, caller := roads[0], roads[1]
	server.Bulk().Handle("blocks/1", Member|BlocksOnly, echo)
	server.Bulk().Handle("raft/1", Member, echo)
	server.Ledger().Handle("raft/1", Member, echo)
	open := func(l *Lane, name string) error {
		s, err := l.Dial(within(t), server.Self(), name)
		if err == nil {
			s.Reset()
		}
		return err
	}
	if err := errors.Join(open(caller.Bulk(), "raft/1"), open(caller.Ledger(), "raft/1")); err != nil {
		t.Fatal(err)
	}
	o.add(peerOf(caller, BlocksOnly, ""))
	o.publish(server)
	until(t, "the ledger connection is closed", func() bool { return !server.Ledger().Connected(caller.Self()) })
	if err := open(caller.Bulk(), "blocks/1"); err != nil {
		t.Error(err)
	}
	if err := open(caller.Bulk(), "raft/1"); err == nil {
		t.Error("a blocks-only node was served a member's protocol")
	}
}

// Until the sweep comes, a connection of a lane that its peer has lost is open:
// no stream of it is served, also where the handler knows the class.
func TestR2_NoStreamOnALaneThatWasLost(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(2, func(c *Config) { c.Sweep = time.Hour })
	server, caller := roads[0], roads[1]
	server.Ledger().Handle("all/1", known, echo)
	s, err := caller.Ledger().Dial(within(t), server.Self(), "all/1")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Reset()
	o.add(peerOf(caller, BlocksOnly, ""))
	server.gate.table.Store(newTable(server.Self(), o.list)) // no sweep
	if s, err := caller.Ledger().Dial(within(t), server.Self(), "all/1"); err == nil {
		s.Reset()
		t.Error("a blocks-only node was served on the ledger lane")
	}
	if !caller.Ledger().Connected(server.Self()) {
		t.Error("the connection is closed: this test shows nothing")
	}
}

// Every question that libp2p asks the gate has the same answer. Each alone
// would do most of the time; all of them leave no moment between.
func TestR1_GateIsAskedAtEveryStep(t *testing.T) {
	t.Parallel()
	g := &gate{self: fixedID(t, 9), clock: time.Now, reach: func(id peer.ID) bool { return id != fixedID(t, 5) }, log: testLog(t)}
	list := func(peers ...Peer) { g.table.Store(newTable(g.self, List{Number: 1, Peers: peers})) }
	all := []Peer{{ID: g.self, Class: Member}, {ID: fixedID(t, 1), Class: Member}, {ID: fixedID(t, 2), Class: BlocksOnly},
		{ID: fixedID(t, 3), Class: TicketHolder, Until: time.Now().Add(time.Hour)}, {ID: fixedID(t, 4), Class: Member, Until: time.Now().Add(-time.Hour)},
		{ID: fixedID(t, 5), Class: Member}}
	bulk, ledger := laneGate{g, "bulk", known}, laneGate{g, "ledger", Member}
	check := func(when string, l laneGate, want map[byte]bool) {
		t.Helper()
		for n := range byte(9) {
			id := fixedID(t, n+1)
			at := conn{peer: id}
			kept, _ := l.InterceptUpgraded(at)
			got := map[string]bool{"dial": l.InterceptPeerDial(id), "address": l.InterceptAddrDial(id, nil),
				"secured in": l.InterceptSecured(network.DirInbound, id, at), "secured out": l.InterceptSecured(network.DirOutbound, id, at), "kept": kept}
			for step, admitted := range got {
				if admitted != want[n+1] {
					t.Errorf("%s, %s lane, %s: peer %d admitted: %v", when, l.lane, step, n+1, admitted)
				}
			}
		}
	}
	list(all...)
	check("listed", bulk, map[byte]bool{1: true, 2: true, 3: true})
	check("listed", ledger, map[byte]bool{1: true})
	list(all[1:]...)
	check("this node removed", bulk, nil)
	list(all...)
	g.shut.Store(true)
	check("closing", bulk, nil)
	if bulk.InterceptAccept(conn{}) {
		t.Error("a road that closes accepts")
	}
}

// conn is a connection that knows its peer and nothing else.
type conn struct {
	network.Conn
	peer peer.ID
}

func (c conn) RemotePeer() peer.ID                  { return c.peer }
func (c conn) RemoteMultiaddr() multiaddr.Multiaddr { return loopback[0] }

func TestR3_RemovedPeerIsDisconnectedAndStaysOut(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(3)
	for _, r := range roads {
		r.Bulk().Handle("echo/1", Member, echo)
		r.Ledger().Handle("echo/1", Member, echo)
	}
	gone := roads[2]
	var streams []network.Stream
	for _, l := range []*Lane{gone.Bulk(), gone.Ledger()} {
		s, err := l.Dial(within(t), roads[0].Self(), "echo/1")
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, s)
	}
	o.drop(gone.Self())
	o.publish(roads[0], roads[1])
	for _, s := range streams {
		if err := ping(s); err == nil {
			t.Error("a stream of a removed node lives on")
		}
	}
	for i, l := range []*Lane{gone.Bulk(), gone.Ledger()} {
		if s, err := l.Dial(within(t), roads[0].Self(), "echo/1"); err == nil {
			s.Reset()
			t.Error("a removed node was served")
		}
		mine := []*Lane{roads[0].Bulk(), roads[0].Ledger()}[i]
		if s, err := mine.Dial(within(t), gone.Self(), "echo/1"); !errors.Is(err, ErrNotAdmitted) {
			t.Errorf("dialling a removed node: got %v, %v, want ErrNotAdmitted", s, err)
		}
		if got := mine.Host().Peerstore().Addrs(gone.Self()); len(got) > 0 {
			t.Errorf("addresses of a removed node are kept: %v", got)
		}
	}
	if _, ok := roads[0].Connected()[gone.Self()]; ok {
		t.Error("a removed node stands in Connected")
	}
	// It learns of its removal, and then admits nobody.
	o.publish(gone)
	select {
	case <-gone.Removed():
	default:
		t.Error("Removed is not closed")
	}
	if !gone.Status().Removed {
		t.Error("Status does not say Removed")
	}
	if s, err := gone.Bulk().Dial(within(t), roads[1].Self(), "echo/1"); !errors.Is(err, ErrNotAdmitted) {
		t.Errorf("dial from a removed node: got %v, %v, want ErrNotAdmitted", s, err)
	}
}

// R6 and the end of a ticket: 60 s of tolerance, then the streams are refused
// and the sweep closes the connection.
func TestR6_UntilWithTolerance(t *testing.T) {
	t.Parallel()
	var now atomic.Int64
	start := time.Now().Truncate(time.Second)
	now.Store(start.UnixNano())
	o := newOrg(t)
	server := o.open(func(c *Config) {
		c.Clock = func() time.Time { return time.Unix(0, now.Load()) }
		c.Sweep = 10 * time.Millisecond
	})
	o.add(peerOf(server, Member, ""))
	ticket := o.ticket(server, start.Add(time.Minute))
	o.publish(server)
	served := make(chan struct{}, 100)
	server.Bulk().Handle(JoinProtocol, TicketHolder, func(s network.Stream) { served <- struct{}{}; echo(s) })

	now.Store(start.Add(2 * time.Minute).UnixNano())
	s, closer, err := DialTicket(within(t), ticket)
	if err != nil {
		t.Fatalf("within the tolerance: %v", err)
	}
	defer closer.Close()
	if err := ping(s); err != nil {
		t.Fatal(err)
	}
	now.Store(start.Add(2*time.Minute + time.Second).UnixNano())
	until(t, "the sweep closes the connection", func() bool { return !server.Bulk().Connected(ticket.PeerID()) })
	if err := ping(s); err == nil {
		t.Error("the stream lives on after the end")
	}
	if _, _, err := DialTicket(within(t), ticket); !errors.Is(err, ErrRefused) {
		t.Errorf("after the end: got %v, want ErrRefused", err)
	}
}

// The fault seam: a cut cable stops dials, accepts and streams; Disconnect
// closes what is open; mended, everything works again.
func TestReach_CutAndMend(t *testing.T) {
	t.Parallel()
	var cut atomic.Bool
	o := newOrg(t)
	seam := func(c *Config) { c.Reach = func(peer.ID) bool { return !cut.Load() } }
	a := o.open(seam)
	b := o.open()
	o.add(peerOf(a, Member, ""), peerOf(b, Member, ""))
	o.publish(a, b)
	for _, r := range []*Road{a, b} {
		r.Bulk().Handle("echo/1", Member, echo)
		r.Ledger().Handle("echo/1", Member, echo)
	}
	lanes := func(r *Road) []*Lane { return []*Lane{r.Bulk(), r.Ledger()} }
	works := func(from, to *Road, lane int) error {
		lanes(from)[lane].host.net.Backoff().Clear(to.Self())
		s, err := lanes(from)[lane].Dial(within(t), to.Self(), "echo/1")
		if err != nil {
			return err
		}
		defer s.Close()
		return ping(s)
	}
	for lane := range 2 {
		if err := errors.Join(works(a, b, lane), works(b, a, lane)); err != nil {
			t.Fatal(err)
		}
	}
	cut.Store(true)
	for lane := range 2 { // the connections are still open: streams are refused
		if works(a, b, lane) == nil || works(b, a, lane) == nil {
			t.Error("a stream got through a cut cable")
		}
	}
	a.Disconnect(b.Self())
	for _, r := range []*Road{a, b} {
		until(t, "the connections are closed", func() bool { return !r.Bulk().Connected(other(r, a, b)) && !r.Ledger().Connected(other(r, a, b)) })
	}
	for lane := range 2 {
		if works(a, b, lane) == nil || works(b, a, lane) == nil {
			t.Error("a connection got through a cut cable")
		}
	}
	cut.Store(false)
	for lane := range 2 {
		if err := errors.Join(works(a, b, lane), works(b, a, lane)); err != nil {
			t.Errorf("mended: %v", err)
		}
	}
}

func other(r, a, b *Road) peer.ID {
	if r == a {
		return b.Self()
	}
	return a.Self()
}

// A gate that has no list admits nobody, whatever a peerstore says.
func TestR3_NoListNobody(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	a, b := o.open(), o.open()
	a.Bulk().Host().Peerstore().AddAddrs(b.Self(), b.Bulk().Addrs(), peerstore.PermanentAddrTTL)
	if _, err := a.Bulk().Dial(within(t), b.Self(), membersProtocol); !errors.Is(err, ErrNotAdmitted) {
		t.Errorf("got %v, want ErrNotAdmitted", err)
	}
	o.add(peerOf(a, Member, ""), peerOf(b, Member, ""))
	o.publish(a) // only a knows both
	if _, err := a.Bulk().Dial(within(t), b.Self(), membersProtocol); err == nil {
		t.Error("a gate without a list let somebody in")
	}
	if got := b.Status(); got.Removed || got.Number != 0 || got.Rejected == 0 {
		t.Errorf("status %+v", got)
	}
}

// The list in force may change between the gate's yes and the moment libp2p
// keeps the connection, when no sweep sees it.
func TestR3_ConnectionThatCrossesARemoval(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(2)
	a, b := roads[0], roads[1]
	b.Ledger().Handle("raft/1", Member, echo)
	crosses := func(l *Lane, name string) bool {
		s, err := l.Dial(within(t), b.Self(), name)
		if err != nil {
			t.Fatal(err)
		}
		before := a.gate.table.Load()
		defer a.gate.table.Store(before)
		a.gate.table.Store(newTable(a.Self(), o.list)) // no sweep
		a.greeter(l, l == a.bulk).Connected(l.host.net, s.Conn())
		return !s.Conn().IsClosed()
	}
	o.add(peerOf(b, BlocksOnly, ""))
	if crosses(a.ledger, "raft/1") {
		t.Error("a connection stays open on a lane that its peer has lost")
	}
	if !crosses(a.bulk, membersProtocol) {
		t.Error("a connection is closed on a lane that its peer keeps")
	}
	o.drop(b.Self())
	if crosses(a.bulk, membersProtocol) {
		t.Error("the connection of a removed peer stays open")
	}
}
