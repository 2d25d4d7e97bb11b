package dht

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	"github.com/ipfs/go-datastore/query"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
)

func root(t testing.TB, name string) cid.Cid {
	t.Helper()
	sum, err := multihash.Sum([]byte(name), multihash.SHA2_256, -1)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV1(cid.DagCBOR, sum)
}

func holders(t testing.TB, r *Road, c cid.Cid) []peer.ID {
	t.Helper()
	ids, err := r.Holders(within(t), c)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(ids)
	return ids
}

func TestE2_AnnouncedRootIsFoundFromEverywhere(t *testing.T) {
	t.Parallel()
	roads := newOrg(t).members(5)
	c := root(t, "a file")
	var want []peer.ID
	for _, r := range roads[:2] {
		if err := r.Announce(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		want = append(want, r.Self())
	}
	slices.Sort(want)
	for _, r := range roads {
		others := slices.DeleteFunc(slices.Clone(want), func(id peer.ID) bool { return id == r.Self() })
		until(t, "the holders are found", func() bool { return cmp.Equal(holders(t, r, c), others) })
	}
}

// Nobody holds it: an answer without an error, also while a member is down.
func TestE2_UnknownRootIsAnsweredSoon(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(4)
	black := o.open()
	line := peerOf(black, Member, "")
	line.Bulk = addrs("/ip4/192.0.2.1/tcp/9") // goes nowhere
	o.add(line)
	o.publish(roads...)
	if err := roads[3].Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if got := holders(t, roads[0], root(t, "nothing")); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	if took := time.Since(start); took > findTimeout+10*time.Second {
		t.Errorf("took %v", took)
	}
	if got := holders(t, newOrg(t).members(1)[0], root(t, "alone")); len(got) > 0 {
		t.Errorf("a cluster of one: %v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := roads[0].Holders(ctx, root(t, "x")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestE2_RemovedMemberIsNoHolder(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(4)
	c := root(t, "a file")
	for _, r := range roads[2:] {
		if err := r.Announce(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "both holders are found", func() bool { return len(holders(t, roads[0], c)) == 2 })
	o.drop(roads[3].Self())
	o.publish(roads[:3]...)
	if got, want := holders(t, roads[0], c), []peer.ID{roads[2].Self()}; !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := roads[0].routes.kad.RoutingTable().Find(roads[3].Self()); got != "" {
		t.Error("the routing table keeps a removed member")
	}
}

// A member that was down, and dropped by Kademlia for it, is asked again.
func TestE2_MemberThatComesBack(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(2)
	a, b := roads[0], roads[1]
	c := root(t, "a file")
	key, dir := b.c.Key, b.c
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if got := holders(t, a, c); len(got) > 0 {
		t.Fatalf("got %v", got)
	}
	b = o.open(func(cfg *Config) {
		cfg.Key, cfg.FS, cfg.Dir = key, dir.FS, dir.Dir
		cfg.BulkListen, cfg.LedgerListen = o.list.Peers[1].Bulk, o.list.Peers[1].Ledger
	})
	if err := b.Announce(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	until(t, "it is found again", func() bool { return len(holders(t, a, c)) == 1 })
}

func TestE2_AnnounceNeverBlocks(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(2)
	if err := roads[1].Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	for i := range 4 * announceQueue {
		if err = roads[0].Announce(t.Context(), root(t, fmt.Sprint(i))); err != nil {
			break
		}
	}
	if err != nil && !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want ErrBusy or nothing", err)
	}
	if err := roads[0].Announce(t.Context(), cid.Undef); err == nil {
		t.Error("an undefined cid was announced")
	}
	if err := roads[1].Announce(t.Context(), root(t, "x")); err == nil {
		t.Error("a closed road announces")
	}
}

// What others announce is held within the bound, and nowhere else.
func TestE2_AnnouncementsAreBounded(t *testing.T) {
	t.Parallel()
	roads := newOrg(t).members(2)
	told := roads[1].routes.told
	if told.max != maxRecords {
		t.Errorf("%d records may be held, want %d", told.max, maxRecords)
	}
	told.mu.Lock()
	told.max = 50
	told.mu.Unlock()
	for i := range 400 { // Kademlia hands them over some hundred at a time
		if err := roads[0].routes.provide(root(t, fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the newest are held", func() bool {
		told.mu.Lock()
		defer told.mu.Unlock()
		return told.births > 50 && told.n == 50
	})
}

// Addresses that others tell through Kademlia are not believed.
func TestE2_AddressesComeFromTheListAlone(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	roads := o.members(3)
	c := root(t, "a file")
	if err := roads[1].Announce(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	until(t, "found", func() bool { return len(holders(t, roads[0], c)) == 1 })
	ps := roads[0].routes.kad.Host().Peerstore() // as Kademlia has it
	ps.AddAddrs(roads[1].Self(), addrs("/ip4/192.0.2.66/tcp/1"), time.Hour)
	ps.SetAddrs(roads[1].Self(), addrs("/ip4/192.0.2.66/tcp/1"), time.Hour)
	for _, id := range []peer.ID{roads[1].Self(), roads[2].Self()} {
		want := o.list.Peers[slices.IndexFunc(o.list.Peers, func(p Peer) bool { return p.ID == id })].Bulk
		if diff := cmp.Diff(want, roads[0].Bulk().Host().Peerstore().Addrs(id), cmp.Comparer(multiaddr.Multiaddr.Equal)); diff != "" {
			t.Error(diff)
		}
	}
}

// kademlia is the name of a road's Kademlia protocol.
func kademlia(r *Road) protocol.ID { return r.bulk.protocol("kad/1.0.0") }

// R2: provider records are all there is; values of others are neither kept nor told.
func TestR2_KademliaServesNoValues(t *testing.T) {
	t.Parallel()
	roads := newOrg(t).members(2)
	asker, served := roads[0], roads[1]
	// Message of Kademlia: 1: type, 2: key, 3: record; behind its length.
	const putValue, getValue, ping = 0, 1, 5
	message := func(kind byte, rest ...byte) []byte {
		m := append([]byte{0x08, kind, 0x12, 2, '/', 'k'}, rest...)
		return append([]byte{byte(len(m))}, m...)
	}
	for name, c := range map[string]struct {
		message  []byte
		answered bool
	}{
		"ping": {message(ping), true}, // so that silence means something
		"get":  {message(getValue), false},
		"put":  {message(putValue, 0x1a, 7, 0x0a, 2, '/', 'k', 0x12, 1, 'v'), false},
	} {
		s, err := asker.bulk.host.NewStream(within(t), served.Self(), kademlia(served))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(c.message); err != nil {
			t.Fatal(err)
		}
		_, err = io.ReadFull(s, make([]byte, 1))
		s.Reset()
		if (err == nil) != c.answered || isTimeout(err) {
			t.Errorf("%s: got %v, answered is to be %v", name, err, c.answered)
		}
	}
}

// mute makes a member take questions of Kademlia and answer none.
func mute(r *Road) {
	r.bulk.host.SetStreamHandler(kademlia(r), func(s network.Stream) {
		_, _ = io.Copy(io.Discard, s)
		s.Reset()
	})
}

// A member that takes questions and does not answer holds a search up for
// findTimeout, and for findGrace once a holder is known.
func TestE2_SearchEndsWithoutAnAnswer(t *testing.T) {
	t.Parallel()
	roads := newOrg(t).members(2)
	asker := roads[0]
	mute(roads[1])
	start := time.Now()
	if got := holders(t, asker, root(t, "nothing")); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	if took := time.Since(start); took < findTimeout/2 || took > findTimeout+5*time.Second { // Kademlia itself gives up after 10 s
		t.Errorf("with no holder: took %v, want about %v", took, findTimeout)
	}
	known := root(t, "a file")
	told(t, asker, known, roads[1].Self())
	start = time.Now()
	if got := holders(t, asker, known); !cmp.Equal(got, []peer.ID{roads[1].Self()}) {
		t.Errorf("got %v, want %v", got, roads[1].Self())
	}
	if took := time.Since(start); took < findGrace || took > findTimeout*3/4 {
		t.Errorf("with one holder: took %v, want about %v", took, findGrace)
	}
}

// Some holders are enough: a caller is not given them all.
func TestE2_SearchEndsWithEnoughHolders(t *testing.T) {
	t.Parallel()
	o := newOrg(t)
	asker := o.open()
	o.add(peerOf(asker, Member, ""))
	c := root(t, "a file")
	for range 3 * findEnough {
		_, key := ticketKey(t)
		id, err := peer.IDFromPrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		o.add(Peer{ID: id, Class: Member})
		told(t, asker, c, id)
	}
	o.publish(asker)
	if got := holders(t, asker, c); len(got) != findEnough {
		t.Errorf("got %d holders, want %d", len(got), findEnough)
	}
}

// told has a road know, as if the holder had announced it, who holds a root.
func told(t *testing.T, r *Road, root cid.Cid, holder peer.ID) {
	t.Helper()
	if err := r.routes.kad.ProviderStore().AddProvider(t.Context(), root.Hash(), peer.AddrInfo{ID: holder}); err != nil {
		t.Fatal(err)
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := newRecords(10)
	key := func(root, peer int) datastore.Key {
		return datastore.NewKey(fmt.Sprintf("/providers/R%02d/P%02d", root, peer))
	}
	count := func(prefix string) int {
		res, err := r.Query(ctx, query.Query{Prefix: prefix})
		if err != nil {
			t.Fatal(err)
		}
		all, err := res.Rest()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	for i := range 100 {
		b, err := r.Batch(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for p := range 3 {
			if err := errors.Join(b.Put(ctx, key(i, p), []byte{byte(i)}), b.Put(ctx, key(i, p), []byte{byte(i)})); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if got := count("/providers/"); got != 9 {
		t.Errorf("%d records are held, want 9", got)
	}
	if got := count("/providers/R99"); got != 3 {
		t.Errorf("%d records of the newest root, want 3", got)
	}
	if got := count("/providers/R01"); got != 0 {
		t.Errorf("%d records of an old root, want 0", got)
	}
	if v, err := r.Get(ctx, key(99, 1)); err != nil || v[0] != 99 {
		t.Errorf("got %v, %v", v, err)
	}
	if n, err := r.GetSize(ctx, key(99, 1)); err != nil || n != 1 {
		t.Errorf("got %v, %v", n, err)
	}
	for p := range 3 {
		if err := r.Delete(ctx, key(99, p)); err != nil {
			t.Fatal(err)
		}
	}
	if ok, _ := r.Has(ctx, key(99, 1)); ok || count("/providers/R99") != 0 || r.n != 6 || len(r.groups) != 2 {
		t.Error("a deleted record is there")
	}
	if _, err := r.Get(ctx, key(99, 1)); !errors.Is(err, datastore.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
	for range 1000 { // the order list stays small when roots come and go
		if err := errors.Join(r.Put(ctx, key(5, 5), nil), r.Delete(ctx, key(5, 5))); err != nil {
			t.Fatal(err)
		}
	}
	if len(r.order) > 100 {
		t.Errorf("order holds %d names", len(r.order))
	}
}
