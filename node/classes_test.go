package node

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multistream"

	"github.com/valise-mail/valise/dht"
	"github.com/valise-mail/valise/node/api"
	"github.com/valise-mail/valise/replication"
)

// servedTo is all that a running node serves to its peers, and to which
// classes. What is not listed here is served to nobody.
var servedTo = map[string]map[string]dht.Class{
	"bulk": {
		"kad/1.0.0":  dht.Member,
		"alive/1":    dht.Member,
		"farewell/1": dht.Member,
		"blocks/1":   dht.Member,
		"push/1":     dht.Member,
		"members/1":  dht.Member | dht.BlocksOnly,
		"join/1":     dht.TicketHolder,
	},
	"ledger": {
		"raft/1":   dht.Member,
		"ledger/1": dht.Member,
	},
}

// enters says which classes get through a lane's gate.
var enters = map[string]dht.Class{
	"bulk":   dht.Member | dht.BlocksOnly | dht.Federated | dht.TicketHolder,
	"ledger": dht.Member,
}

// R1 and R2: every protocol of a running node opens for the classes of the
// table, and for no other.
func TestR2_EveryProtocolOpensForItsClassesOnly(t *testing.T) {
	t.Parallel()
	n := running(t)
	lanes := map[string]*dht.Lane{"bulk": n.road.Bulk(), "ledger": n.road.Ledger()}
	want := map[string]map[protocol.ID]dht.Class{}
	for lane, names := range servedTo {
		want[lane] = map[protocol.ID]dht.Class{}
		for name, classes := range names {
			want[lane][protocol.ID("/valise/"+n.cluster.Cluster+"/"+name)] = classes
		}
	}
	for lane, l := range lanes {
		if diff := cmp.Diff(want[lane], l.Serves()); diff != "" {
			t.Errorf("%s lane (-want +got):\n%s", lane, diff)
		}
	}
	for class, key := range onePeerOfEach(t, n) {
		for lane, l := range lanes {
			t.Run(class.String()+" on the "+lane+" lane", func(t *testing.T) {
				t.Parallel()
				for _, at := range slices.Sorted(maps.Keys(lanes)) { // also what the other lane serves
					for name := range lanes[at].Serves() {
						opens := at == lane && want[lane][name]&class != 0
						tryProtocol(t, key, n.id.id, l, name, opens, enters[lane]&class != 0)
					}
				}
			})
		}
	}
}

// onePeerOfEach has the list name a peer of each class; that of class 0 is a
// stranger.
func onePeerOfEach(t *testing.T, n *Node) map[dht.Class]crypto.PrivKey {
	t.Helper()
	keys := map[dht.Class]crypto.PrivKey{}
	listed := map[dht.Class]peer.ID{}
	for _, class := range []dht.Class{0, dht.Member, dht.BlocksOnly, dht.Federated} {
		id, err := newIdentity()
		if err != nil {
			t.Fatal(err)
		}
		keys[class] = id.p2p
		if class == 0 {
			continue
		}
		listed[class] = id.id
		if err := n.ledger.Update(t.Context(), func(tx *replication.Tx) error {
			put(tx, memberKey(id.id), memberRecord{Name: class.String(), Site: "paris", Class: uint8(class), SealKey: id.seal.PublicKey().Bytes()})
			bumpMembers(tx)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	invited, err := n.Admin().Invite(t.Context(), api.InviteRequest{Site: "paris"})
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := dht.ParseTicket(invited.Ticket)
	if err != nil {
		t.Fatal(err)
	}
	listed[dht.TicketHolder] = ticket.PeerID()
	if keys[dht.TicketHolder], err = dht.KeyFromSeed(ticket.Seed); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the list to name everybody", func() bool {
		found := 0
		for _, p := range n.road.Peers().Peers {
			if listed[p.Class] == p.ID {
				found++
			}
		}
		return found == len(listed)
	})
	return keys
}

// tryProtocol asks for one protocol under key, from an ordinary libp2p host.
// Who may enter the lane is told that a protocol is not there for it; who may
// not, is told nothing.
func tryProtocol(t *testing.T, key crypto.PrivKey, to peer.ID, l *dht.Lane, name protocol.ID, opens, entersLane bool) {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.DisableMetrics(), libp2p.Identity(key))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err = ask(ctx, h, peer.AddrInfo{ID: to, Addrs: l.Addrs()}, name)
	_, absent := errors.AsType[multistream.ErrNotSupported[protocol.ID]](err)
	switch {
	case opens && err != nil:
		t.Errorf("%s does not open: %v", name, err)
	case !opens && err == nil:
		t.Errorf("%s opens", name)
	case !opens && entersLane && !absent:
		t.Errorf("%s: got %v, want the answer for a protocol that is not there", name, err)
	case !entersLane && absent:
		t.Errorf("%s: a peer that may not enter was told that it is not there", name)
	case !entersLane && ctx.Err() != nil:
		t.Errorf("%s: the connection was not cut", name)
	}
}

func ask(ctx context.Context, h host.Host, to peer.AddrInfo, name protocol.ID) error {
	h.Peerstore().AddAddrs(to.ID, to.Addrs, time.Hour)
	if _, err := h.Network().DialPeer(ctx, to.ID); err != nil {
		return err
	}
	s, err := h.Network().NewStream(network.WithNoDial(ctx, "connected"), to.ID)
	if err != nil {
		return err
	}
	defer s.Reset()
	if end, ok := ctx.Deadline(); ok {
		if err := s.SetDeadline(end); err != nil {
			return err
		}
	}
	_, err = multistream.SelectOneOf([]protocol.ID{name}, s)
	return err
}
