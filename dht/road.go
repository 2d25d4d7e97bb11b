package dht

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// How often a silent connection is probed, and how long an answer may take.
// The ledger must notice a dead line soon; bulk transfers fill lines for long.
const (
	bulkKeepAlive   = 15 * time.Second
	ledgerKeepAlive = 5 * time.Second
)

// A Road is this node's two hosts, bulk and ledger, behind one gate.
// Its methods may be called concurrently.
type Road struct {
	c            Config
	self         peer.ID
	log          *slog.Logger
	gate         *gate
	bulk, ledger *Lane
	routes       *routes

	force       atomic.Pointer[inForce]
	removed     chan struct{}
	removedOnce sync.Once
	asks        chan peer.ID // peers to exchange lists with

	askingMu sync.Mutex       // guards asking
	asking   map[peer.ID]bool // in asks or under way; true: once more after that

	exchangeWithin time.Duration // membersTimeout, for tests to shorten

	publishing sync.Mutex // held while a list comes into force

	ctx     context.Context // ends with Close; of background work only
	cancel  context.CancelFunc
	working sync.WaitGroup
	closing sync.Once
	closed  error
}

// inForce is the list in force in its signed form. It never changes, but for
// stored.
type inForce struct {
	list   List
	signed []byte
	stored bool // guarded by Road.publishing
}

func (f *inForce) number() uint64 { return f.list.Number }

// errNotStored says that a list is in force but not on disk.
var errNotStored = errors.New("in force, but not stored")

// Open starts both hosts, with the list stored in c.Dir in force; where none is
// stored, the gate admits nobody until Publish. A stored list that is damaged
// is an error with a hint. If Open returns an error, nothing is left running.
func Open(ctx context.Context, c Config) (_ *Road, err error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("open the road: %w", err)
	}
	c = c.withDefaults()
	self, err := peer.IDFromPrivateKey(c.Key)
	if err != nil {
		return nil, fmt.Errorf("open the road: %w", err)
	}
	r := &Road{c: c, self: self, log: c.Logger, removed: make(chan struct{}), asks: make(chan peer.ID, pullQueue), asking: make(map[peer.ID]bool), exchangeWithin: membersTimeout}
	r.gate = &gate{self: self, reach: c.Reach, clock: c.Clock, log: c.Logger}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("open the road: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open the road: %w", err)
	}
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open the road: %w", err), r.Close())
		}
	}()

	// The ledger first: its gate is the narrower one.
	if r.ledger, err = r.openLane("ledger", Member, c.LedgerListen, c.LedgerMemory, ledgerKeepAlive, func(p Peer) []multiaddr.Multiaddr { return p.Ledger }); err != nil {
		return nil, err
	}
	if r.bulk, err = r.openLane("bulk", known, c.BulkListen, c.BulkMemory, bulkKeepAlive, func(p Peer) []multiaddr.Multiaddr { return p.Bulk }); err != nil {
		return nil, err
	}
	if r.routes, err = openRoutes(r); err != nil {
		return nil, err
	}
	r.bulk.Handle(membersProtocol, listReaders, r.serveMembers)
	r.bulk.host.net.Notify(r.greeter(r.bulk, true))
	r.ledger.host.net.Notify(r.greeter(r.ledger, false))
	r.follow(newTable(self, List{}), r.gate.table.Load())
	for range pullWorkers {
		r.working.Go(r.askAround)
	}
	r.working.Go(func() { r.housekeeping(c.Sweep, pullEvery) })
	return r, nil
}

// load puts the stored list in force.
func (r *Road) load() error {
	if err := makeDir(r.c.FS, r.c.Dir); err != nil {
		return fmt.Errorf("make %s: %w", r.c.Dir, err)
	}
	signed, err := readList(r.c.FS, r.c.Dir)
	if err != nil {
		return err
	}
	f := &inForce{signed: signed, stored: true}
	if signed != nil {
		if f.list, err = OpenList(r.c.OrgKey, signed); err != nil {
			return hint(fmt.Errorf("stored list %s: %w", r.c.FS.PathJoin(r.c.Dir, listFile), err),
				"put the list of another node in its place, or remove it: then this node admits nobody until its ledger or a ticket brings a new one")
		}
	}
	r.force.Store(f)
	t := newTable(r.self, f.list)
	r.gate.table.Store(t)
	r.noteRemoval(t)
	return nil
}

func (r *Road) openLane(name string, classes Class, listen []multiaddr.Multiaddr, memory int64, keepAlive time.Duration, addrs func(Peer) []multiaddr.Multiaddr) (*Lane, error) {
	resources, err := newResources(r.gate, memory)
	if err != nil {
		return nil, err
	}
	gate := laneGate{r.gate, name, classes}
	l := &Lane{door: newDoor(resources, gate), prefix: "/valise/" + r.c.ClusterID + "/", addrs: addrs, tried: make(map[peer.ID]time.Time)}
	// QUIC can be dialled wherever it is listened on.
	quic := slices.ContainsFunc(listen, isQUIC)
	l.host, err = newHost(gate, netConfig{key: r.c.Key, resources: l.door, listen: listen, quic: quic, handshake: r.c.HandshakeTimeout, keepAlive: keepAlive})
	if err != nil {
		return nil, fmt.Errorf("%s lane: %w", name, err)
	}
	return l, nil
}

// greeter looks at each new connection: the list may have changed between the
// gate's yes and now, in which case the sweep did not see it. On the bulk lane
// it starts an exchange of lists.
func (r *Road) greeter(l *Lane, exchange bool) network.Notifiee {
	return &network.NotifyBundle{ConnectedF: func(n network.Network, c network.Conn) {
		id := c.RemotePeer()
		if !l.host.gate.admits(id) {
			c.Close()
			return
		}
		if exchange && r.gate.class(id)&listReaders != 0 {
			r.ask(id)
		}
	}}
}

// Bulk is the lane for bytes, lists and joining.
func (r *Road) Bulk() *Lane { return r.bulk }

// Ledger is the lane of the replicated log; only members get through its gate.
func (r *Road) Ledger() *Lane { return r.ledger }

// Self is this node's peer id.
func (r *Road) Self() peer.ID { return r.self }

// Publish puts a signed list in force if it is newer than the one in force:
// the gate decides by it at once, peers no longer admitted are disconnected,
// it is stored durably and served to others. An older or equal one is ignored,
// without an error. One that is not genuine, or another cluster's, is refused
// (ErrBadList, ErrForeign, ErrNewerList). If only storing fails, the list is
// in force and the error says so; Publish the same again to store it.
func (r *Road) Publish(signed []byte) error {
	l, err := OpenList(r.c.OrgKey, signed)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	r.publishing.Lock()
	defer r.publishing.Unlock()
	f := r.force.Load()
	if l.Number == f.number() && !bytes.Equal(signed, f.signed) {
		r.log.Error("two member lists with one number; the first stays in force", "number", l.Number)
	}
	if l.Number > f.number() {
		f = &inForce{list: l, signed: bytes.Clone(signed)}
		before, now := r.gate.table.Load(), newTable(r.self, l)
		r.gate.table.Store(now)
		r.force.Store(f)
		r.follow(before, now)
		r.noteRemoval(now)
		for _, id := range r.listMates() {
			r.ask(id) // who has not heard yet learns it by being asked
		}
		r.log.Info("member list in force", "number", l.Number, "peers", len(l.Peers))
	}
	if f.stored || l.Number < f.number() {
		return nil
	}
	if err := writeList(r.c.FS, r.c.Dir, f.signed); err != nil {
		return fmt.Errorf("publish list %d: %w: %w", f.number(), errNotStored, err)
	}
	f.stored = true
	return nil
}

func (r *Road) follow(before, now *table) {
	r.bulk.follow(before, now)
	r.ledger.follow(before, now)
	r.routes.follow(before, now)
}

func (r *Road) noteRemoval(t *table) {
	if !t.removed {
		return
	}
	r.removedOnce.Do(func() {
		r.log.Error("this node is not in the member list any more; its gate is closed", "number", t.list.Number)
		close(r.removed)
	})
}

// Removed is closed once a list was in force that does not name this node. The
// gate is closed then, for all: a node comes back under a new key, by a ticket.
func (r *Road) Removed() <-chan struct{} { return r.removed }

// Peers returns the list in force; Number 0 means none. The caller must not
// change what its slices hold.
func (r *Road) Peers() List {
	l := r.force.Load().list
	l.Peers = slices.Clone(l.Peers)
	return l
}

// Signed returns the list in force as it was signed, for who joins; nil when
// there is none.
func (r *Road) Signed() []byte { return bytes.Clone(r.force.Load().signed) }

// Connected says of every other peer of the list whether a connection is open,
// on either lane.
func (r *Road) Connected() map[peer.ID]bool {
	m := make(map[peer.ID]bool)
	for id := range r.gate.table.Load().peers {
		if id != r.self {
			m[id] = r.bulk.Connected(id) || r.ledger.Connected(id)
		}
	}
	return m
}

// Status is what a node can say about its road.
type Status struct {
	Number   uint64 // of the list in force; 0: none yet
	Stored   bool   // the list in force is on disk
	Removed  bool   // the list in force does not name this node
	Rejected uint64 // connections the gate refused since Open
	Crowded  uint64 // connections refused before their handshake since Open
}

// Status returns a snapshot for operators.
func (r *Road) Status() Status {
	r.publishing.Lock()
	stored := r.force.Load().stored
	r.publishing.Unlock()
	t := r.gate.table.Load()
	return Status{Number: t.list.Number, Stored: stored, Removed: t.removed, Rejected: r.gate.rejected.Load(),
		Crowded: r.bulk.door.crowded.Load() + r.ledger.door.crowded.Load()}
}

// Disconnect closes all connections to id, on both lanes. Whether either side
// may connect again is the gate's affair (Config.Reach).
func (r *Road) Disconnect(id peer.ID) {
	r.bulk.host.net.ClosePeer(id)
	r.ledger.host.net.ClosePeer(id)
}

// Close ends both hosts and returns when their handlers and this room's own
// goroutines have returned. libp2p ends some of its own a moment later. Closing
// again returns what the first Close did.
func (r *Road) Close() error {
	r.closing.Do(func() {
		r.gate.shut.Store(true)
		r.cancel()
		var errs []error
		if r.routes != nil { // it speaks over the bulk lane
			errs = append(errs, r.routes.close())
		}
		for _, l := range []*Lane{r.bulk, r.ledger} {
			if l != nil {
				errs = append(errs, l.host.Close())
			}
		}
		r.working.Wait()
		if err := errors.Join(errs...); err != nil {
			r.closed = fmt.Errorf("close the road: %w", err)
		}
	})
	return r.closed
}
