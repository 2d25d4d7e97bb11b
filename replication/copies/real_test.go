package copies

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"github.com/valise-mail/valise/replication"
)

// realLedgers gives every node of a cluster its own replicated ledger, on hosts of their own.
func realLedgers(t *testing.T, cl *testCluster) []*replication.DB {
	t.Helper()
	var dbs []*replication.DB
	var servers []replication.Server
	for i, p := range cl.peers {
		lane := &hostLane{h: p.host, serve: make(map[string]func(network.Stream))}
		c := replication.Config{Dir: t.TempDir(), ID: p.id(), Site: p.site, Lane: lane, PromoteAfter: 100 * time.Millisecond}
		if err := replication.Create(c, i == 0); err != nil {
			t.Fatal(err)
		}
		db, err := replication.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		dbs = append(dbs, db)
		servers = append(servers, replication.Server{ID: p.id(), Site: p.site})
	}
	for _, db := range dbs {
		db.SetServers(servers)
	}
	eventually(t, "every node has the ledger", func() bool {
		for _, db := range dbs {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := db.ReadIndex(ctx)
			cancel()
			if err != nil {
				return false
			}
		}
		return true
	})
	return dbs
}

// The whole of it on the replicated ledger: the leader's table, an upload through a follower, the
// creating transaction, a keeper on a third node, reading through the first.
func TestP2_OnTheReplicatedLedger(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "b", "b")
	cl.timing.table, cl.timing.retryMin = 20*time.Millisecond, 20*time.Millisecond
	dbs := realLedgers(t, cl)
	cl.led = func(i int) ledger { return dbLedger{dbs[i]} }
	for i, p := range cl.peers {
		cl.open(i)
		p.cfg.Leading = func() bool { return dbs[i].Status().Leader == p.id() }
		p.run()
	}
	sender, late := cl.peers[1], cl.peers[2]
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	sender.lane.cutFrom(late.id(), true)
	f := newFile(12, 100<<10)
	placed, err := sender.upload(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	if want := ids(cl.peers[0], sender); !slices.Equal(acksOf(placed), want) {
		t.Fatalf("acknowledged by %v, want %v", acksOf(placed), want)
	}
	mine := errors.New("the caller's own")
	if err := dbs[1].Update(ctx, func(tx *replication.Tx) error {
		_ = sender.Record(tx, placed)
		return mine
	}); !errors.Is(err, mine) {
		t.Fatal(err)
	}
	if err := dbs[1].Update(ctx, func(tx *replication.Tx) error { return sender.Record(tx, placed) }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the third node fetches it from the first", func() bool {
		return slices.Contains(sender.holdersOf(t, f.root), late.id())
	})
	if !late.disk.holds(f) {
		t.Error("a holder without blocks")
	}
	for _, p := range cl.peers {
		if err := p.read(ctx, f); err != nil {
			t.Error(err)
		}
	}
}
