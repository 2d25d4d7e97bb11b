package dht

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// patience is how long a test waits for what must happen on a loaded machine.
const patience = 60 * time.Second

var loopback = []multiaddr.Multiaddr{multiaddr.StringCast("/ip4/127.0.0.1/tcp/0")}

// An org is an organisation for one test: its key and the list it signs.
type org struct {
	t    testing.TB
	key  ed25519.PrivateKey
	list List
}

func newOrg(t testing.TB) *org {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &org{t: t, key: key, list: List{ClusterID: ClusterID(key.Public().(ed25519.PublicKey))}}
}

func (o *org) public() ed25519.PublicKey { return o.key.Public().(ed25519.PublicKey) }

// open starts a road on loopback; change may set more of its Config.
func (o *org) open(change ...func(*Config)) *Road {
	o.t.Helper()
	key, err := NewKey()
	if err != nil {
		o.t.Fatal(err)
	}
	c := Config{Key: key, OrgKey: o.public(), Dir: "road", FS: vfs.NewMem(), BulkListen: loopback, LedgerListen: loopback, Logger: testLog(o.t)}
	for _, f := range change {
		f(&c)
	}
	r, err := Open(o.t.Context(), c)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		if err := r.Close(); err != nil {
			o.t.Errorf("close: %v", err)
		}
	})
	return r
}

// peerOf is the line of a road in the list.
func peerOf(r *Road, class Class, site string) Peer {
	return Peer{ID: r.Self(), Class: class, Site: site, Bulk: r.Bulk().Addrs(), Ledger: r.Ledger().Addrs()}
}

// add puts peers on the list, in place of lines with the same id.
func (o *org) add(peers ...Peer) {
	for _, p := range peers {
		o.drop(p.ID)
		o.list.Peers = append(o.list.Peers, p)
	}
}

func (o *org) drop(id peer.ID) {
	o.list.Peers = slices.DeleteFunc(slices.Clone(o.list.Peers), func(p Peer) bool { return p.ID == id })
}

// sign gives the list its next number.
func (o *org) sign() []byte {
	o.t.Helper()
	o.list.Number++
	signed, err := SignList(o.key, o.list)
	if err != nil {
		o.t.Fatal(err)
	}
	return signed
}

// publish signs the next list and puts it in force on the roads.
func (o *org) publish(roads ...*Road) {
	o.t.Helper()
	signed := o.sign()
	for _, r := range roads {
		if err := r.Publish(signed); err != nil {
			o.t.Fatal(err)
		}
	}
}

// members starts n roads that know each other.
func (o *org) members(n int, change ...func(*Config)) []*Road {
	o.t.Helper()
	var roads []*Road
	for range n {
		r := o.open(change...)
		o.add(peerOf(r, Member, "site"))
		roads = append(roads, r)
	}
	o.publish(roads...)
	return roads
}

// until waits for a condition.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited %v in vain: %s", patience, what)
		}
	}
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// testLog logs to the test's output, and never after its end.
func testLog(t testing.TB) *slog.Logger {
	w := &testWriter{t: t}
	t.Cleanup(w.end)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct {
	mu   sync.Mutex
	t    testing.TB
	over bool
}

func (w *testWriter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return len(p), nil
	}
	return w.t.Output().Write(p)
}

func ticketKey(t testing.TB) (Ticket, crypto.PrivKey) {
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := KeySeed(key)
	if err != nil {
		t.Fatal(err)
	}
	return Ticket{Seed: seed}, key
}

// ticket makes a ticket to inviter and puts it on the list, unpublished.
func (o *org) ticket(inviter *Road, until time.Time) Ticket {
	t, _ := ticketKey(o.t)
	t.OrgKey, t.ClusterID = o.public(), o.list.ClusterID
	t.Inviter, t.Addrs, t.Site, t.Expires = inviter.Self(), inviter.Bulk().Addrs(), "new", until.Truncate(time.Second).UTC()
	o.add(Peer{ID: t.PeerID(), Class: TicketHolder, Until: t.Expires})
	return t
}

func echo(s network.Stream) {
	defer s.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := s.Read(buf)
		if _, werr := s.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// ping sends one byte through an echo stream.
func ping(s network.Stream) error {
	if err := s.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := s.Write([]byte{42}); err != nil {
		return err
	}
	_, err := s.Read(make([]byte, 1))
	return err
}

func identity(key crypto.PrivKey) libp2p.Option { return libp2p.Identity(key) }

// connect has an ordinary host dial a road at one address.
func connect(t testing.TB, h host.Host, r *Road, addr multiaddr.Multiaddr) {
	t.Helper()
	if err := h.Connect(within(t), peer.AddrInfo{ID: r.Self(), Addrs: []multiaddr.Multiaddr{addr}}); err != nil {
		t.Logf("connect: %v", err)
	}
}
