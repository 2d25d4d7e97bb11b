package copies

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/libp2p/go-libp2p/core/peer"
)

// epochStore is a store's epoch, and what it saw of the ledger's at each SetEpoch.
type epochStore struct {
	epoch uint32
	seen  func() uint32
	saw   []uint32
	fail  error
}

func (s *epochStore) Epoch() uint32 { return s.epoch }

func (s *epochStore) SetEpoch(epoch uint32) error {
	if s.fail != nil {
		return s.fail
	}
	if s.seen != nil {
		s.saw = append(s.saw, s.seen())
	}
	s.epoch = max(s.epoch, epoch)
	return nil
}

func (p *testPeer) beginEpochs(t testing.TB, n int) {
	t.Helper()
	s := &epochStore{}
	s.epoch, _ = p.epochHere()
	for range n {
		if _, err := p.BeginEpoch(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

// The store begins an epoch before the ledger says so; with a store that fell behind it takes two.
func TestT6_BeginEpoch(t *testing.T) {
	t.Parallel()
	boom := errors.New("input/output error")
	for name, tc := range map[string]struct {
		store, ledger uint32
		want          uint32
		saw           []uint32 // the ledger's epoch at each SetEpoch
	}{
		"first":                   {0, 0, 1, []uint32{0}},
		"next":                    {7, 7, 8, []uint32{7}},
		"the ledger did not hear": {8, 7, 8, []uint32{7}},
		"wiped":                   {0, 7, 9, []uint32{7, 8}},
		"behind by one":           {6, 7, 9, []uint32{7, 8}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 1, "a").start()
			p := cl.peers[0]
			p.beginEpochs(t, int(tc.ledger))
			s := &epochStore{epoch: tc.store, seen: func() uint32 { e, _ := p.epochHere(); return e }}
			got, err := p.BeginEpoch(t.Context(), s)
			if diff := cmp.Diff(tc.saw, s.saw); got != tc.want || err != nil || diff != "" {
				t.Errorf("got %d, %v, want %d; saw %s", got, err, tc.want, diff)
			}
			if e, _ := p.epochHere(); e != tc.want || s.epoch < tc.want {
				t.Errorf("ledger %d, store %d", e, s.epoch)
			}
			// Failed, and failed but happened: nothing may be freed, and trying again is safe.
			s.fail = boom
			if _, err := p.BeginEpoch(t.Context(), s); !errors.Is(err, boom) {
				t.Errorf("got %v", err)
			}
			s.fail = nil
			for _, happens := range []bool{false, true} {
				cl.ledger.set(func(l *memLedger) { l.refuse, l.happens = boom, happens })
				if _, err := p.BeginEpoch(t.Context(), s); !errors.Is(err, boom) {
					t.Errorf("got %v", err)
				}
				cl.ledger.set(func(l *memLedger) { l.refuse = nil })
			}
			if got, err := p.BeginEpoch(t.Context(), s); got != tc.want+2 || err != nil {
				t.Errorf("after failures: %d, %v", got, err)
			}
		})
	}
	if _, err := epochOf(memTx{map[string][]byte{string(epochKey("me")): {}}}, "me"); err == nil {
		t.Error("an empty epoch was read")
	}
}

// A node's copy of the ledger may be behind: the epoch that counts is the one of the transaction.
func TestT6_BeginEpochOnAnOldCopy(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a")
	turned := &turnedLedger{ledger: cl.ledger}
	cl.led = func(int) ledger { return turned }
	cl.start()
	p := cl.peers[0]
	p.beginEpochs(t, 3)
	s := &epochStore{epoch: 3}
	turned.turn = func() { p.beginEpochs(t, 2) } // of a run before, applied late
	if got, err := p.BeginEpoch(t.Context(), s); got != 7 || err != nil {
		t.Errorf("got %d, %v: blocks of epochs 3 and 4 may be on their way", got, err)
	}
}

func TestT6_RecordCountsOnlyWhatCannotBeCollected(t *testing.T) {
	t.Parallel()
	nodes := testNodes("a", "b", "b")
	all := []Copy{nodeCopy(nodes[0]), nodeCopy(nodes[1]), nodeCopy(nodes[2])}
	for name, tc := range map[string]struct {
		now  [3]uint32 // the uploader read 5, 5 and none
		copy []Copy
		need int
		want []Copy
	}{
		"none began":                     {[3]uint32{5, 5, 0}, all, 2, all},
		"each began one":                 {[3]uint32{6, 6, 1}, all, 2, all},
		"one began two":                  {[3]uint32{5, 5, 2}, all, 2, all[:2]},
		"one began many":                 {[3]uint32{5, 500, 0}, all, 2, []Copy{all[0], all[2]}},
		"one of two began two":           {[3]uint32{7, 5, 0}, all[:2], 2, nil},
		"two began two":                  {[3]uint32{7, 7, 0}, all, 2, nil},
		"one copy is enough":             {[3]uint32{7, 7, 0}, all, 1, all[2:]},
		"what is left is at one site":    {[3]uint32{7, 5, 0}, all, 2, nil},
		"they were at one site":          {[3]uint32{7, 5, 0}, all[1:], 2, all[1:]},
		"an old copy read a later epoch": {[3]uint32{4, 5, 0}, all, 2, all},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &Copies{cfg: Config{Nodes: func() []Node { return nodes }}}
			tx := memTx{make(map[string][]byte)}
			rowOf(t, tx, Seat{all[0], Held}, Seat{all[1], Held}, Seat{all[2], Held})
			for i, e := range tc.now {
				if e > 0 {
					tx.Put(epochKey(nodes[i].ID), []byte{byte(e)}) // as a uvarint
				}
				if e > 127 {
					tx.Put(epochKey(nodes[i].ID), []byte{byte(e) | 128, byte(e >> 7)})
				}
			}
			err := s.Record(tx, Placed{
				Root: testRoot(1), Partition: 5, Copies: tc.copy, need: tc.need,
				sites:  map[peer.ID]string{nodes[0].ID: "a", nodes[1].ID: "b", nodes[2].ID: "b"},
				epochs: map[peer.ID]uint32{nodes[0].ID: 5, nodes[1].ID: 5},
			})
			if tc.want == nil {
				if _, ok := tx.Get(rootKey(testRoot(1))); !errors.Is(err, ErrLapsed) || !errors.Is(err, ErrNotDurable) || ok {
					t.Errorf("got %v, recorded %v", err, ok)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var want []peer.ID
			for _, c := range tc.want {
				want = append(want, c.Node)
			}
			got, err := s.Holders(tx, testRoot(1))
			slices.Sort(got)
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
				t.Error(diff, err)
			}
			for _, c := range all {
				if _, told := tx.Get(missingKey(c.Node, testRoot(1))); told == slices.Contains(tc.want, c) {
					t.Errorf("%s is to fetch it: %v", c.Node, told)
				}
			}
		})
	}
}

// An upload may take as many epochs of a node as it likes, for what was pushed is touched at its end; from
// then on it has two to be recorded.
func TestT6_UploadOverCollections(t *testing.T) {
	t.Parallel()
	for _, began := range []int{0, 1, 2} {
		t.Run(fmt.Sprint(began), func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 3, "a", "b").start()
			here, there := cl.peers[0], cl.peers[1]
			there.beginEpochs(t, 3)
			u, err := here.Begin(t.Context())
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
			there.beginEpochs(t, 4)
			placed, err := u.Commit(t.Context(), f.root)
			if err != nil {
				t.Fatal(err)
			}
			there.beginEpochs(t, began)
			err = here.led.Update(t.Context(), func(tx ledgerTx) error { return here.Record(tx, placed) })
			if began < 2 && err != nil || began == 2 && !errors.Is(err, ErrLapsed) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// What was pushed here and collected before anything referred to it is no copy, although this process
// remembers that it was durable.
func TestT6_KeeperLooksAgainAfterCollections(t *testing.T) {
	t.Parallel()
	for name, whole := range map[string]bool{"listed": false, "a whole row": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cl := newCluster(t, 3, "a", "b", "b").start()
			here, there, late := cl.peers[0], cl.peers[1], cl.peers[2]
			f := newFile(3, 1000)
			placed, err := here.upload(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "all have it", func() bool { return late.acked.has(f.root) && there.disk.holds(f) && here.disk.holds(f) })
			late.beginEpochs(t, 2)
			late.disk.set(func(d *memDisk) { clear(d.kept) }) // its collection
			placed.Copies = slices.DeleteFunc(placed.Copies, func(c Copy) bool { return c.Node == late.id() })
			placed.need = 1
			here.record(t, placed)
			if err := newKeeper(late.Copies).heal(t.Context(), f.root, whole); err != nil {
				t.Fatal(err)
			}
			if !late.disk.holds(f) || !late.settledAt(t, f.root)() {
				t.Error("taken for a holder by what was")
			}
		})
	}
}

// Two collections between the keeper's fetch and its word: the root stays on the list.
func TestT6_KeeperRecordsNothingOverCollections(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b")
	turned := &turnedLedger{ledger: cl.ledger}
	cl.led = func(i int) ledger {
		if i == 1 {
			return turned
		}
		return cl.ledger
	}
	cl.ack = 1
	cl.start()
	here, late := cl.peers[0], cl.peers[1]
	late.lane.cutFrom(here.id(), false)
	f := newFile(2, 1000)
	batch := here.disk.newBatch(false)
	for _, b := range f.blocks {
		_ = batch.Add(t.Context(), b)
	}
	if err := batch.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	here.record(t, Placed{Root: f.root, Partition: 7, Copies: []Copy{{here.id(), here.disk.ID()}}})
	turned.turn = func() { late.beginEpochs(t, 2) }
	k := newKeeper(late.Copies)
	if err := k.heal(t.Context(), f.root, false); !errors.Is(err, errLater) || late.settledAt(t, f.root)() {
		t.Errorf("got %v", err)
	}
	if err := k.heal(t.Context(), f.root, false); err != nil || !late.settledAt(t, f.root)() {
		t.Errorf("then: %v", err)
	}
}

var _ EpochStore = (*epochStore)(nil)

func (l *memLedger) set(fn func(l *memLedger)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fn(l)
}

// With a ledger that cannot be read nothing is begun.
func TestT6_BeginWithoutALedger(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 1, "a").start()
	cl.peers[0].led = deafLedger{cl.ledger}
	if _, err := cl.peers[0].BeginEpoch(context.Background(), &epochStore{}); !errors.Is(err, errDeaf) {
		t.Errorf("got %v", err)
	}
}

var errDeaf = errors.New("no ledger here")

type deafLedger struct{ ledger }

func (deafLedger) View(func(tx scanner) error) error { return errDeaf }

// What a slow upload sent first is as fresh as what it sent last, at the peer and here.
func TestT6_SlowUploadsAreTouchedAtTheirEnd(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b").start()
	here, there := cl.peers[0], cl.peers[1]
	u, err := here.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer u.Abort()
	f := newFile(4, 1000)
	for i, b := range f.blocks {
		if err := u.Add(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			eventually(t, "the peer to have the first", func() bool {
				_, err := there.disk.Block(t.Context(), b.Cid())
				return err == nil
			})
			for _, p := range cl.peers {
				if err := p.disk.SetEpoch(5); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if _, err := u.Commit(t.Context(), f.root); err != nil {
		t.Fatal(err)
	}
	for _, p := range cl.peers {
		eventually(t, "all to be durable", func() bool { return p.disk.holds(f) })
		p.disk.set(func(d *memDisk) {
			for _, b := range f.blocks {
				if d.noted[b.Cid()] != 5 {
					t.Errorf("block %s is noted with epoch %d, want 5", b.Cid(), d.noted[b.Cid()])
				}
			}
		})
	}
}
