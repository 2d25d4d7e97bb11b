package copies

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/libp2p/go-libp2p/core/peer"
)

func acksOf(p Placed) (out []peer.ID) {
	for _, c := range p.Copies {
		out = append(out, c.Node)
	}
	slices.Sort(out)
	return out
}

func TestP1_OneNodeKeepsItsOwnCopy(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a").start()
	f := newFile(5, 1000)
	placed := cl.peers[0].store(t, f)
	if !slices.Equal(acksOf(placed), ids(cl.peers[0])) || !cl.peers[0].disk.holds(f) {
		t.Errorf("placed %v", placed)
	}
	if got := cl.peers[0].holdersOf(t, f.root); !slices.Equal(got, ids(cl.peers[0])) {
		t.Errorf("holders %v", got)
	}
}

func TestP3_TwoCopiesAtTwoSitesAreDurableBeforeCommitReturns(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "a", "b").start()
	for _, p := range cl.peers {
		f := newFile(12, 300<<10)
		placed := p.store(t, f)
		sites := make(map[string]bool)
		for _, other := range cl.peers {
			if slices.Contains(acksOf(placed), other.id()) {
				sites[other.site] = true
				if !other.disk.holds(f) {
					t.Errorf("%s acknowledged what it does not hold", other.id())
				}
			}
		}
		if len(placed.Copies) != 2 || len(sites) != 2 {
			t.Errorf("placed at %v, sites %v", acksOf(placed), sites)
		}
		if got := p.holdersOf(t, f.root); !slices.Equal(got, acksOf(placed)) {
			t.Errorf("holders %v, acknowledged %v", got, acksOf(placed))
		}
		if n := len(p.recordOf(t, f.root).Missing); n != 0 {
			t.Errorf("%d missing", n)
		}
	}
}

// A node that holds nothing of the row caches what it uploads, and is no copy.
func TestP1_UploaderOutsideTheRowOnlyCaches(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "a")
	cl.nodes[2].Weight = -1
	cl.start()
	f := newFile(3, 1000)
	placed := cl.peers[2].store(t, f)
	if !slices.Equal(acksOf(placed), ids(cl.peers[0], cl.peers[1])) {
		t.Errorf("acknowledged by %v", acksOf(placed))
	}
	eventually(t, "it is cached", func() bool { _, err := cl.peers[2].disk.Block(t.Context(), f.root); return err == nil })
	if cl.peers[2].disk.Has(f.root) {
		t.Error("kept outside the row")
	}
}

func TestP2_DeadPeerIsMissing(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "b", "b").start()
	cl.peers[2].die()
	f := newFile(3, 1000)
	placed := cl.peers[0].store(t, f)
	if want := ids(cl.peers[0], cl.peers[1]); !slices.Equal(acksOf(placed), want) {
		t.Fatalf("acknowledged by %v", acksOf(placed))
	}
	if rec := cl.peers[0].recordOf(t, f.root); !rec.misses(cl.peers[2].id()) || len(rec.Missing) != 1 {
		t.Errorf("missing %x", rec.Missing)
	}
	if _, ok := cl.ledger.data[string(missingKey(cl.peers[2].id(), f.root))]; !ok {
		t.Error("the dead node will not learn what it misses")
	}
}

// A peer that does not even refuse costs at most the dial time-out, and nothing where the blocks fit
// on the tape.
func TestP1_SilentPeerDoesNotStallAnUpload(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "b", "b")
	cl.timing.dial = time.Second
	cl.start()
	silent := make(chan struct{})
	t.Cleanup(func() { close(silent) })
	mute := cl.peers[2].lane
	mute.h.SetStreamHandler(testProtocol(pushProtocol), nopStream(silent))
	f := newFile(24, 1<<20) // three times the tape
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	placed, err := cl.peers[0].upload(ctx, f)
	if err != nil {
		t.Fatal(err)
	}
	if want := ids(cl.peers[0], cl.peers[1]); !slices.Equal(acksOf(placed), want) {
		t.Errorf("acknowledged by %v", acksOf(placed))
	}
}

func TestP3_NotDurable(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(cl *testCluster)
		want  error
	}{
		"both others dead": {func(cl *testCluster) {
			cl.peers[1].die()
			cl.peers[2].die()
		}, ErrNotDurable},
		"both others' disks fail": {func(cl *testCluster) {
			for _, p := range cl.peers[1:] {
				p.disk.set(func(d *memDisk) { d.syncErr = errors.New("input/output error") })
			}
		}, ErrNotDurable},
		"both others are full": {func(cl *testCluster) {
			for _, p := range cl.peers[1:] {
				p.disk.set(func(d *memDisk) { d.room = 1500 })
			}
		}, ErrNoSpace},
		"one is full, one is dead": {func(cl *testCluster) {
			cl.peers[1].disk.set(func(d *memDisk) { d.room = 0 })
			cl.peers[2].die()
		}, ErrNoSpace},
		"this one and another are full": {func(cl *testCluster) {
			for _, p := range cl.peers[:2] {
				p.disk.set(func(d *memDisk) { d.room = 1500 })
			}
		}, ErrNoSpace},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 3, "a", "b", "b").start()
			c.spoil(cl)
			if placed, err := cl.peers[0].upload(t.Context(), newFile(4, 1000)); !errors.Is(err, c.want) {
				t.Errorf("got %v, %v, want %v", placed, err, c.want)
			}
		})
	}
}

// This node's own disk may fail as long as others take the copies.
func TestP3_FullHereButNotThere(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "a", "b").start()
	cl.peers[0].disk.set(func(d *memDisk) { d.room = 0 })
	f := newFile(4, 1000)
	placed := cl.peers[0].store(t, f)
	if want := ids(cl.peers[1], cl.peers[2]); !slices.Equal(acksOf(placed), want) {
		t.Errorf("acknowledged by %v", acksOf(placed))
	}
	if rec := cl.peers[0].recordOf(t, f.root); !rec.misses(cl.peers[0].id()) {
		t.Error("the full node is not listed as missing")
	}
}

// Two copies at one site do not do while the other site is live.
func TestP3_SecondSiteAsFarAsLive(t *testing.T) {
	t.Parallel()
	t.Run("live but failing", func(t *testing.T) {
		t.Parallel()
		cl := newCluster(t, 3, "a", "a", "b").start()
		cl.peers[2].disk.set(func(d *memDisk) { d.syncErr = errors.New("input/output error") })
		if _, err := cl.peers[0].upload(t.Context(), newFile(2, 1000)); !errors.Is(err, ErrNotDurable) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("dead", func(t *testing.T) {
		t.Parallel()
		cl := newCluster(t, 3, "a", "a", "b").start()
		cl.peers[2].die()
		placed, err := cl.peers[0].upload(t.Context(), newFile(2, 1000))
		if want := ids(cl.peers[0], cl.peers[1]); err != nil || !slices.Equal(acksOf(placed), want) {
			t.Errorf("got %v, %v", placed, err)
		}
	})
	t.Run("dies at its sync", func(t *testing.T) {
		t.Parallel()
		cl := newCluster(t, 3, "a", "a", "b").start()
		p := cl.peers[2]
		p.disk.set(func(d *memDisk) { d.onAdd = func(blocks.Block) { cl.peers[0].lane.cutFrom(p.id(), true) } })
		placed, err := cl.peers[0].upload(t.Context(), newFile(2, 1000))
		if want := ids(cl.peers[0], cl.peers[1]); err != nil || !slices.Equal(acksOf(placed), want) {
			t.Errorf("got %v, %v", placed, err)
		}
	})
}

// Where the row's node at the other site is dead, a node outside the row stands in: as extra.
func TestP1_StandInOutsideTheRow(t *testing.T) {
	t.Parallel()
	for name, sites := range map[string][]string{
		"for the number of copies": {"a", "b", "a"},
		"for the second site":      {"a", "b", "a", "b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 2, sites...).start()
			for _, row := range cl.table(t).Rows {
				if _, ok := seatOf(row, cl.peers[1].id()); !ok && len(sites) == 3 {
					t.Fatal("the dead node is not in every row")
				}
			}
			cl.peers[1].die()
			want := cl.peers[2]
			if len(sites) == 4 {
				want = cl.peers[3]
			}
			for range 4 {
				f := newFile(12, 1<<20)
				placed := cl.peers[0].store(t, f)
				if !slices.Equal(acksOf(placed), ids(cl.peers[0], want)) {
					t.Errorf("acknowledged by %v", acksOf(placed))
				}
				if got := cl.peers[0].holdersOf(t, f.root); !slices.Equal(got, acksOf(placed)) {
					t.Errorf("holders %v", got)
				}
				if !want.disk.holds(f) {
					t.Error("the stand-in does not hold it")
				}
			}
		})
	}
}

// Enough copies could be made, but all at one site: then, too, another node stands in.
func TestP1_StandInForTheSecondSiteOfALongerRow(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "a", "b", "b").start()
	var table Table
	for r := range table.Rows {
		for _, n := range cl.nodes[:3] {
			table.Rows[r] = append(table.Rows[r], Seat{Copy: nodeCopy(n)})
		}
		slices.SortFunc(table.Rows[r], func(a, b Seat) int { return cmp.Compare(a.Node, b.Node) })
	}
	err := cl.ledger.Update(t.Context(), func(tx ledgerTx) error {
		for g := range tableKeys {
			table.Epochs[g] = 2
			tx.Put(tableKey(g), table.group(g).encode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	cl.peers[2].die()
	f := newFile(12, 1<<20)
	placed := cl.peers[0].store(t, f)
	if !slices.Contains(acksOf(placed), cl.peers[3].id()) || !cl.peers[3].disk.holds(f) {
		t.Errorf("acknowledged by %v: nobody at the other site", acksOf(placed))
	}
}

func (cl *testCluster) table(t testing.TB) *Table {
	t.Helper()
	table, err := cl.peers[0].readTable()
	if err != nil {
		t.Fatal(err)
	}
	return &table
}

// A peer that dies in the middle of a long upload, before its sync, holds nothing and is missing;
// W is still met by the others.
func TestP2_PeerDiesBeforeItsSync(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "b", "b").start()
	dying := cl.peers[2]
	n := 0
	dying.disk.set(func(d *memDisk) {
		d.onAdd = func(blocks.Block) {
			if n++; n == 5 {
				cl.peers[0].lane.cutFrom(dying.id(), true)
			}
		}
	})
	f := newFile(30, 1<<20)
	placed := cl.peers[0].store(t, f)
	if want := ids(cl.peers[0], cl.peers[1]); !slices.Equal(acksOf(placed), want) {
		t.Errorf("acknowledged by %v", acksOf(placed))
	}
	if dying.disk.Has(f.blocks[0].Cid()) {
		t.Error("blocks of a cut push were kept")
	}
}

// A peer whose answer gets lost after its sync holds the blocks; the ledger says missing, which is
// safe, until its keeper finds them there.
func TestP2_PeerDiesAfterItsSync(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "b", "b").start()
	lost := cl.peers[2]
	hang := make(chan struct{})
	lost.disk.set(func(d *memDisk) { d.hang = hang })
	f := newFile(3, 1000)
	placed := cl.peers[0].store(t, f) // W is met without it
	if len(placed.Copies) != 2 {
		t.Fatalf("placed %v", placed)
	}
	cl.peers[0].lane.cutFrom(lost.id(), true)
	lost.lane.cutFrom(cl.peers[0].id(), true)
	close(hang)
	lost.run()
	eventually(t, "its keeper settles it", func() bool { return len(lost.recordOf(t, f.root).Missing) == 0 })
	if !lost.disk.holds(f) {
		t.Error("not missing, but not there")
	}
}

// The uploader may end between a peer's acknowledgement and the record: then the blocks are garbage
// and nothing else.
func TestP2_UnrecordedIsGarbage(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	f := newFile(3, 1000)
	if _, err := cl.peers[0].upload(t.Context(), f); err != nil {
		t.Fatal(err)
	}
	err := cl.ledger.View(func(tx scanner) error {
		_, err := cl.peers[0].Holders(tx, f.root)
		return err
	})
	if !errors.Is(err, ErrNotRecorded) || !cl.peers[1].disk.holds(f) {
		t.Errorf("got %v", err)
	}
	if err := cl.peers[1].Release(t.Context(), f.root); err != nil {
		t.Errorf("garbage cannot be released: %v", err)
	}
}

// A peer that is slower than W others finishes by itself, and takes itself off the missing list.
func TestP4_SlowPeerFinishesInTheBackground(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "b", "b").start()
	slow := cl.peers[2]
	hang := make(chan struct{})
	slow.disk.set(func(d *memDisk) { d.hang = hang })
	slow.run()
	f := newFile(3, 1000)
	placed := cl.peers[0].store(t, f)
	if slices.Contains(acksOf(placed), slow.id()) {
		t.Fatal("acknowledged before its sync")
	}
	if !cl.peers[0].recordOf(t, f.root).misses(slow.id()) {
		t.Fatal("not listed as missing")
	}
	close(hang)
	eventually(t, "it takes itself off the list", func() bool { return len(slow.recordOf(t, f.root).Missing) == 0 })
	if !slow.disk.holds(f) || len(slow.holdersOf(t, f.root)) != 3 {
		t.Error("off the list without the blocks")
	}
}

// An upload given up while its streams wait for more of it leaves nothing running.
func TestUploadAbortWhileStreamsWait(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	u, err := cl.peers[0].Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range newFile(3, 1000).blocks {
		if err := u.Add(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the streams to have sent all there is", func() bool { return u.tape.size() == 0 })
	u.Abort()
	eventually(t, "the streams to end", func() bool { return len(u.lanesNow()) == 0 })
}

func TestUploadAbort(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	u, err := cl.peers[0].Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := newFile(3, 1000)
	for _, b := range f.blocks {
		if err := u.Add(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	u.Abort()
	u.Abort()
	if err := u.Add(t.Context(), f.blocks[0]); err == nil {
		t.Error("Add after Abort")
	}
	if _, err := u.Commit(t.Context(), f.root); err == nil {
		t.Error("Commit after Abort")
	}
	_ = cl.peers[0].Close()
	_ = cl.peers[1].Close()
	for _, p := range cl.peers {
		if p.disk.Has(f.root) {
			t.Error("an aborted upload was kept")
		}
	}
}

func TestUploadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "b", "b").start()
	hang := make(chan struct{})
	defer close(hang)
	for _, p := range cl.peers[1:] {
		p.disk.set(func(d *memDisk) { d.hang = hang })
	}
	ctx, cancel := context.WithCancel(t.Context())
	u, err := cl.peers[0].Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	f := newFile(1, 1000)
	for _, b := range f.blocks {
		if err := u.Add(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if _, err := u.Commit(ctx, f.root); !errors.Is(err, ErrNotDurable) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestBeginWaitsForTheTable(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a")
	cl.open(0)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := cl.peers[0].Begin(ctx); !errors.Is(err, ErrNotDurable) {
		t.Errorf("without a table: %v", err)
	}
	begun := make(chan error)
	go func() {
		u, err := cl.peers[0].Begin(t.Context())
		if err == nil {
			u.Abort()
		}
		begun <- err
	}()
	cl.peers[0].run() // it leads
	if err := <-begun; err != nil {
		t.Error(err)
	}
}

func TestCommitWantsTheRootLast(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a").start()
	f := newFile(2, 100)
	slices.Reverse(f.blocks)
	if _, err := cl.peers[0].upload(t.Context(), f); err == nil {
		t.Error("a root that was not added last was committed")
	}
}

// Right after a join the rows still name the first node alone: an upload waits for the leader.
func TestP1_UploadWaitsForTheTableAfterAJoin(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a").start()
	cl.add("b")
	cl.open(1)
	done := make(chan error, 1)
	var placed Placed
	go func() {
		var err error
		placed, err = cl.peers[0].upload(t.Context(), newFile(2, 1000))
		done <- err
	}()
	cl.start() // the table now has both
	if err := <-done; err != nil || len(placed.Copies) != 2 {
		t.Errorf("got %v, %v", placed, err)
	}
}

// Right after a removal rows still name the node that went: it is no copy to count on.
func TestP1_UploadWaitsForTheTableAfterARemoval(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	cl.add("b")
	cl.open(2)
	cl.mu.Lock()
	cl.nodes = slices.Delete(slices.Clone(cl.nodes), 1, 2) // every row is of this node and the first
	cl.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if u, err := cl.peers[0].Begin(ctx); err == nil {
		u.Abort()
		t.Error("an upload that cannot have its second copy was begun")
	}
	cl.start()
	placed, err := cl.peers[0].upload(t.Context(), newFile(2, 1000))
	if want := ids(cl.peers[0], cl.peers[2]); err != nil || !slices.Equal(acksOf(placed), want) {
		t.Errorf("got %v, %v", placed, err)
	}
}

// An upload that lost a block does not become whole because its caller goes on.
func TestP3_UploadThatLostABlockIsNotCommitted(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a").start()
	u, err := cl.peers[0].Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f := newFile(1, 1000)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	cl.peers[0].disk.set(func(d *memDisk) { d.room = 0 })
	if err := u.Add(gone, f.blocks[0]); err == nil {
		t.Fatal("added without room")
	}
	cl.peers[0].disk.set(func(d *memDisk) { d.room = -1 })
	if err := u.Add(t.Context(), f.blocks[1]); err == nil {
		t.Error("Add after an Add that failed")
	}
	if placed, err := u.Commit(t.Context(), f.root); err == nil {
		t.Errorf("committed without its first block: %v", placed)
	}
}

// A copy acknowledged by a node that was removed or wiped before the last one came does not count.
func TestP3_CopiesOfNodesThatWentDoNotCount(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		change func(nodes []Node) []Node
		want   error
	}{
		"all are there": {func(nodes []Node) []Node { return nodes }, nil},
		"one was removed": {func(nodes []Node) []Node {
			return slices.Delete(nodes, 1, 2)
		}, ErrNotDurable},
		"one was wiped": {func(nodes []Node) []Node {
			nodes[1].Store[0]++
			return nodes
		}, ErrNotDurable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 3, "a", "b", "b")
			cl.ack = 3
			cl.start()
			hang := make(chan struct{})
			cl.peers[2].disk.set(func(d *memDisk) { d.hang = hang })
			u, err := cl.peers[0].Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer u.Abort()
			f := newFile(2, 1000)
			for _, b := range f.blocks {
				if err := u.Add(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
			done := make(chan error, 1)
			go func() { _, err := u.Commit(t.Context(), f.root); done <- err }()
			eventually(t, "two copies are durable", func() bool {
				u.mu.Lock()
				defer u.mu.Unlock()
				return len(u.copies) == 2
			})
			cl.mu.Lock()
			cl.nodes = tc.change(slices.Clone(cl.nodes))
			cl.mu.Unlock()
			close(hang)
			if err := <-done; !errors.Is(err, tc.want) {
				t.Errorf("got %v, want %v", err, tc.want)
			}
		})
	}
}

// A row whose nodes answer is taken where there is one.
func TestP1_RowsWithDeadPeersAreAvoided(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "b").start() // about half of the rows have either of the last two
	cl.peers[0].ranks.failed(cl.peers[1].id())
	for range 20 {
		u, err := cl.peers[0].Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		u.Abort()
		if _, ok := seatOf(cl.table(t).Rows[u.partition], cl.peers[1].id()); ok {
			t.Fatal("a row with the node that failed just now was taken")
		}
	}
}

// A node that is leaving a row gets nothing new.
func TestP1_NothingNewForWhoIsLeaving(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "b").start()
	table := *cl.table(t)
	for r := range table.Rows {
		table.Rows[r] = nil
		for i, state := range []SeatState{Held, Incoming, Leaving} {
			table.Rows[r] = append(table.Rows[r], Seat{nodeCopy(cl.nodes[i]), state})
		}
		slices.SortFunc(table.Rows[r], func(a, b Seat) int { return cmp.Compare(a.Node, b.Node) })
	}
	err := cl.ledger.Update(t.Context(), func(tx ledgerTx) error {
		for g := range tableKeys {
			tx.Put(tableKey(g), table.group(g).encode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	placed := cl.peers[0].store(t, newFile(2, 1000))
	if want := ids(cl.peers[0], cl.peers[1]); !slices.Equal(acksOf(placed), want) {
		t.Errorf("acknowledged by %v", acksOf(placed))
	}
	u, err := cl.peers[0].Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.tried[cl.peers[2].id()] || !u.tried[cl.peers[1].id()] {
		t.Errorf("streams to %v", u.tried)
	}
}

// What is cached of an upload is not cut off when the last peer has ended: it has the time that slower
// peers have.
func TestP1_CacheOfAnUploadOutlivesItsStreams(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "a")
	cl.nodes[2].Weight = -1
	cl.timing.linger = 500 * time.Millisecond
	cl.start()
	hang := make(chan struct{})
	defer close(hang)
	outside := cl.peers[2]
	outside.disk.set(func(d *memDisk) { d.hang = hang })
	f := newFile(3, 1000)
	u, err := outside.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range f.blocks {
		if err := u.Add(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	if _, err := u.Commit(t.Context(), f.root); err != nil {
		t.Fatal(err)
	}
	<-u.ctx.Done()
	if lasted := time.Since(begun); lasted < cl.timing.linger {
		t.Errorf("its cache was cut off after %v", lasted)
	}
}

// This node's own copy is not given up because it is slower than the others'.
func TestP1_OwnSlowCopyIsKept(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "b", "a")
	cl.timing.linger = 20 * time.Millisecond
	cl.start()
	here := cl.peers[0]
	hang := make(chan struct{})
	here.disk.set(func(d *memDisk) { d.hang = hang })
	f := newFile(3, 1000)
	u, err := here.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range f.blocks {
		if err := u.Add(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	placed, err := u.Commit(t.Context(), f.root)
	if err != nil || slices.Contains(acksOf(placed), here.id()) {
		t.Fatal(placed, err)
	}
	here.record(t, placed)
	<-u.ctx.Done() // it does not wait any longer
	close(hang)
	cl.isolate(0, true)
	here.run() // and can fetch nothing
	eventually(t, "its copy counts", here.settledAt(t, f.root))
	if !here.disk.holds(f) {
		t.Error("a holder without blocks")
	}
}
