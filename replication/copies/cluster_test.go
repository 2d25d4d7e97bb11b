package copies

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	mh "github.com/multiformats/go-multihash"
)

// hostLane carries streams over a libp2p host, and can be cut.
type hostLane struct {
	h     host.Host
	mu    sync.Mutex
	cut   map[peer.ID]bool
	serve map[string]func(network.Stream)
}

func (l *hostLane) reaches(id peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.cut[id]
}

func testProtocol(name string) protocol.ID { return protocol.ID("/valise/test/" + name) }

func (l *hostLane) Handle(name string, fn func(network.Stream)) {
	l.mu.Lock()
	l.serve[name] = fn
	l.mu.Unlock()
	l.h.SetStreamHandler(testProtocol(name), func(s network.Stream) {
		if !l.reaches(s.Conn().RemotePeer()) {
			_ = s.Reset()
			return
		}
		fn(s)
	})
}

func (l *hostLane) Dial(ctx context.Context, id peer.ID, name string) (network.Stream, error) {
	if !l.reaches(id) {
		return nil, errors.New("cable is cut")
	}
	return l.h.NewStream(ctx, id, testProtocol(name))
}

// cutFrom cuts or heals the cable to a peer; streams over it end.
func (l *hostLane) cutFrom(id peer.ID, cut bool) {
	l.mu.Lock()
	l.cut[id] = cut
	l.mu.Unlock()
	if cut {
		_ = l.h.Network().ClosePeer(id)
	}
}

func newHost(t testing.TB) host.Host {
	t.Helper()
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.Identity(key), libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(libp2ptls.ID, libp2ptls.New), libp2p.DisableRelay(), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

// logLines keeps a node's log for tests that look at it.
type logLines struct {
	mu  sync.Mutex
	all strings.Builder
	out io.Writer
}

func (l *logLines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.Write(p)
	return l.out.Write(p)
}

func (l *logLines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.all.String(), text)
}

// testPeer is one node of a testCluster.
type testPeer struct {
	*Copies
	cl        *testCluster
	host      host.Host
	lane      *hostLane
	disk      *memDisk
	site      string
	log       *logLines
	announced chan cid.Cid
	stop      func() // of Run; nil while it does not run
}

// testCluster is some nodes with real hosts and one ledger.
type testCluster struct {
	t       testing.TB
	ledger  *memLedger
	wanted  atomic.Int32
	ack     int
	timing  timing
	caching bool
	away    func(id peer.ID) time.Duration
	find    func(context.Context, cid.Cid) ([]peer.ID, error)
	led     func(i int) ledger // instead of ledger

	mu    sync.Mutex
	nodes []Node
	peers []*testPeer
}

func newCluster(t testing.TB, wanted int, sites ...string) *testCluster {
	t.Helper()
	cl := &testCluster{t: t, ledger: newMemLedger(), ack: min(2, wanted)}
	cl.wanted.Store(int32(wanted))
	for _, s := range sites {
		cl.add(s)
	}
	return cl
}

func (cl *testCluster) members() []Node {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	return slices.Clone(cl.nodes)
}

// add makes a node; start opens it.
func (cl *testCluster) add(site string) *testPeer {
	cl.t.Helper()
	h := newHost(cl.t)
	p := &testPeer{
		cl: cl, host: h, disk: newMemDisk(), site: site,
		lane:      &hostLane{h: h, cut: make(map[peer.ID]bool), serve: make(map[string]func(network.Stream))},
		log:       &logLines{out: cl.t.Output()},
		announced: make(chan cid.Cid, 1000),
	}
	for _, other := range cl.peers {
		other.host.Peerstore().AddAddrs(h.ID(), h.Addrs(), peerstore.PermanentAddrTTL)
		h.Peerstore().AddAddrs(other.host.ID(), other.host.Addrs(), peerstore.PermanentAddrTTL)
	}
	cl.mu.Lock()
	cl.peers = append(cl.peers, p)
	cl.nodes = append(cl.nodes, Node{ID: h.ID(), Site: site, Store: p.disk.ID(), Weight: 100})
	cl.mu.Unlock()
	return p
}

// start opens every node that is not, with a table for all of them, and has node 0 lead.
func (cl *testCluster) start() *testCluster {
	cl.t.Helper()
	for i := range cl.peers {
		if cl.peers[i].Copies == nil {
			cl.open(i)
		}
	}
	if table, err := cl.peers[0].readTable(); err != nil {
		cl.t.Fatal(err)
	} else if _, err := cl.peers[0].fitTable(cl.t.Context(), table, cl.members()); err != nil {
		cl.t.Fatal(err)
	}
	return cl
}

func (cl *testCluster) open(i int) {
	cl.t.Helper()
	p := cl.peers[i]
	cfg := Config{
		Lane: p.lane, Self: p.host.ID(), Disk: p.disk, NewBatch: p.disk.newBatch, Links: testLinks, Nodes: cl.members,
		Wanted: func() int { return int(cl.wanted.Load()) }, Ack: cl.ack, Leading: func() bool { return i == 0 },
		Announce:   func(_ context.Context, root cid.Cid) error { p.announced <- root; return nil },
		Find:       cl.find,
		Away:       cl.away,
		NoSpace:    func(err error) bool { return errors.Is(err, errNoRoom) },
		CacheReads: cl.caching,
		Logger:     slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		timing:     cl.timing,
	}
	var led ledger = cl.ledger
	if cl.led != nil {
		led = cl.led(i)
	}
	c, err := open(cfg, led)
	if err != nil {
		cl.t.Fatal(err)
	}
	p.Copies = c
	cl.t.Cleanup(func() { p.end() })
}

// run starts the keeper and table loops.
func (p *testPeer) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = p.Run(ctx) })
	p.stop = func() { cancel(); wg.Wait() }
}

func (p *testPeer) end() {
	if p.stop != nil {
		p.stop()
		p.stop = nil
	}
	if p.Copies != nil {
		_ = p.Copies.Close()
	}
}

// die stops a node and its host.
func (p *testPeer) die() {
	_ = p.host.Close()
	p.end()
}

func (p *testPeer) id() peer.ID { return p.host.ID() }

// testFile is content in the shape of the real one: leaves, and a manifest that names them.
type testFile struct {
	root   cid.Cid
	blocks []blocks.Block // the root last
}

func (f testFile) cids() (out []cid.Cid) {
	for _, b := range f.blocks {
		out = append(out, b.Cid())
	}
	return out
}

func blockOf(data []byte, codec uint64) blocks.Block {
	sum := sha256.Sum256(data)
	hash, err := mh.Encode(sum[:], mh.SHA2_256)
	if err != nil {
		panic(err)
	}
	b, err := blocks.NewBlockWithCid(data, cid.NewCidV1(codec, hash))
	if err != nil {
		panic(err)
	}
	return b
}

func newFile(chunks, size int) testFile {
	var f testFile
	links := []byte("links")
	for range chunks {
		data := make([]byte, size)
		_, _ = rand.Read(data)
		b := blockOf(data, cid.Raw)
		f.blocks = append(f.blocks, b)
		links = append(links, b.Cid().Bytes()...)
	}
	root := blockOf(links, cid.DagCBOR)
	f.root = root.Cid()
	f.blocks = append(f.blocks, root)
	return f
}

func testLinks(b blocks.Block) (out []cid.Cid, err error) {
	if b.Cid().Prefix().Codec == cid.Raw {
		return nil, nil
	}
	rest, ok := bytes.CutPrefix(b.RawData(), []byte("links"))
	if !ok {
		return nil, errors.New("no manifest")
	}
	for len(rest) > 0 {
		n, c, err := cid.CidFromBytes(rest)
		if err != nil {
			return nil, err
		}
		out, rest = append(out, c), rest[n:]
	}
	return out, nil
}

// upload sends a file's blocks; it does not record it.
func (p *testPeer) upload(ctx context.Context, f testFile) (Placed, error) {
	u, err := p.Begin(ctx)
	if err != nil {
		return Placed{}, err
	}
	defer u.Abort()
	for _, b := range f.blocks {
		if err := u.Add(ctx, b); err != nil {
			return Placed{}, err
		}
	}
	return u.Commit(ctx, f.root)
}

func (p *testPeer) record(t testing.TB, placed Placed) {
	t.Helper()
	if err := p.led.Update(t.Context(), func(tx ledgerTx) error { return p.Record(tx, placed) }); err != nil {
		t.Fatal(err)
	}
}

// store uploads and records.
func (p *testPeer) store(t testing.TB, f testFile) Placed {
	t.Helper()
	placed, err := p.upload(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	p.record(t, placed)
	return placed
}

// read fetches a file through the node and compares it.
func (p *testPeer) read(ctx context.Context, f testFile) error {
	i := 0
	for b, err := range p.Blocks(ctx, f.root, f.cids()) {
		if err != nil {
			return err
		}
		if b.Cid() != f.blocks[i].Cid() || !bytes.Equal(b.RawData(), f.blocks[i].RawData()) {
			return fmt.Errorf("block %d is another one", i)
		}
		i++
	}
	if i != len(f.blocks) {
		return fmt.Errorf("%d blocks of %d", i, len(f.blocks))
	}
	return nil
}

func (p *testPeer) holdersOf(t testing.TB, root cid.Cid) (out []peer.ID) {
	t.Helper()
	err := p.led.View(func(tx scanner) (err error) {
		out, err = p.Holders(tx, root)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func (p *testPeer) recordOf(t testing.TB, root cid.Cid) *rootRecord {
	t.Helper()
	var out *rootRecord
	err := p.led.View(func(tx scanner) (err error) {
		out, err = getRecord(tx, root)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (d *memDisk) holds(f testFile) bool {
	for _, b := range f.blocks {
		if !d.Has(b.Cid()) {
			return false
		}
	}
	return true
}

func ids(peers ...*testPeer) (out []peer.ID) {
	for _, p := range peers {
		out = append(out, p.id())
	}
	slices.Sort(out)
	return out
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
