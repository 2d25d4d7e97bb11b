package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// Every stream of raft/1 and ledger/1 begins with a hello of both sides, the dialling
// one first. It decides whether the two belong together; nothing else travels before.
const (
	helloKind    byte = 'H'
	helloVersion byte = 1 // the first byte of its content; what follows only ever grows
	maxHello          = 1024
	helloTime         = 10 * time.Second
)

// A hello is a record: fields that a program does not know are passed over.
type hello struct {
	Lowest   uint64 `cbor:"1,keyasint"` // formats of entries this program can read
	Highest  uint64 `cbor:"2,keyasint"`
	Active   uint64 `cbor:"3,keyasint"` // active format, and the program it needs
	Program  string `cbor:"4,keyasint"`
	Recovery uint64 `cbor:"5,keyasint"` // lineage of this copy
	Lineage  []byte `cbor:"6,keyasint,omitempty"`
	Fresh    bool   `cbor:"7,keyasint,omitempty"` // nothing is in this copy yet
}

func (h hello) lineage() lineage { return lineage{h.Recovery, string(h.Lineage)} }

func encodeHello(h hello) ([]byte, error) {
	rec, err := Marshal(h)
	return sealFrame(append(append(frame(helloKind, 1+len(rec)), helloVersion), rec...)), err
}

func decodeHello(body []byte) (h hello, err error) {
	if len(body) < 2 || body[0] != helloKind || body[1] < helloVersion {
		return hello{}, fmt.Errorf("%w: no hello", errFrame)
	}
	err = Unmarshal(body[2:], &h)
	return h, err
}

// A greeter exchanges hellos and remembers what the others said.
type greeter struct {
	own  func() hello
	meet func(id peer.ID, theirs hello) error // nil: the two belong together
	log  *slog.Logger

	files  sync.RWMutex // read-locked by whoever meets; locked to close
	closed bool         // guarded by files: they must not be written any more

	mu      sync.Mutex        // guards the fields below
	said    map[string]hello  // by raft's id; the last of each
	refused map[string]string // why, so that it is logged once
}

func newGreeter(own func() hello, meet func(peer.ID, hello) error, log *slog.Logger) *greeter {
	return &greeter{own: own, meet: meet, log: log, said: make(map[string]hello), refused: make(map[string]string)}
}

// saidBy returns what a server said last.
func (g *greeter) saidBy(id string) (hello, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h, ok := g.said[id]
	return h, ok
}

// dialled greets on a stream that this node opened.
func (g *greeter) dialled(ctx context.Context, s network.Stream) error {
	defer within(ctx, s)()
	if err := g.send(s); err != nil {
		return err
	}
	theirs, err := receiveHello(s)
	if err != nil {
		return err
	}
	return g.met(s.Conn().RemotePeer(), theirs)
}

// accepted greets on a stream that came in. Whoever is refused is told what this node
// is: that is how a copy learns that it was left behind, or is too old.
func (g *greeter) accepted(ctx context.Context, s network.Stream) error {
	defer within(ctx, s)()
	theirs, err := receiveHello(s)
	if err != nil {
		return err
	}
	met := g.met(s.Conn().RemotePeer(), theirs)
	return errors.Join(met, g.send(s))
}

// dismissed answers a peer that is no server: if its copy is of an earlier lineage it
// shall know that nobody waits for it. Anybody else learns nothing.
func (g *greeter) dismissed(ctx context.Context, s network.Stream) {
	own := g.own()
	if own.Recovery == 0 {
		return
	}
	defer within(ctx, s)()
	if theirs, err := receiveHello(s); err == nil && !theirs.Fresh && theirs.lineage().compare(own.lineage()) < 0 {
		if g.send(s) == nil {
			s.CloseWrite()
			receiveHello(s) // until it has read that, or gives up
		}
	}
}

// within bounds a greeting by a deadline and a context; the function returned lifts both.
func within(ctx context.Context, s network.Stream) func() {
	s.SetDeadline(time.Now().Add(helloTime))
	stop := context.AfterFunc(ctx, func() { s.Reset() })
	return func() {
		stop()
		s.SetDeadline(time.Time{})
	}
}

func (g *greeter) send(s network.Stream) error {
	data, err := encodeHello(g.own())
	if err == nil {
		_, err = s.Write(data)
	}
	if err != nil {
		return fmt.Errorf("ledger hello: %w", err)
	}
	return nil
}

func receiveHello(s network.Stream) (hello, error) {
	body, err := readFrame(s, maxHello)
	if err != nil {
		return hello{}, fmt.Errorf("ledger hello: %w", err)
	}
	return decodeHello(body)
}

func (g *greeter) met(id peer.ID, theirs hello) error {
	g.files.RLock()
	defer g.files.RUnlock()
	if g.closed {
		return ErrClosed
	}
	err := g.meet(id, theirs)
	g.mu.Lock()
	defer g.mu.Unlock()
	text := id.String()
	if err == nil {
		g.said[text] = theirs
		delete(g.refused, text)
		return nil
	}
	delete(g.said, text)
	if why := err.Error(); g.refused[text] != why {
		g.refused[text] = why
		g.log.Warn("ledger stream refused", "peer", id, "err", err)
	}
	return err
}

// close returns when nobody meets anybody any more, and nobody will.
func (g *greeter) close() {
	g.files.Lock()
	defer g.files.Unlock()
	g.closed = true
}

// errOldProgram is what a stream of a program that cannot read the ledger is refused with.
var errOldProgram = errors.New("peer's program cannot read this ledger's format")

// ownHello is what this node says of itself.
func (db *DB) ownHello() hello {
	active, here := db.machine.active(), db.kin.lineage()
	return hello{
		Lowest: formatFirst, Highest: db.machine.known, Active: active.Format, Program: active.Program,
		Recovery: here.number, Lineage: []byte(here.id), Fresh: db.isFresh(),
	}
}

// meet decides whether a peer's ledger and this one belong together. What makes this
// copy useless ends it: the node is to show the error and stop.
func (db *DB) meet(id peer.ID, theirs hello) error {
	if theirs.Fresh && db.hasVote(id) {
		return errWiped
	}
	err := db.kin.meet(theirs.lineage(), theirs.Fresh)
	if err == nil {
		err = raiseRecord{theirs.Active, theirs.Program}.check(db.machine.known)
	}
	if err != nil && !errors.Is(err, errOtherLineage) {
		db.fatal.end(err)
		return err
	}
	if active := db.machine.active().Format; err == nil && (theirs.Highest < active || theirs.Lowest > active) {
		return fmt.Errorf("%w: it reads %d to %d, not %d", errOldProgram, theirs.Lowest, theirs.Highest, active)
	}
	return err
}

// errWiped is what a voter that lost its copy is refused with. raft would let it vote
// for anybody, also for one that lacks what it had acknowledged. Without its vote it may
// come back: a silent voter is replaced, and an empty copy that does not vote is filled.
var errWiped = errors.New("peer has a vote and lost its ledger")

// hasVote says whether a peer is a voter as far as this node knows.
func (db *DB) hasVote(id peer.ID) bool {
	r := db.running.Load()
	return r != nil && slices.ContainsFunc(r.GetConfiguration().Configuration().Servers, func(s raft.Server) bool {
		return s.Suffrage == raft.Voter && string(s.ID) == id.String()
	})
}

// isFresh says whether nothing is in this copy yet: it waits to be added.
func (db *DB) isFresh() bool {
	last, _ := db.log.LastIndex()
	listed, _ := db.snapshots.List()
	return last == 0 && len(listed) == 0 && db.machine.applied.Load() == 0
}
