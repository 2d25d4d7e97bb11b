package replication

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

// A copy in contact with the majority stays young; one that is cut off grows old,
// says so, and its reads go on. A beating heart is no proof: heartbeats carry no
// commit index.
func TestL4_Age(t *testing.T) {
	t.Parallel()
	v := newVillage(t, func(_ int, c *Config) { c.SiteLive = 2 * time.Second }, "berlin", "paris", "rome")
	f := v.follower()
	db := v.members[f].db
	young := func() bool { s := db.Status(); return s.Confirmed && s.Quorum && s.Age < time.Second }
	v.until("a young copy", young)
	v.put(f, "a", "1")
	v.cutOff(f, true)
	v.until("an old copy", func() bool { s := db.Status(); return s.Age > 3*time.Second && !s.Quorum })
	if value, ok := get(db, "a"); !ok || value != "1" {
		t.Errorf("reads do not go on: %q", value)
	}
	l := v.leader()
	if s := v.members[l].db.Status(); s.Leader != v.members[l].id() || len(s.Servers) != 3 || s.Term == 0 {
		t.Errorf("the leader's status: %+v", s)
	}
	v.until("the leader to see that it is away", func() bool {
		for _, s := range v.members[v.leader()].db.Status().Servers {
			if s.ID == v.members[f].id() {
				return !s.Live
			}
		}
		return false
	})
	v.cutOff(f, false)
	v.until("a young copy again", young)
}

// A leader that only non-voters still follow must not give read indexes: their
// answers are no majority.
func TestL4_NonVotersConfirmNothing(t *testing.T) {
	t.Parallel()
	v := newVillage(t, func(_ int, c *Config) { c.WriteTimeout = 4 * time.Second },
		"berlin", "paris", "rome", "rome")
	// While sites are being evened out there may be a fourth vote for a moment.
	var l, spare int
	v.until("votes at three sites, and one without", func() bool {
		l, spare = v.leader(), -1
		status := v.members[l].db.Status()
		sites := make(map[string]bool)
		for _, s := range status.Servers {
			if s.Voter {
				sites[s.Site] = true
			} else {
				spare = slices.IndexFunc(v.members, func(m *member) bool { return m.id() == s.ID })
			}
		}
		return spare >= 0 && len(sites) == 3 && v.count(status, true) == 3
	})
	db := v.members[l].db
	heard := db.leader.heard
	term := db.raft.CurrentTerm()
	// Only the non-voter is heard from now on: what the voters said is as of before.
	for i := range v.members {
		if i != l && i != spare {
			v.members[l].lane.setCut(v.members[i].id(), true)
			v.members[i].lane.setCut(v.members[l].id(), true)
		}
	}
	asked := time.Now()
	v.until("the non-voter to answer, or the leader to step down", func() bool {
		return heard.get(v.members[spare].id().String(), term).confirmed.After(asked) || db.raft.State() != raft.Leader
	})
	if _, err := db.leader.readIndex(v.ctx(), false); err == nil {
		t.Error("a leader without a majority gave a read index")
	}
}

// Followers show a commit with nothing behind it at once, not after raft's
// CommitTimeout: the leader's empty entry brings it.
func TestL3_EmptyEntryFollows(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	l := v.leader()
	db := v.members[l].db
	v.put(l, "a", "1")
	index := db.leader.newest.Load()
	v.until("an empty entry behind it", func() bool {
		var e raft.Log
		return db.log.GetLog(index+1, &e) == nil && e.Type == raft.LogCommand && len(e.Data) == len(entryHeader(0))
	})
	for i, m := range v.members {
		v.until("the followers to show it", func() bool { return m.db.machine.applied.Load() >= index })
		if _, ok := get(m.db, "a"); !ok {
			t.Errorf("node %d does not show it", i)
		}
	}
	// One is enough: an idle cluster appends nothing.
	last := db.raft.LastIndex()
	for range 3 {
		v.ok(db.ReadIndex(v.ctx()))
	}
	if now := db.raft.LastIndex(); now > last+1 {
		t.Errorf("an idle log went from %d to %d", last, now)
	}
}

// The leader dies after the commit and before its answer: the change happened once,
// and the Update that waits for it learns so from its own copy.
func TestL2_LeaderDiesBeforeItsAnswer(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin", "paris", "rome")
	l := v.leader()
	f := (l + 1) % 3
	lead, db := v.members[l], v.members[f].db
	died := make(chan struct{})
	var once sync.Once
	leads := lead.db // also for a stream that comes while it closes
	answer := leads.responder.answer
	lead.lane.Handle(protoLedger, func(s network.Stream) {
		r := &responder{allowed: leads.isServer, greeter: leads.greeter, ctx: leads.ctx, open: make(map[peer.ID]int)}
		r.answer = func(ctx context.Context, from peer.ID, q []byte) (byte, uint64) {
			status, index := answer(ctx, from, q)
			if q[0] == askPropose {
				once.Do(func() {
					leads.layer.kill() // committed and applied; nobody hears of it
					v.cutOff(l, true)
					close(died)
				})
			}
			return status, index
		}
		r.serve(s)
	})
	db.caller.dropIdle(lead.id())
	v.ok(db.Update(v.ctx(), func(tx *Tx) error { tx.Add([]byte("n"), 1); return nil }))
	<-died
	if got, _ := get(db, "n"); got != string(counterBytes(1)) {
		t.Errorf("got %x, want 1", got)
	}
	v.stop(l)
	v.cutOff(l, false)
	v.start(l)
	v.ok(v.members[l].db.ReadIndex(v.ctx()))
	if got, _ := get(v.members[l].db, "n"); got != string(counterBytes(1)) {
		t.Errorf("restarted: got %x, want 1", got)
	}
}

// A new leader gives no read index before an entry of its own term is applied: until
// then it does not know what was committed before it.
func TestL4_NewLeaderIsReadyFirst(t *testing.T) {
	t.Parallel()
	v := newVillage(t, nil, "berlin")
	db := v.members[v.leader()].db
	l := &leader{raft: db.raft, self: db.self, heard: db.leader.heard, log: db.log, machine: db.machine, down: db.fatal.down}
	if _, err := l.readIndex(v.ctx(), false); err == nil {
		t.Error("a read index before an entry of its own")
	}
	l.becomeReady(v.ctx())
	if _, err := l.readIndex(v.ctx(), false); err != nil {
		t.Error(err)
	}
}
