package copies

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"
)

// quick makes the loops of a cluster look often.
func quick(cl *testCluster) {
	cl.timing.table, cl.timing.extras = 5*time.Millisecond, 10*time.Millisecond
	cl.timing.retryMin, cl.timing.retryMax = 5*time.Millisecond, 20*time.Millisecond
}

// seats counts a node's seats, and those in which it is in a state.
func (cl *testCluster) seats(t testing.TB, id peer.ID, in SeatState) (all, state int) {
	for _, row := range cl.table(t).Rows {
		if seat, ok := seatOf(row, id); ok {
			all++
			if seat.State == in {
				state++
			}
		}
	}
	return all, state
}

func (p *testPeer) partitionOf(t testing.TB, root cid.Cid) uint16 {
	return p.recordOf(t, root).Partition
}

// isolate cuts a node's cables, or heals them.
func (cl *testCluster) isolate(i int, cut bool) {
	for j, p := range cl.peers {
		if j != i {
			p.lane.cutFrom(cl.peers[i].id(), cut)
			cl.peers[i].lane.cutFrom(p.id(), cut)
		}
	}
}

func (p *testPeer) drained(t testing.TB, id peer.ID) (left int) {
	t.Helper()
	err := p.led.View(func(tx scanner) (err error) {
		left, err = p.Drained(tx, id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// awayCluster has its last node away for as long as it says.
func awayCluster(t *testing.T, wanted int, sites ...string) (*testCluster, *atomic.Int64) {
	cl := newCluster(t, wanted, sites...)
	quick(cl)
	away := new(atomic.Int64)
	lost := cl.peers[len(sites)-1].id()
	cl.away = func(id peer.ID) time.Duration {
		if id == lost {
			return time.Duration(away.Load())
		}
		return 0
	}
	return cl.start(), away
}

// A node that stays away is replaced, from who is left; when it comes back later, the blocks on its
// disk serve without being sent again.
func TestP3_AwayIsReplaced(t *testing.T) {
	t.Parallel()
	cl, away := awayCluster(t, 2, "a", "b", "b")
	lost := cl.peers[2]
	var had []testFile
	for range 40 {
		f := newFile(3, 1000)
		cl.peers[0].store(t, f)
		eventually(t, "all of its row have it", func() bool { return len(cl.peers[0].holdersOf(t, f.root)) == 2 })
		if slices.Contains(cl.peers[0].holdersOf(t, f.root), lost.id()) {
			had = append(had, f)
		}
	}
	cl.isolate(2, true)
	for _, p := range cl.peers[:2] {
		p.run()
	}
	away.Store(int64(10 * time.Minute)) // is the patience, and no more
	looks := make(map[peer.ID]int)
	for range 2 * awayLooks {
		if n := cl.peers[0].present(looks)[2]; n.Away {
			t.Fatal("away before its time")
		}
	}
	if all, held := cl.seats(t, lost.id(), Held); all != held || all == 0 {
		t.Fatalf("%d seats, %d held, before its time", all, held)
	}
	away.Store(int64(10*time.Minute + time.Second))
	for i := range 2 * awayLooks { // who was suspended hears of the others after a few looks
		if n := cl.peers[0].present(looks)[2]; n.Away != (i >= awayLooks-1) {
			t.Fatalf("away %v at look %d", n.Away, i)
		}
	}
	eventually(t, "its seats have ended", func() bool { all, _ := cl.seats(t, lost.id(), Held); return all == 0 })
	for _, f := range had {
		if got := cl.peers[0].holdersOf(t, f.root); !slices.Equal(got, ids(cl.peers[:2]...)) || !cl.peers[1].disk.holds(f) {
			t.Fatalf("holders %v", got)
		}
	}
	if n := cl.peers[0].drained(t, lost.id()); n != 0 {
		t.Errorf("%d roots count on it", n)
	}
	away.Store(0)
	lost.run() // its cables are cut still: it can fetch nothing
	eventually(t, "it has rows again", func() bool { all, _ := cl.seats(t, lost.id(), Held); return all > 1000 })
	again := 0
	for _, f := range had {
		row := func() []Seat { return cl.table(t).Rows[lost.partitionOf(t, f.root)] }
		if _, ok := seatOf(row(), lost.id()); ok {
			again++
			eventually(t, "what it has is enough", func() bool { s, _ := seatOf(row(), lost.id()); return s.State == Held })
		}
	}
	if again == 0 {
		t.Errorf("none of %d roots came back", len(had))
	}
}

// A node that comes back before its successor has everything keeps its rows: nothing moves, but for
// what it missed.
func TestP3_AwayAndBackInTime(t *testing.T) {
	t.Parallel()
	cl, away := awayCluster(t, 2, "a", "b", "b")
	leader, lost := cl.peers[0], cl.peers[2]
	before := cl.table(t)
	f := newFile(3, 1000)
	leader.store(t, f)
	leader.run() // the successor's keeper does not run
	away.Store(int64(time.Hour))
	cl.isolate(2, true)
	seats, _ := cl.seats(t, lost.id(), Held)
	eventually(t, "it leaves", func() bool { _, leaving := cl.seats(t, lost.id(), Leaving); return leaving == seats })
	missed := newFile(3, 1000)
	var placed Placed
	for leaving := false; !leaving; {
		missed = newFile(3, 1000)
		placed = leader.store(t, missed)
		_, leaving = seatOf(cl.table(t).Rows[placed.Partition], lost.id())
	}
	away.Store(0)
	cl.isolate(2, false)
	eventually(t, "it is back", func() bool { _, held := cl.seats(t, lost.id(), Held); return held == seats })
	after := cl.table(t)
	if n := moved(*before, *after); n != 0 || countState(after, Incoming)+countState(after, Leaving) != 0 {
		t.Errorf("%d seats moved, %d incoming", n, countState(after, Incoming))
	}
	if slices.Contains(leader.holdersOf(t, missed.root), lost.id()) {
		t.Error("a holder of what it never got")
	}
	lost.run()
	eventually(t, "it has what it missed", func() bool { return lost.settledAt(t, missed.root)() && lost.disk.holds(missed) })
}

// A drain ends when the others have everything, extra copies too.
func TestP3_Drain(t *testing.T) {
	t.Parallel()
	cl, _ := awayCluster(t, 2, "a", "b", "b")
	going := cl.peers[2]
	var files []testFile
	for i := range 30 {
		if i == 20 { // from here on it stands in where it has no seat
			cl.isolate(1, true)
		}
		f := newFile(3, 1000)
		cl.peers[0].store(t, f)
		files = append(files, f)
	}
	if n := cl.peers[0].drained(t, going.id()); n < 10 {
		t.Fatalf("%d roots count on it", n)
	}
	cl.mu.Lock()
	cl.nodes = slices.Clone(cl.nodes)
	cl.nodes[2].Weight = -1
	cl.mu.Unlock()
	cl.peers[0].run()
	going.run()
	eventually(t, "its seats are leaving", func() bool { all, leaving := cl.seats(t, going.id(), Leaving); return all > 0 && all == leaving })
	if n := cl.peers[0].drained(t, going.id()); n < 10 {
		t.Errorf("%d roots count on it; nobody has fetched anything", n)
	}
	cl.isolate(1, false)
	cl.peers[1].run()
	eventually(t, "nothing counts on it", func() bool { return cl.peers[0].drained(t, going.id()) == 0 })
	for _, f := range files {
		if !cl.peers[0].disk.holds(f) || !cl.peers[1].disk.holds(f) {
			t.Error("a copy is missing, and the node may go")
		}
	}
	if live := going.liveAt(t); len(live) != 0 {
		t.Errorf("it keeps %d roots", len(live))
	}
}

// A seat that is Leaving does not end while a root is not with all who should have it.
func TestP3_LeavingWaitsForEveryRoot(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "b").start()
	leader := cl.peers[0]
	one, two, going := nodeCopy(cl.nodes[0]), nodeCopy(cl.nodes[1]), nodeCopy(cl.nodes[2])
	set := func(row ...Seat) {
		t.Helper()
		slices.SortFunc(row, func(a, b Seat) int { return compareCopies(a.Copy, b.Copy) })
		err := cl.ledger.Update(t.Context(), func(tx ledgerTx) error { rowOf(t, tx, row...); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
	l := newLeaving(leader.Copies)
	end := func() (gone bool) {
		t.Helper()
		if err := l.end(t.Context(), cl.table(t)); err != nil {
			t.Fatal(err)
		}
		_, ok := seatOf(cl.table(t).Rows[5], going.Node)
		return !ok
	}
	for i := range 3 * keeperPage { // Held by all when they were recorded
		set(Seat{one, Held}, Seat{two, Held}, Seat{going, Held})
		leader.record(t, Placed{Root: blockOf([]byte{byte(i), byte(i >> 8), 7}, cid.DagCBOR).Cid(), Partition: 5, Copies: []Copy{one, two, going}})
	}
	late := testRoot(1)
	leader.record(t, Placed{Root: late, Partition: 5, Copies: []Copy{one, going}})
	set(Seat{one, Held}, Seat{two, Incoming}, Seat{going, Leaving})
	if end() {
		t.Fatal("it went while another is incoming")
	}
	set(Seat{one, Held}, Seat{two, Held}, Seat{going, Leaving})
	if end() {
		t.Fatal("it went with one of two copies")
	}
	if l.waits[5] != late {
		t.Errorf("it waits for %v", l.waits[5])
	}
	err := cl.ledger.Update(t.Context(), func(tx ledgerTx) error {
		tx.Delete(missingKey(two.Node, late))
		return found(tx, two.Node, late)
	})
	if err != nil {
		t.Fatal(err)
	}
	cl.mu.Lock()
	cl.nodes[1].Store[0]++
	cl.mu.Unlock()
	if end() {
		t.Fatal("it went, and the other one's disk is new")
	}
	cl.mu.Lock()
	cl.nodes[1].Store[0]--
	cl.mu.Unlock()
	// The table that was looked at is another one by now.
	table := cl.table(t)
	set(Seat{one, Held}, Seat{two, Incoming}, Seat{going, Leaving})
	if err := l.end(t.Context(), table); err != nil {
		t.Fatal(err)
	}
	if _, ok := seatOf(cl.table(t).Rows[5], going.Node); !ok {
		t.Fatal("it went by what was")
	}
	set(Seat{one, Held}, Seat{two, Held}, Seat{going, Leaving})
	if epoch := cl.table(t).Epochs[0]; !end() || cl.table(t).Epochs[0] != epoch {
		t.Error("it stays, or others have to begin anew")
	}
}

func TestP3_ExtrasAreGivenUp(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		row   func(me, one, two Copy) []Seat
		acks  func(me, one, two Copy) []Copy
		away  time.Duration // of two
		want  fate
		fresh bool // this node was wiped since
	}{
		"all seats have it":          {row: func(me, one, two Copy) []Seat { return []Seat{{one, Held}, {two, Held}} }, want: release},
		"one is missing":             {row: func(me, one, two Copy) []Seat { return []Seat{{one, Held}, {two, Held}} }, acks: func(me, one, two Copy) []Copy { return []Copy{me, one} }, want: keep},
		"one is incoming with it":    {row: func(me, one, two Copy) []Seat { return []Seat{{one, Held}, {two, Incoming}} }, want: release},
		"one is away":                {row: func(me, one, two Copy) []Seat { return []Seat{{one, Held}, {two, Held}} }, away: time.Hour, want: keep},
		"one is leaving, without it": {row: func(me, one, two Copy) []Seat { return []Seat{{one, Held}, {two, Leaving}} }, acks: func(me, one, two Copy) []Copy { return []Copy{me, one} }, want: release},
		"incoming here":              {row: func(me, one, two Copy) []Seat { return []Seat{{me, Incoming}, {one, Held}} }, want: keep},
		"leaving here":               {row: func(me, one, two Copy) []Seat { return []Seat{{me, Leaving}, {one, Held}} }, want: keep},
		"wiped since":                {row: func(me, one, two Copy) []Seat { return []Seat{{one, Held}, {two, Held}} }, acks: func(me, one, two Copy) []Copy { return []Copy{me, one} }, want: unmark, fresh: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 2, "a", "b", "b")
			cl.away = func(id peer.ID) time.Duration {
				if id == cl.peers[2].id() {
					return tc.away
				}
				return 0
			}
			cl.start()
			p := cl.peers[0]
			me, one, two := nodeCopy(cl.nodes[0]), nodeCopy(cl.nodes[1]), nodeCopy(cl.nodes[2])
			acks := []Copy{me, one, two}
			if tc.acks != nil {
				acks = tc.acks(me, one, two)
			}
			row := tc.row(me, one, two)
			slices.SortFunc(row, func(a, b Seat) int { return compareCopies(a.Copy, b.Copy) })
			root := testRoot(1)
			err := cl.ledger.Update(t.Context(), func(tx ledgerTx) error {
				rowOf(t, tx, row...)
				return p.Record(tx, Placed{Root: root, Partition: 5, Copies: acks})
			})
			if err != nil {
				t.Fatal(err)
			}
			if tc.fresh {
				p.disk.set(func(d *memDisk) { d.id[0]++ })
			}
			var got fate
			err = p.led.View(func(tx scanner) (err error) { got, err = p.fate(tx, root); return err })
			if got != tc.want || err != nil {
				t.Fatalf("got %v, %v, want %v", got, err, tc.want)
			}
			if err := p.yield(t.Context(), root); err != nil {
				t.Fatal(err)
			}
			rec := p.recordOf(t, root)
			if _, listed := cl.ledger.data[string(extraKey(p.id(), root))]; listed != (tc.want == keep) || slices.Contains(rec.extra(), me) != listed || rec.misses(p.id()) != (tc.want == release) {
				t.Errorf("%v: listed %v, record %+v", tc.want, listed, rec)
			}
		})
	}
}

// A node that was extra and has its seat now is a holder once, and a key without a record goes.
func TestP3_ExtraThatGotASeat(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	p := cl.peers[0]
	me, one := nodeCopy(cl.nodes[0]), nodeCopy(cl.nodes[1])
	root, none := testRoot(1), testRoot(2)
	err := cl.ledger.Update(t.Context(), func(tx ledgerTx) error {
		tx.Put(extraKey(p.id(), none), present)
		rowOf(t, tx, Seat{one, Held})
		if err := p.Record(tx, Placed{Root: root, Partition: 5, Copies: []Copy{me}}); err != nil {
			return err
		}
		row := []Seat{{me, Held}, {one, Held}}
		slices.SortFunc(row, func(a, b Seat) int { return compareCopies(a.Copy, b.Copy) })
		rowOf(t, tx, row...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []cid.Cid{root, none} {
		if err := p.yield(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if rec := p.recordOf(t, root); len(rec.Extra) != 0 || rec.misses(p.id()) || !slices.Equal(p.holdersOf(t, root), []peer.ID{p.id()}) {
		t.Errorf("record %+v", rec)
	}
	if keys := cl.ledger.keysOf(none); len(keys) != 0 {
		t.Errorf("left: %v", keys)
	}
}

// What only a node that drains has as an extra copy is fetched before the rest.
func TestP3_ExtrasOfWhoGoesComeFirst(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "b")
	cl.start()
	here, late, going := cl.peers[0], cl.peers[1], cl.peers[2]
	one, two, three := nodeCopy(cl.nodes[0]), nodeCopy(cl.nodes[1]), nodeCopy(cl.nodes[2])
	cl.nodes[2].Weight = -1
	var files []testFile
	for i := range 12 {
		f := newFile(1, 100)
		for _, p := range []*testPeer{here, going} {
			p.disk.set(func(d *memDisk) {
				for _, b := range f.blocks {
					d.kept[b.Cid()] = b
				}
			})
		}
		copies := []Copy{one}
		if i == 7 {
			copies = append(copies, three)
		}
		err := cl.ledger.Update(t.Context(), func(tx ledgerTx) error {
			row := []Seat{{one, Held}, {two, Held}}
			slices.SortFunc(row, func(a, b Seat) int { return compareCopies(a.Copy, b.Copy) })
			rowOf(t, tx, row...)
			return here.Record(tx, Placed{Root: f.root, Partition: 5, Copies: copies})
		})
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	k := newKeeper(late.Copies)
	if err := k.tendExtras(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		if got := late.settledAt(t, f.root)(); got != (i == 7) {
			t.Errorf("root %d: a holder %v", i, got)
		}
	}
}

// More copies are made when the policy rises, and what is too much goes when it falls.
func TestP3_PolicyRisesAndFalls(t *testing.T) {
	t.Parallel()
	cl, _ := awayCluster(t, 2, "a", "b", "b")
	var files []testFile
	for range 10 {
		f := newFile(2, 1000)
		cl.peers[0].store(t, f)
		files = append(files, f)
	}
	for _, p := range cl.peers {
		p.run()
	}
	for _, wanted := range []int{3, 1, 2} {
		cl.wanted.Store(int32(wanted))
		eventually(t, fmt.Sprintf("%d copies", wanted), func() bool {
			table := cl.table(t)
			if countState(table, Incoming)+countState(table, Leaving) > 0 {
				return false
			}
			for _, f := range files {
				if len(cl.peers[0].holdersOf(t, f.root)) != wanted {
					return false
				}
			}
			return true
		})
		for _, f := range files {
			for _, p := range cl.peers {
				if slices.Contains(cl.peers[0].holdersOf(t, f.root), p.id()) && !p.disk.holds(f) {
					t.Error("a holder without blocks")
				}
			}
		}
	}
}

func TestConfigWanted(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a").start()
	c := cl.peers[0].cfg
	for name, tc := range map[string]struct {
		wanted func() int
		ack    int
		want   int // 0: refused
	}{
		"default":         {nil, 0, 3},
		"default, by ack": {nil, 5, 5},
		"zero":            {func() int { return 0 }, 2, 3},
		"two":             {func() int { return 2 }, 2, 2},
		"less than ack":   {func() int { return 1 }, 2, 0},
		"negative":        {func() int { return -1 }, 0, 0},
	} {
		c.Wanted, c.Ack = tc.wanted, tc.ack
		if err := c.Validate(); (err == nil) != (tc.want > 0) || err == nil && c.wanted() != tc.want {
			t.Errorf("%s: %d, %v", name, c.wanted(), err)
		}
	}
	c.Patience = -1
	if err := c.Validate(); err == nil || errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}
