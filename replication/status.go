package replication

import (
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/peer"
)

// ServerStatus is one server as this node sees it.
type ServerStatus struct {
	Server
	Voter  bool
	Live   bool   // the leader alone knows: it answered lately
	Synced uint64 // the leader alone knows: last index in its synced log
	Format uint64 // highest format its program reads; 0 while it has not said so to this node
}

// Status is what one node knows about the ledger.
type Status struct {
	ID        peer.ID
	Site      string
	Leader    peer.ID // empty while none is known
	Term      uint64
	Applied   uint64         // index this copy shows
	Last      uint64         // last index in this node's log
	Entries   uint64         // entries applied since Open
	Servers   []ServerStatus // raft's configuration, sorted by id
	Format    uint64         // active format of the ledger (L9)
	Recovery  uint64         // how often it was recovered (L10)
	Waits     string         // the leader alone knows: why a server cannot be removed yet; "" if none waits
	Quorum    bool           // a majority confirmed this copy lately (Config.SiteLive)
	Confirmed bool           // this copy was confirmed since Open
	// Age is the time since a read index confirmed by the leader was applied here
	// (L4), or since Open while Confirmed is false.
	Age time.Duration
}

// Status reports what this node knows about the ledger now. After Close it is empty.
func (db *DB) Status() Status {
	if db.begin() != nil {
		return Status{ID: db.c.ID, Site: db.c.Site}
	}
	defer db.ops.Done()
	s := Status{
		ID: db.c.ID, Site: db.c.Site, Term: db.raft.CurrentTerm(),
		Applied: db.machine.applied.Load(), Last: db.raft.LastIndex(), Entries: db.machine.entries.Load(),
	}
	s.Format, s.Recovery = db.machine.active().Format, db.kin.lineage().number
	if id, err := db.leaderID(); err == nil {
		s.Leader = id
	}
	s.Waits, _ = db.waits.Load().(string)
	leads := db.raft.State() == raft.Leader
	for _, server := range db.leader.servers() {
		id, err := peer.Decode(string(server.ID))
		if err != nil {
			continue
		}
		one := ServerStatus{Server: Server{ID: id, Site: db.siteOf(string(server.ID))}, Voter: server.Suffrage == raft.Voter}
		one.Format = db.machine.known
		if id != db.c.ID {
			said, _ := db.greeter.saidBy(string(server.ID))
			one.Format = said.Highest
		}
		if leads && id == db.c.ID {
			one.Live, one.Synced = true, s.Last
		} else if leads {
			c := db.leader.heard.get(string(server.ID), s.Term)
			one.Live, one.Synced = time.Since(c.answered) < db.c.SiteLive, c.synced
		}
		s.Servers = append(s.Servers, one)
	}
	slices.SortFunc(s.Servers, func(a, b ServerStatus) int { return strings.Compare(string(a.ID), string(b.ID)) })
	db.ageMu.Lock()
	defer db.ageMu.Unlock()
	since := db.start
	if db.isConfirmed {
		since = db.confirmed
	}
	s.Confirmed, s.Age = db.isConfirmed, time.Since(since)
	s.Quorum = s.Confirmed && s.Age < db.c.SiteLive
	return s
}
