package copies

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"iter"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/valise-mail/valise/replication"
)

func (p *testPeer) settledAt(t testing.TB, root cid.Cid) func() bool {
	return func() bool { return slices.Contains(p.holdersOf(t, root), p.id()) }
}

func TestP3_KeeperFetchesWhatIsMissing(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "b", "b")
	cl.timing.retryMin = 10 * time.Millisecond
	cl.start()
	late := cl.peers[2]
	cl.peers[0].lane.cutFrom(late.id(), true)
	var files []testFile
	for range 10 {
		f := newFile(5, 20_000)
		cl.peers[0].store(t, f)
		files = append(files, f)
	}
	for _, f := range files {
		if late.settledAt(t, f.root)() {
			t.Fatal("a holder without blocks")
		}
	}
	cl.peers[0].lane.cutFrom(late.id(), false)
	late.run()
	for _, f := range files {
		eventually(t, "the keeper fetched it", late.settledAt(t, f.root))
		if !late.disk.holds(f) {
			t.Error("not missing any more, but not there")
		}
	}
	for key := range cl.ledger.data {
		if string(missingKeys(late.id())) == key[:min(len(key), len(missingKeys(late.id())))] {
			t.Errorf("still listed: %x", key)
		}
	}
	for range files {
		<-late.announced
	}
}

// The keeper wakes up for what is recorded while it runs, and goes on trying where nobody can give.
func TestP3_KeeperGoesOnTrying(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 3, "a", "b", "b")
	cl.timing.retryMin, cl.timing.retryMax = 5*time.Millisecond, 20*time.Millisecond
	cl.start()
	late := cl.peers[2]
	late.run()
	for _, p := range cl.peers[:2] {
		p.lane.cutFrom(late.id(), true)
		late.lane.cutFrom(p.id(), true)
	}
	f := newFile(5, 20_000)
	cl.peers[0].store(t, f)
	eventually(t, "it tried", func() bool { return late.log.has("cannot be had yet") })
	cl.ledger.setRefuse(errors.New("no quorum"))
	for _, p := range cl.peers[:2] {
		p.lane.cutFrom(late.id(), false)
		late.lane.cutFrom(p.id(), false)
	}
	eventually(t, "it has the blocks", func() bool { return late.disk.holds(f) })
	if late.settledAt(t, f.root)() {
		t.Error("settled without a ledger")
	}
	cl.ledger.setRefuse(nil)
	eventually(t, "it is recorded", late.settledAt(t, f.root))
}

// A node off the row's list before its blocks are durable would be a holder that a power cut empties.
func TestP2_KeeperRecordsOnlyWhatIsDurable(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b")
	cl.timing.retryMin, cl.timing.retryMax = 5*time.Millisecond, 20*time.Millisecond
	cl.ack = 1
	cl.start()
	late := cl.peers[1]
	late.disk.set(func(d *memDisk) { d.syncErr = errors.New("input/output error") })
	cl.peers[0].cfg.Ack = 1
	f := newFile(2, 1000)
	cl.peers[0].store(t, f)
	late.run()
	eventually(t, "it tried", func() bool { return late.log.has("cannot be had yet") })
	if late.settledAt(t, f.root)() {
		t.Error("recorded although the sync failed")
	}
	late.disk.set(func(d *memDisk) { d.syncErr = nil })
	eventually(t, "it is recorded", late.settledAt(t, f.root))
	if !late.disk.holds(f) {
		t.Error("recorded without blocks")
	}
}

func TestP2_WipedNodeIsRefilled(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b")
	cl.timing.table, cl.timing.retryMin = 10*time.Millisecond, 10*time.Millisecond
	cl.start()
	var files []testFile
	for range 6 {
		f := newFile(3, 10_000)
		cl.peers[0].store(t, f)
		files = append(files, f)
	}
	wiped := cl.peers[1]
	wiped.end()
	wiped.disk = newMemDisk()
	wiped.lane.serve = make(map[string]func(network.Stream))
	cl.mu.Lock()
	cl.nodes[1].Store = wiped.disk.ID()
	cl.mu.Unlock()
	for _, f := range files {
		if got := cl.peers[0].holdersOf(t, f.root); !slices.Equal(got, ids(cl.peers[0])) {
			t.Fatalf("a wiped node holds: %v", got)
		}
	}
	cl.open(1)
	cl.peers[0].run() // it leads, and makes the node incoming
	wiped.run()
	for _, f := range files {
		eventually(t, "it is a holder again", wiped.settledAt(t, f.root))
		if !wiped.disk.holds(f) {
			t.Error("a holder without blocks")
		}
	}
	eventually(t, "no row is incoming", func() bool { return countState(cl.table(t), Incoming) == 0 })
}

func countState(table *Table, state SeatState) (n int) {
	for _, row := range table.Rows {
		for _, s := range row {
			if s.State == state {
				n++
			}
		}
	}
	return n
}

// One node, then a second, then a third: each gets what the rows say, and what was uploaded on the way.
func TestP1_JoinsFillUp(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a")
	cl.timing.table, cl.timing.retryMin = 10*time.Millisecond, 10*time.Millisecond
	cl.start()
	cl.peers[0].run()
	var files []testFile
	put := func() {
		for range 4 {
			f := newFile(3, 10_000)
			cl.peers[0].store(t, f)
			files = append(files, f)
		}
	}
	put()
	for _, site := range []string{"b", "b"} {
		p := cl.add(site)
		cl.open(len(cl.peers) - 1)
		eventually(t, "the leader gives it rows", func() bool {
			seats := 0
			for _, row := range cl.table(t).Rows {
				if _, ok := seatOf(row, p.id()); ok {
					seats++
				}
			}
			return seats > 0
		})
		put() // some of it to incoming nodes
		p.run()
		eventually(t, "every row is settled", func() bool {
			table := cl.table(t)
			return countState(table, Incoming) == 0 && countState(table, Leaving) == 0
		})
		put()
	}
	checkTable(t, *cl.table(t), cl.members(), 2)
	for _, f := range files {
		holders := cl.peers[0].holdersOf(t, f.root)
		if len(holders) < 2 {
			t.Errorf("%d holders", len(holders))
		}
		for _, p := range cl.peers {
			if slices.Contains(holders, p.id()) && !p.disk.holds(f) {
				t.Errorf("%s is a holder without blocks", p.id())
			}
			if err := p.read(t.Context(), f); err != nil {
				t.Error(err)
			}
		}
	}
}

// While a row is changed by the leader, what the keeper has read of it does not count.
func TestP1_ChangedRowIsNotSettled(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b")
	cl.nodes = cl.nodes[:1]
	one := cl.start().table(t)
	cl.nodes = append(cl.nodes, Node{ID: cl.peers[1].id(), Site: "b", Store: cl.peers[1].disk.ID()})
	two, err := cl.peers[0].fitTable(t.Context(), *one, cl.members())
	if err != nil {
		t.Fatal(err)
	}
	k := newKeeper(cl.peers[1].Copies)
	if err := k.settle(t.Context(), 3, two.Epochs[3]-1, []int{3 * rowsPerKey}); err != nil {
		t.Fatal(err)
	}
	if n := countState(cl.table(t), Incoming); n != Partitions {
		t.Errorf("%d rows incoming after a stale settling", n)
	}
	if err := k.settle(t.Context(), 3, two.Epochs[3], []int{3 * rowsPerKey}); err != nil {
		t.Fatal(err)
	}
	if n := countState(cl.table(t), Incoming); n != Partitions-1 {
		t.Errorf("%d rows incoming after one was settled", n)
	}
	// Two leaders at a time: the one with the older table changes nothing.
	if _, err := cl.peers[0].fitTable(t.Context(), *one, cl.members()); !errors.Is(err, errTableMoved) {
		t.Errorf("got %v", err)
	}
}

// More roots than a page, and a node that comes back after missing them all.
func TestP3_KeeperPages(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b")
	cl.timing.retryMin = 10 * time.Millisecond
	cl.start()
	placed := Placed{Partition: 7, Copies: []Copy{{cl.peers[0].id(), cl.peers[0].disk.ID()}}}
	batch := cl.peers[0].disk.newBatch(false)
	var files []testFile
	data := make(map[string][]byte)
	for range 2*keeperPage + 3 {
		f := newFile(0, 0)
		leaf := make([]byte, 20)
		_, _ = rand.Read(leaf)
		b := blockOf(leaf, cid.Raw)
		f.root, f.blocks = b.Cid(), append(f.blocks[:0], b)
		_ = batch.Add(t.Context(), b)
		placed.Root = f.root
		if err := cl.peers[0].Record(memTx{data}, placed); err == nil {
			t.Fatal("recorded without a table")
		}
		files = append(files, f)
	}
	if err := batch.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		placed.Root = f.root
		cl.peers[0].record(t, placed)
	}
	cl.peers[1].run()
	for _, f := range files {
		eventually(t, "fetched", cl.peers[1].settledAt(t, f.root))
	}
}

// A chunk that a file has twice is fetched once.
func TestKeeperUnique(t *testing.T) {
	t.Parallel()
	f := newFile(3, 10)
	ids := append(f.cids(), f.cids()...)
	if got := unique(ids); !slices.Equal(got, f.cids()) {
		t.Errorf("got %v", got)
	}
}

func TestReleaseIsRefusedWhereWanted(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "a").start()
	f := newFile(2, 1000)
	placed := cl.peers[0].store(t, f)
	in, out := cl.peers[0], cl.peers[2]
	if !slices.Contains(acksOf(placed), in.id()) {
		t.Fatal("the uploader has no seat")
	}
	if err := in.Release(t.Context(), f.root); !errors.Is(err, ErrWanted) {
		t.Errorf("a seat's node may delete: %v", err)
	}
	// The third node has no seat: its copy is extra, as after standing in.
	put := func(change func(rec *rootRecord)) {
		t.Helper()
		err := cl.ledger.Update(t.Context(), func(tx ledgerTx) error {
			rec, err := getRecord(tx, f.root)
			if err != nil {
				return err
			}
			change(rec)
			return putRecord(tx, f.root, rec)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if slices.Contains(acksOf(placed), out.id()) {
		t.Fatal("the third node has a seat")
	}
	put(func(rec *rootRecord) {
		rec.addExtra(Copy{out.id(), out.disk.ID()})
		rec.miss(cl.peers[1].id())
	})
	if err := out.Release(t.Context(), f.root); !errors.Is(err, ErrWanted) {
		t.Errorf("an extra copy may go before the row has its own: %v", err)
	}
	put(func(rec *rootRecord) { rec.found(cl.peers[1].id()) })
	out.acked.add(f.root, 0)
	if err := out.Release(t.Context(), f.root); err != nil {
		t.Fatal(err)
	}
	if got := out.holdersOf(t, f.root); !slices.Equal(got, acksOf(placed)) {
		t.Errorf("holders %v", got)
	}
	if rec := out.recordOf(t, f.root); !rec.misses(out.id()) || len(rec.Extra) != 0 {
		t.Errorf("record %+v", rec)
	}
	if out.acked.has(f.root) {
		t.Error("the keeper would still take it for held")
	}
	if err := out.Release(t.Context(), f.root); err != nil {
		t.Errorf("again: %v", err)
	}
}

func TestPageEnds(t *testing.T) {
	t.Parallel()
	tx := memTx{make(map[string][]byte)}
	prefix := missingKeys(peer.ID("me"))
	for range 3 {
		tx.Put(missingKey("me", newFile(0, 0).root), present)
	}
	tx.Put(append(slices.Clone(prefix), "no root"...), present)
	roots, next := page(tx.Scan(prefix, replication.PrefixEnd(prefix)), len(prefix))
	if len(roots) != 1 || next != nil { // the empty manifest is one root
		t.Errorf("%d roots, next %x", len(roots), next)
	}
}

// A turnedLedger changes between what its user has read and the next Update.
type turnedLedger struct {
	ledger
	turn func()
}

func (l *turnedLedger) Update(ctx context.Context, fn func(tx ledgerTx) error) error {
	if turn := l.turn; turn != nil {
		l.turn = nil
		turn()
	}
	return l.ledger.Update(ctx, fn)
}

// A root deleted and recorded again under the keeper's hands stays on its list.
func TestP2_KeeperSeesARootRecordedAnew(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b")
	turned := &turnedLedger{ledger: cl.ledger}
	cl.led = func(i int) ledger {
		if i == 1 {
			return turned
		}
		return cl.ledger
	}
	cl.start()
	holder, late := cl.peers[0], cl.peers[1]
	f := newFile(2, 1000)
	batch := holder.disk.newBatch(false)
	for _, b := range f.blocks {
		_ = batch.Add(t.Context(), b)
	}
	if err := batch.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	placed := Placed{Root: f.root, Partition: 7, Copies: []Copy{{holder.id(), holder.disk.ID()}}}
	turned.turn = func() { holder.record(t, placed) }
	k := newKeeper(late.Copies)
	_ = k.heal(t.Context(), f.root, false) // what it read: the root is not recorded
	if !late.recordOf(t, f.root).misses(late.id()) {
		t.Fatal("taken for a holder without blocks")
	}
	if _, ok := cl.ledger.data[string(missingKey(late.id(), f.root))]; !ok {
		t.Fatal("missing here, and no keeper will ever know")
	}
	if err := k.heal(t.Context(), f.root, false); err != nil || !late.settledAt(t, f.root)() || !late.disk.holds(f) {
		t.Errorf("not healed: %v", err)
	}
}

// A root that failed and is not listed any more is forgotten, or the keeper would wake for it for ever.
func TestKeeperForgetsWhatIsNotListed(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	holder, late := cl.peers[0], cl.peers[1]
	listed, gone, passing := testRoot(1), testRoot(2), testRoot(3)
	holder.record(t, Placed{Root: listed, Partition: 7, Copies: []Copy{{holder.id(), holder.disk.ID()}}})
	k := newKeeper(late.Copies)
	for _, root := range []cid.Cid{listed, gone} {
		k.failed[root] = &attempt{pause: time.Second, next: time.Now()}
	}
	k.seen[passing] = time.Now().Add(-time.Hour)
	k.pass(t.Context())
	if a := k.failed[listed]; a == nil || a.pause != 2*time.Second {
		t.Errorf("the root that is listed and cannot be had: %+v", a)
	}
	if len(k.failed) != 1 || len(k.seen) != 0 {
		t.Errorf("remembered: %d failed, %d seen", len(k.failed), len(k.seen))
	}
}

// What the keeper does itself is no reason to begin again.
func TestKeeperDoesNotWakeItself(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	holder, late := cl.peers[0], cl.peers[1]
	late.lane.cutFrom(holder.id(), true)
	holder.lane.cutFrom(late.id(), true)
	f := newFile(2, 1000)
	batch := late.disk.newBatch(false)
	for _, b := range f.blocks {
		_ = batch.Add(t.Context(), b)
	}
	if err := batch.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	holder.record(t, Placed{Root: f.root, Partition: 7, Copies: []Copy{{holder.id(), holder.disk.ID()}}})
	if err := newKeeper(late.Copies).heal(t.Context(), f.root, false); err != nil || !late.settledAt(t, f.root)() {
		t.Fatalf("not healed: %v", err)
	}
	if len(late.wake) != 0 {
		t.Error("a root that was healed woke the keeper")
	}
}

// A row is settled when all of its roots are here, and not before.
func TestP1_IncomingUntilItHoldsWhatTheRowSays(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b")
	cl.nodes = cl.nodes[:1]
	cl.start()
	f := newFile(2, 1000)
	placed := cl.peers[0].store(t, f)
	newcomer := cl.peers[1]
	cl.mu.Lock()
	cl.nodes = append(cl.nodes, Node{ID: newcomer.id(), Site: "b", Store: newcomer.disk.ID(), Weight: 100})
	cl.mu.Unlock()
	cl.start() // every row has the newcomer as incoming
	state := func() SeatState {
		seat, _ := seatOf(cl.table(t).Rows[placed.Partition], newcomer.id())
		return seat.State
	}
	newcomer.lane.cutFrom(cl.peers[0].id(), true)
	k := newKeeper(newcomer.Copies)
	if err := k.fillRows(t.Context()); err == nil {
		t.Error("filled from nobody")
	}
	if state() != Incoming || countState(cl.table(t), Incoming) != 1 {
		t.Fatalf("state %d; %d rows incoming, want the one that has a root", state(), countState(cl.table(t), Incoming))
	}
	newcomer.lane.cutFrom(cl.peers[0].id(), false)
	clear(k.failed)
	if err := k.fillRows(t.Context()); err != nil || state() != Held || !newcomer.disk.holds(f) {
		t.Errorf("state %d: %v", state(), err)
	}
}

// Only the leader keeps the table (P1).
func TestP1_WhoDoesNotLeadLeavesTheTable(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b")
	cl.timing.table = 5 * time.Millisecond
	cl.start()
	var asked atomic.Int64
	follower := cl.peers[1]
	follower.cfg.Leading = func() bool { asked.Add(1); return false }
	cl.add("b")
	before := cl.table(t).Epoch()
	follower.run()
	eventually(t, "it came to the table some times", func() bool { return asked.Load() > 3 })
	if now := cl.table(t).Epoch(); now != before {
		t.Errorf("epoch %d after %d, without a leader", now, before)
	}
}

// A node that is leaving fetches nothing any more, and does not become a holder by having no need to.
func TestP2_KeeperOfALeavingNodeStaysMissing(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	holder, late := cl.peers[0], cl.peers[1]
	f := newFile(2, 1000)
	batch := holder.disk.newBatch(false)
	for _, b := range f.blocks {
		_ = batch.Add(t.Context(), b)
	}
	if err := batch.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	holder.record(t, Placed{Root: f.root, Partition: 5, Copies: []Copy{{holder.id(), holder.disk.ID()}}})
	err := cl.ledger.Update(t.Context(), func(tx ledgerTx) error {
		row := []Seat{{nodeCopy(cl.nodes[0]), Held}, {nodeCopy(cl.nodes[1]), Leaving}}
		slices.SortFunc(row, func(a, b Seat) int { return cmp.Compare(a.Node, b.Node) })
		rowOf(t, tx, row...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := newKeeper(late.Copies).heal(t.Context(), f.root, false); err != nil {
		t.Fatal(err)
	}
	if late.settledAt(t, f.root)() || !late.recordOf(t, f.root).misses(late.id()) || late.disk.Has(f.root) {
		t.Error("it fetched, or is taken for a holder")
	}
	if _, ok := cl.ledger.data[string(missingKey(late.id(), f.root))]; !ok {
		t.Error("not on its list of what to fetch, if it gets its seat back")
	}
	err = cl.ledger.Update(t.Context(), func(tx ledgerTx) error {
		rowOf(t, tx, Seat{nodeCopy(cl.nodes[0]), Held})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := newKeeper(late.Copies).heal(t.Context(), f.root, false); err != nil {
		t.Fatal(err)
	}
	if _, ok := cl.ledger.data[string(missingKey(late.id(), f.root))]; ok || late.settledAt(t, f.root)() {
		t.Error("still on its list of what to fetch, or taken for a holder, without a seat")
	}
}

// newTree is a file in the shape of a large one: a root over manifests over leaves.
func newTree(manifests, chunks int) testFile {
	var f testFile
	links := []byte("links")
	for range manifests {
		part := newFile(chunks, 100)
		f.blocks = append(f.blocks, part.blocks...)
		links = append(links, part.root.Bytes()...)
	}
	root := blockOf(links, cid.DagCBOR)
	f.root = root.Cid()
	f.blocks = append(f.blocks, root)
	return f
}

// A tree comes manifest by manifest: what is remembered does not grow with the file.
func TestP3_KeeperGoesDepthFirst(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	here, late := cl.peers[0], cl.peers[1]
	f := newTree(5, 70)
	here.disk.set(func(d *memDisk) {
		for _, b := range f.blocks {
			d.kept[b.Cid()] = b
		}
	})
	here.record(t, Placed{Root: f.root, Partition: 7, Copies: []Copy{{here.id(), here.disk.ID()}}})
	var order []cid.Cid
	late.disk.set(func(d *memDisk) { d.onAdd = func(b blocks.Block) { order = append(order, b.Cid()) } })
	if err := newKeeper(late.Copies).heal(t.Context(), f.root, false); err != nil || !late.disk.holds(f) {
		t.Fatal(err)
	}
	want := []cid.Cid{f.root}
	for part := range slices.Chunk(f.blocks[:len(f.blocks)-1], 71) {
		want = append(want, part[70].Cid())
		for _, b := range part[:70] {
			want = append(want, b.Cid())
		}
	}
	if !slices.Equal(order, want) {
		t.Errorf("%d blocks in another order", len(order))
	}
}

// Manifests over manifests without end are refused.
func TestP3_KeeperRefusesDeepTrees(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	here, late := cl.peers[0], cl.peers[1]
	f := newFile(1, 10)
	for range maxDepth {
		top := blockOf(append([]byte("links"), f.root.Bytes()...), cid.DagCBOR)
		f.root, f.blocks = top.Cid(), append(f.blocks, top)
	}
	here.disk.set(func(d *memDisk) {
		for _, b := range f.blocks {
			d.kept[b.Cid()] = b
		}
	})
	here.record(t, Placed{Root: f.root, Partition: 7, Copies: []Copy{{here.id(), here.disk.ID()}}})
	if err := newKeeper(late.Copies).heal(t.Context(), f.root, false); err == nil {
		t.Error("nothing bounds what a walk remembers")
	}
}

// A watch that ends by an error begins again, and says so.
func TestKeeperSaysWhyAWatchEnded(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a")
	cl.timing.retryMin = time.Millisecond
	cl.led = func(int) ledger { return brokenWatch{cl.ledger} }
	cl.start()
	cl.peers[0].run()
	eventually(t, "it is in the log", func() bool { return cl.peers[0].log.has("the watch broke") })
}

type brokenWatch struct{ ledger }

func (brokenWatch) Watch(context.Context, []byte) iter.Seq2[replication.Change, error] {
	return func(yield func(replication.Change, error) bool) {
		yield(replication.Change{}, errors.New("the watch broke"))
	}
}
