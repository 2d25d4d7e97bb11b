package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A DB is this node's copy of the ledger. Its methods may be called concurrently.
type DB struct {
	c     Config
	self  string // c.ID as raft writes it
	start time.Time

	folder    *folder
	logDB     *pebble.DB
	log       *logStore
	states    *states
	snapshots *snapshotStore
	machine   *machine
	fatal     *fatal
	kin       *kinship
	greeter   *greeter

	layer     *streamLayer
	transport *transport
	raft      *raft.Raft
	running   atomic.Pointer[raft.Raft] // the same, for its own goroutines
	leader    *leader
	caller    *caller
	responder *responder
	proposer  *proposer
	reads     reader
	applied   indexWait
	watchers  watchers
	led       atomic.Pointer[ledBy]
	reruns    atomic.Uint64 // Updates run again after a conflict
	waits     atomic.Value  // string: why a server cannot be removed yet

	ctx    context.Context // ends when the ledger closes or fails
	cancel context.CancelFunc
	loops  sync.WaitGroup // our own goroutines
	ops    sync.WaitGroup // calls being served

	mu      sync.Mutex // guards the fields below
	closed  bool
	done    chan struct{}     // closed at the end of Close
	servers []Server          // as SetServers said
	sites   map[string]string // the same, by raft's id
	wanted  chan struct{}     // buffered: servers changed

	ageMu       sync.Mutex // guards the fields below
	confirmed   time.Time
	isConfirmed bool
}

// Create makes a new empty ledger in c.Dir, durable on return. With bootstrap it is
// a cluster of this one node; without, it waits to be added by a leader. It refuses
// with ErrExists where one exists; an interrupted Create may be repeated.
func Create(c Config, bootstrap bool) error {
	if c.Dir == "" || c.ID == "" {
		return errors.New("replication: Create needs Config.Dir and Config.ID")
	}
	c = c.withDefaults()
	f := newFatal(c.Logger)
	defer f.unparkAll()
	made := make(chan error, 1)
	fold := &folder{fs: c.FS, dir: c.Dir, cache: c.Cache, fatal: f}
	go func() { made <- fold.create(c.ID, bootstrap) }() // a failing disk parks it
	select {
	case err := <-made:
		return err
	case err := <-f.failed:
		return err
	}
}

// Open starts the ledger in c.Dir. It refuses with ErrNoLedger where none was
// created (L10). If it returns an error, nothing is left running, unless the disk
// failed and Pebble waits for it.
func Open(ctx context.Context, c Config) (*DB, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	db := &DB{c: c, self: c.ID.String(), start: time.Now(), done: make(chan struct{}), wanted: make(chan struct{}, 1)}
	db.ctx, db.cancel = context.WithCancel(context.Background())
	db.fatal = newFatal(c.Logger)
	if err := db.open(); err != nil {
		db.cancel()
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	db.startLoops()
	return db, nil
}

// open opens files and raft. A failing disk parks whoever writes (L11); here nobody
// has a DB to close yet, so open itself lets go of it.
func (db *DB) open() error {
	return db.onDisk(func() error {
		err := db.openFiles()
		if err != nil {
			return err
		}
		if err = db.kin.leftBehind(); err == nil {
			err = db.openRaft()
		}
		if err != nil {
			err = errors.Join(err, db.closeFiles())
		}
		return err
	})
}

// onDisk does what may meet a failing disk, before anybody has a DB to close.
func (db *DB) onDisk(do func() error) error {
	result := make(chan error, 1)
	go func() {
		defer close(result) // parked, then let go: without a result
		result <- do()
	}()
	select {
	case err := <-result:
		return err
	case <-db.fatal.down:
	}
	db.fatal.unparkAll()
	select {
	case err, ended := <-result:
		if ended && err == nil {
			return nil // what failed was not needed to open; Fatal tells of it
		}
		if db.transport != nil {
			db.transport.Close()
		}
		db.abandonFiles()
	case <-time.After(abandonTime): // stuck in Pebble; left behind
	}
	return <-db.fatal.failed
}

// openFiles opens log and state and brings them together. On error all is closed.
func (db *DB) openFiles() (err error) {
	db.folder = &folder{fs: db.c.FS, dir: db.c.Dir, cache: db.c.Cache, fatal: db.fatal}
	current, err := db.folder.current()
	if err != nil {
		return err
	}
	if current == "" {
		return fmt.Errorf("%s: %w", db.c.Dir, ErrNoLedger)
	}
	if err := db.folder.tidy(current); err != nil {
		return err
	}
	if db.logDB, err = db.folder.openLog(); err != nil {
		if errors.Is(err, pebble.ErrDBDoesNotExist) {
			return fmt.Errorf("%s: state without its log: %w", db.c.Dir, ErrNoLedger)
		}
		return fmt.Errorf("log: %w", err)
	}
	st, err := db.folder.openState(current)
	if err != nil {
		return errors.Join(err, db.logDB.Close())
	}
	db.states = newStates(st, db.dropState)
	defer func() {
		if err != nil {
			err = errors.Join(err, db.closeFiles())
		}
	}()
	if db.log, err = newLogStore(db.logDB, db.fatal); err != nil {
		return err
	}
	db.snapshots = &snapshotStore{folder: db.folder, states: db.states, fatal: db.fatal}
	if db.snapshots.meta, err = readSnapshotMeta(st.pdb); err != nil {
		return err
	}
	if m := db.snapshots.meta; m != nil {
		if err := db.log.cutAgainst(m.Index, m.Term); err != nil {
			return err
		}
	}
	incarnation, err := db.log.nextIncarnation()
	if err != nil {
		return err
	}
	db.machine = &machine{
		self: string(db.c.ID), incarnation: incarnation, known: db.c.maxFormat, fatal: db.fatal, states: db.states,
		published: db.published, installed: db.installed, takeInstalled: db.snapshots.takeInstalled,
	}
	if err := db.machine.load(); err != nil {
		return err
	}
	if err := db.checkLogCovers(st); err != nil {
		return err
	}
	if db.kin, err = openKinship(db.log, *db.machine.shown.Load(), db.isFresh); err != nil {
		return err
	}
	db.applied.reached(db.machine.applied.Load())
	db.proposer = newProposer(db.c.ID, incarnation)
	db.proposer.send = db.sendGroup
	return nil
}

// checkLogCovers refuses a state that is ahead of its log: that is synced first, so some
// of it was lost. Where a snapshot emptied the log, it is what the state must not exceed.
func (db *DB) checkLogCovers(st *stateDB) error {
	end, _ := db.log.LastIndex()
	if end == 0 {
		var err error
		if end, err = snapshotCovers(st.pdb); err != nil {
			return err
		}
	}
	if applied := db.machine.applied.Load(); applied > end {
		return fmt.Errorf("%w: state at %d is ahead of the log's end %d", errCorrupt, applied, end)
	}
	return nil
}

// dropState closes a state that nobody reads any more, and removes it if CURRENT
// names another.
func (db *DB) dropState(st *stateDB) {
	if db.fatal.isBroken() {
		return // its locks may be held for ever
	}
	if err := st.pdb.Close(); err != nil {
		db.c.Logger.Warn("closing ledger state", "err", err)
	}
	if current, err := db.folder.current(); err != nil || current == st.name {
		return
	}
	if err := db.c.FS.RemoveAll(db.folder.path(st.name)); err != nil {
		db.c.Logger.Warn("removing old ledger state", "err", err) // the next Open tries again
	}
}

func (db *DB) closeFiles() error {
	if db.fatal.isBroken() {
		return nil
	}
	db.states.close()
	var err error
	if db.snapshots != nil {
		err = db.snapshots.close()
	}
	return errors.Join(err, db.logDB.Close())
}

// abandonTime is how long Close tries to close what has failed.
const abandonTime = 2 * time.Second

// abandonFiles closes the databases of a failed ledger as far as they let it: their
// goroutines may wait for what never comes, and are then left behind.
func (db *DB) abandonFiles() {
	for _, closeOne := range []func(){
		db.states.close, func() { db.states.cur.pdb.Close() }, func() { db.snapshots.close() }, func() { db.logDB.Close() },
	} {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			defer func() { _ = recover() }() // Pebble panics on what it cannot put down
			closeOne()
		}()
		select {
		case <-ended:
		case <-time.After(abandonTime):
		}
	}
}

func (db *DB) openRaft() error {
	db.greeter = newGreeter(db.ownHello, db.meet, db.c.Logger)
	db.layer = newStreamLayer(db.c.ID, db.c.Lane, db.isServer, db.greeter)
	logger := raftLogger{log: db.c.Logger}
	heard := newContacts()
	db.layer.failed = heard.failed
	db.transport = &transport{heard: heard, NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: db.layer, MaxPool: 4, Timeout: 10 * time.Second, Logger: logger,
	})}
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(db.self)
	rc.Logger = logger
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = db.c.Heartbeat, db.c.Heartbeat, db.c.Heartbeat/2
	rc.MaxAppendEntries = 128
	rc.SnapshotThreshold, rc.SnapshotInterval, rc.TrailingLogs = db.c.SnapshotEvery, db.c.SnapshotInterval, db.c.TrailingLogs
	rc.NoSnapshotRestoreOnStart = true // the state on disk covers the snapshot (L6)
	rc.ShutdownOnRemove = false
	rc.NoLegacyTelemetry = true
	r, err := raft.NewRaft(rc, db.machine, &logCache{logStore: db.log}, db.log, db.snapshots, db.transport)
	if err != nil {
		return errors.Join(err, db.transport.Close())
	}
	db.raft = r
	db.running.Store(r)
	db.leader = &leader{
		raft: r, self: db.self, heard: heard, log: db.log, machine: db.machine, down: db.fatal.down,
		siteOf: db.siteOf, siteLive: db.c.SiteLive, handOverTime: 2 * db.c.Heartbeat, nudge: make(chan struct{}, 1),
	}
	db.caller = newCaller(db.c.Lane, db.greeter)
	db.responder = &responder{allowed: db.isServer, greeter: db.greeter, answer: db.leader.answer, ctx: db.ctx, open: make(map[peer.ID]int)}
	db.reads.ask = db.askLeader
	return nil
}

func (db *DB) startLoops() {
	for range senders {
		db.loops.Go(func() { db.proposer.run(db.ctx) })
	}
	db.loops.Go(func() { db.leader.followUp(db.ctx) })
	db.loops.Go(db.getReady)
	db.loops.Go(db.keepServers)
	db.loops.Go(func() { db.keepAge(db.ctx) })
	db.loops.Go(func() { db.keepStateSynced(db.ctx) })
	db.loops.Go(func() {
		select {
		case <-db.fatal.down:
			db.layer.kill() // a node that cannot write must not beat as if it could
			db.cancel()
			db.proposer.close()
		case <-db.ctx.Done():
		}
	})
	db.c.Lane.Handle(protoRaft, func(s network.Stream) { db.layer.serve(s) })
	db.c.Lane.Handle(protoLedger, func(s network.Stream) { db.responder.serve(s) })
}

// getReady makes this node a ready leader whenever it leads.
func (db *DB) getReady() {
	tick := time.NewTicker(db.c.Heartbeat)
	defer tick.Stop()
	for {
		db.leader.becomeReady(db.ctx)
		select {
		case <-db.raft.LeaderCh():
		case <-tick.C:
		case <-db.ctx.Done():
			return
		}
	}
}

// published is told by the machine what became visible.
func (db *DB) published(index uint64, changed []changedKey, mine []settled) {
	db.watchers.changed(changed)
	db.proposer.settledHere(mine)
	db.applied.reached(index)
}

// installed is told by the machine that a snapshot replaced the state.
func (db *DB) installed(index uint64, mine []settled) {
	db.watchers.resetAll()
	db.proposer.settledHere(mine)
	db.applied.reached(index)
}

// begin counts one call; the caller does db.ops.Done.
func (db *DB) begin() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return ErrClosed
	}
	db.ops.Add(1)
	return nil
}

// Fatal yields one error when this copy can no longer be written (L11), and is then
// closed. The node must stop: its own copy answers Views until Close, nothing else.
func (db *DB) Fatal() <-chan error { return db.fatal.failed }

// TransferLeadership hands leadership to another voter; nil if this node does not
// lead any more.
func (db *DB) TransferLeadership(ctx context.Context) error {
	if err := db.begin(); err != nil {
		return err
	}
	defer db.ops.Done()
	if db.raft.State() != raft.Leader {
		return nil
	}
	err := db.leader.handOver(ctx)
	if db.raft.State() != raft.Leader {
		return nil
	}
	if err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	return nil
}

// Close stops the ledger. It waits for running Views and Updates; Updates end with
// ErrUnknown or ErrClosed. Closing again waits for the first Close.
func (db *DB) Close() error {
	db.mu.Lock()
	again := db.closed
	db.closed = true
	db.mu.Unlock()
	if again {
		<-db.done
		return nil
	}
	defer close(db.done)
	// Callers first, so that nothing new comes in; then what carries them out.
	db.cancel()
	db.proposer.close()
	db.caller.close()
	db.ops.Wait()
	// raft before those it answers: where its own goroutine is parked, they wait for it.
	shut := db.raft.Shutdown()
	db.responder.close()
	db.layer.kill()
	db.fatal.unparkAll()
	db.greeter.close()
	if db.fatal.isBroken() {
		db.transport.Close()
		db.abandonFiles()
		return nil
	}
	err := shut.Error()
	db.layer.wait()
	db.loops.Wait()
	db.reads.runs.Wait()
	db.leader.flights.Wait()
	return errors.Join(err, db.closeFiles())
}
