package replication

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
)

// patience bounds every wait of a test; the machine may be loaded.
const patience = 90 * time.Second

// A testLane is a libp2p host whose cables can be cut.
type testLane struct {
	host host.Host

	mu   sync.Mutex
	cut  map[peer.ID]bool
	hush map[peer.ID]bool // dials to it get no answer, not even a refusal
}

func (l *testLane) Handle(name string, fn func(network.Stream)) {
	l.host.SetStreamHandler(protocol.ID("/test/"+name), fn)
}

func (l *testLane) Dial(ctx context.Context, id peer.ID, name string) (network.Stream, error) {
	l.mu.Lock()
	hush := l.hush[id]
	l.mu.Unlock()
	if hush {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return l.host.NewStream(ctx, id, protocol.ID("/test/"+name))
}

func (l *testLane) reaches(id peer.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.cut[id]
}

func (l *testLane) setCut(id peer.ID, cut bool) {
	l.mu.Lock()
	l.cut[id] = cut
	l.mu.Unlock()
	if cut {
		l.host.Network().ClosePeer(id)
	}
}

func (l *testLane) InterceptPeerDial(id peer.ID) bool                               { return l.reaches(id) }
func (l *testLane) InterceptAddrDial(id peer.ID, _ multiaddr.Multiaddr) bool        { return l.reaches(id) }
func (l *testLane) InterceptAccept(network.ConnMultiaddrs) bool                     { return true }
func (l *testLane) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }
func (l *testLane) InterceptSecured(_ network.Direction, id peer.ID, _ network.ConnMultiaddrs) bool {
	return l.reaches(id)
}

func newTestLane(tb testing.TB) *testLane {
	tb.Helper()
	l := &testLane{cut: make(map[peer.ID]bool), hush: make(map[peer.ID]bool)}
	h, err := libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0"), libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(libp2ptls.ID, libp2ptls.New), libp2p.ConnectionGater(l), libp2p.DisableRelay(),
		libp2p.ResourceManager(&network.NullResourceManager{}), libp2p.DisableMetrics())
	if err != nil {
		tb.Fatal(err)
	}
	l.host = h
	tb.Cleanup(func() { h.Close() })
	return l
}

// A member is one node of a test cluster.
type member struct {
	lane *testLane
	conf Config
	db   *DB // nil while stopped
}

func (m *member) id() peer.ID { return m.conf.ID }

// A village is a cluster in this process: real hosts, real raft.
type village struct {
	testing.TB
	members []*member
	dir     string
}

func testLogger(tb testing.TB) *slog.Logger {
	if os.Getenv("LEDGER_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// testConfig is a Config with short times where waiting is not the point.
func testConfig(tb testing.TB, lane *testLane, dir, site string) Config {
	return Config{
		Dir: dir, ID: lane.host.ID(), Site: site, Lane: lane, Logger: testLogger(tb),
		PromoteAfter: 50 * time.Millisecond, WriteTimeout: patience / 3,
	}
}

// newVillage starts a cluster with one node per site given; all of them vote (as
// many as should) when it returns. edit may change each node's Config.
func newVillage(tb testing.TB, edit func(i int, c *Config), sites ...string) *village {
	tb.Helper()
	v := &village{TB: tb, dir: tb.TempDir()}
	for i, site := range sites {
		lane := newTestLane(tb)
		m := &member{lane: lane, conf: testConfig(tb, lane, filepath.Join(v.dir, fmt.Sprint(i)), site)}
		if edit != nil {
			edit(i, &m.conf)
		}
		v.members = append(v.members, m)
	}
	for _, a := range v.members {
		for _, b := range v.members {
			if a != b {
				a.lane.host.Peerstore().AddAddrs(b.id(), b.lane.host.Addrs(), peerstore.PermanentAddrTTL)
			}
		}
	}
	tb.Cleanup(v.close)
	for i, m := range v.members {
		if err := Create(m.conf, i == 0); err != nil {
			tb.Fatal(err)
		}
		v.start(i)
	}
	v.until("all vote", func() bool {
		return v.count(v.members[0].db.Status(), true) == wantVoters(sites) &&
			len(v.members[0].db.Status().Servers) == len(sites)
	})
	format := uint64(formatNow)
	for _, m := range v.members {
		format = min(format, cmp.Or(m.conf.maxFormat, formatNow))
	}
	for _, m := range v.members {
		v.until("the format to be raised", func() bool { return m.db.machine.active().Format == format })
		v.ok(m.db.ReadIndex(v.ctx()))
	}
	return v
}

// strangers greets as a node that has nothing yet.
func strangers(tb testing.TB) *greeter {
	return newGreeter(func() hello { return hello{Lowest: formatFirst, Highest: formatNow, Active: formatFirst, Fresh: true} },
		func(peer.ID, hello) error { return nil }, testLogger(tb))
}

// wantVoters is how many of these servers should vote.
func wantVoters(sites []string) int {
	there := make(map[string]int)
	for _, site := range sites {
		there[site]++
	}
	spread := 0 // votes of five, no site with more than two
	for _, n := range there {
		spread += min(n, 2)
	}
	switch {
	case len(sites) >= 5 && (len(there) < 3 || spread >= 5):
		return 5
	case len(sites) >= 3:
		return 3
	}
	return len(sites)
}

func (v *village) servers() (all []Server) {
	for _, m := range v.members {
		all = append(all, Server{ID: m.id(), Site: m.conf.Site})
	}
	return all
}

func (v *village) start(i int) {
	v.Helper()
	db, err := Open(v.ctx(), v.members[i].conf)
	if err != nil {
		v.Fatal(err)
	}
	db.SetServers(v.servers())
	v.members[i].db = db
}

func (v *village) stop(i int) {
	v.Helper()
	db := v.members[i].db
	v.members[i].db = nil
	v.ok(db.Close())
}

func (v *village) close() {
	for i, m := range v.members {
		if m.db != nil {
			v.stop(i)
		}
	}
}

// cutOff separates node i from all others, in both directions.
func (v *village) cutOff(i int, cut bool) {
	for j, m := range v.members {
		if j != i {
			v.members[i].lane.setCut(m.id(), cut)
			m.lane.setCut(v.members[i].id(), cut)
		}
	}
}

// hush makes node i unheard and deaf, for good: calls to it and its own hang.
func (v *village) hush(i int) {
	quiet := func(m, o *member) {
		m.lane.mu.Lock()
		m.lane.hush[o.id()] = true
		m.lane.mu.Unlock()
		m.lane.host.Network().ClosePeer(o.id())
	}
	for j, m := range v.members {
		if j != i {
			quiet(m, v.members[i])
			quiet(v.members[i], m)
		}
	}
}

func (v *village) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	v.Cleanup(cancel)
	return ctx
}

func (v *village) ok(err error) {
	v.Helper()
	if err != nil {
		v.Fatal(err)
	}
}

// until waits for a condition.
func (v *village) until(what string, cond func() bool) { v.Helper(); until(v, what, cond) }

func until(tb testing.TB, what string, cond func() bool) {
	tb.Helper()
	end := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(end) {
			tb.Fatalf("waited %s in vain: %s", patience, what)
		}
		pause(context.Background(), 5*time.Millisecond)
	}
}

func (v *village) count(s Status, voters bool) (n int) {
	for _, one := range s.Servers {
		if one.Voter == voters {
			n++
		}
	}
	return n
}

// leader returns the number of the node that leads and may answer.
func (v *village) leader() int {
	v.Helper()
	found := -1
	v.until("a leader", func() bool {
		found = slices.IndexFunc(v.members, func(m *member) bool {
			return m.db != nil && m.db.raft.State() == raft.Leader && m.db.leader.confirmed.Load() == m.db.raft.CurrentTerm()
		})
		return found >= 0
	})
	return found
}

// lead makes node i lead.
func (v *village) lead(i int) {
	v.Helper()
	v.until("it to lead", func() bool {
		l := v.leader()
		if l != i {
			id := raft.ServerID(v.members[i].id().String())
			db := v.members[l].db
			db.leader.await(v.ctx(), db.raft.LeadershipTransferToServer(id, raft.ServerAddress(id)))
		}
		return l == i
	})
}

// follower returns a node that does not lead.
func (v *village) follower() int {
	v.Helper()
	return (v.leader() + 1) % len(v.members)
}

func (v *village) put(i int, key, value string) {
	v.Helper()
	v.ok(v.members[i].db.Update(v.ctx(), func(tx *Tx) error {
		tx.Put([]byte(key), []byte(value))
		return nil
	}))
}

func get(db *DB, key string) (value string, ok bool) {
	err := db.View(func(tx *Tx) error {
		var b []byte
		b, ok = tx.Get([]byte(key))
		value = string(b)
		return nil
	})
	return value, ok && err == nil
}

func dump(db *DB) map[string]string {
	all := make(map[string]string)
	db.View(func(tx *Tx) error {
		for k, v := range tx.Scan(nil, nil) {
			all[string(k)] = string(v)
		}
		return nil
	})
	return all
}

// crashableDisk has a durable folder /data.
func crashableDisk(tb testing.TB) *vfs.MemFS {
	mem := vfs.NewCrashableMem()
	if err := mem.MkdirAll("/data", 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := syncDir(mem, "/"); err != nil {
		tb.Fatal(err)
	}
	return mem
}

// one starts a cluster of one node on a crashable file system.
func one(tb testing.TB, edit func(*Config)) (*village, *vfs.MemFS) {
	mem := crashableDisk(tb)
	v := newVillage(tb, func(_ int, c *Config) {
		c.FS, c.Dir = mem, "/data/ledger"
		if edit != nil {
			edit(c)
		}
	}, "berlin")
	return v, mem
}
