package copies

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/ipfs/go-cid"

	"github.com/valise-mail/valise/replication"
)

// liveAt collects what Live names.
func (p *testPeer) liveAt(t testing.TB) (out map[cid.Cid]bool) {
	t.Helper()
	out = make(map[cid.Cid]bool)
	if err := p.Live(t.Context(), func(root cid.Cid) error { out[root] = true; return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// A seat in any state, or an extra copy of the present store, keeps a root; nothing else does.
func TestT6_Live(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "a").start()
	me := cl.peers[0]
	self, other, third := nodeCopy(cl.nodes[0]), nodeCopy(cl.nodes[1]), nodeCopy(cl.nodes[2])
	wiped := self
	wiped.Store[0]++
	rows := [][]Seat{{{self, Held}, {other, Held}}, {{self, Incoming}, {other, Held}}, {{self, Leaving}, {other, Held}}, {{wiped, Held}, {other, Held}}, {{other, Held}, {third, Held}}}
	roots := make(map[cid.Cid]string)
	table := *cl.table(t)
	err := cl.ledger.Update(t.Context(), func(tx ledgerTx) error {
		for r, row := range rows {
			slices.SortFunc(row, func(a, b Seat) int { return compareCopies(a.Copy, b.Copy) })
			table.Rows[r] = row
		}
		tx.Put(tableKey(0), table.group(0).encode())
		for r, name := range []string{"held", "incoming", "leaving", "wiped", ""} {
			for i := range 600 { // some pages
				f := newFile(0, 0)
				f.root = blockOf([]byte{byte(r), byte(i), byte(i >> 8)}, cid.DagCBOR).Cid()
				roots[f.root] = name
				if err := me.Record(tx, Placed{Root: f.root, Partition: uint16(r), Copies: []Copy{other}}); err != nil {
					return err
				}
			}
		}
		for i, extra := range []Copy{self, wiped, third} {
			root := testRoot(byte(i))
			roots[root] = []string{"extra", "", ""}[i]
			if err := me.Record(tx, Placed{Root: root, Partition: 4, Copies: []Copy{other, extra}}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	live := me.liveAt(t)
	for root, name := range roots {
		if live[root] != (name != "") {
			t.Errorf("live %v, want %q", live[root], name)
		}
	}
	if len(live) != 4*600+1 {
		t.Errorf("%d live", len(live))
	}
	stop := errors.New("stop")
	if err := me.Live(t.Context(), func(cid.Cid) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := me.Live(gone, func(cid.Cid) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// A record that this program does not understand keeps everything.
	cl.ledger.set(func(l *memLedger) { l.data[string(rootKey(testRoot(9)))] = []byte{0xa1, 0x00, 0x01} })
	if err := me.Live(t.Context(), func(cid.Cid) error { return nil }); !errors.Is(err, replication.ErrNewerVersion) {
		t.Errorf("got %v", err)
	}
}

func (l *memLedger) keysOf(root cid.Cid) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key := range l.data {
		if strings.HasSuffix(key, string(root.Bytes())) {
			out = append(out, key[:2])
		}
	}
	slices.Sort(out)
	return out
}

func (p *testPeer) forget(t testing.TB, root cid.Cid) {
	t.Helper()
	if err := p.led.Update(t.Context(), func(tx ledgerTx) error { return p.Forget(tx, root) }); err != nil {
		t.Fatal(err)
	}
}

// Forget leaves no key behind, whatever nodes the record names, and may come again.
func TestForget(t *testing.T) {
	t.Parallel()
	cl := newCluster(t, 2, "a", "b", "a", "b").start()
	p := cl.peers[0]
	partition := uint16(7)
	placed := Placed{Root: testRoot(1), Partition: partition}
	for _, n := range cl.members() {
		if seat, ok := seatOf(cl.table(t).Rows[partition], n.ID); !ok || !slices.Contains(placed.Copies, seat.Copy) && len(placed.Copies) == 0 {
			placed.Copies = append(placed.Copies, nodeCopy(n))
		}
	}
	p.record(t, placed)
	if diff := cmp.Diff([]string{"cm", "cp", "cr", "cx"}, slices.Compact(p.cl.ledger.keysOf(placed.Root))); diff != "" {
		t.Fatal(diff)
	}
	for range 2 {
		p.forget(t, placed.Root)
		if diff := cmp.Diff([]string{}, cl.ledger.keysOf(placed.Root), cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
	}
	if err := p.led.View(func(tx scanner) error { _, err := p.Holders(tx, placed.Root); return err }); !errors.Is(err, ErrNotRecorded) {
		t.Errorf("got %v", err)
	}
	p.record(t, placed) // anew
	if got := p.holdersOf(t, placed.Root); len(got) != len(placed.Copies) {
		t.Errorf("holders %v", got)
	}
}

// A root forgotten under the keeper's hands is nobody's any more: not listed, not recorded, not live.
func TestForgetUnderTheKeeper(t *testing.T) {
	t.Parallel()
	for name, again := range map[string]bool{"for good": false, "and recorded anew": true} {
		t.Run(name, func(t *testing.T) {
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
			here, late := cl.peers[0], cl.peers[1]
			f := newFile(2, 1000)
			placed, err := here.upload(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			placed.Copies = []Copy{{here.id(), here.disk.ID()}}
			placed.need = 1
			here.record(t, placed)
			turned.turn = func() {
				here.forget(t, f.root)
				if again {
					here.record(t, placed)
				}
			}
			k := newKeeper(late.Copies)
			if err := k.heal(t.Context(), f.root, false); err != nil {
				t.Fatal(err)
			}
			if again {
				if !late.settledAt(t, f.root)() || !late.disk.holds(f) {
					t.Error("recorded anew, fetched, and no holder")
				}
				return
			}
			if keys := cl.ledger.keysOf(f.root); len(keys) > 0 || late.liveAt(t)[f.root] {
				t.Errorf("left: %v", keys)
			}
			if err := late.Release(t.Context(), f.root); err != nil {
				t.Errorf("garbage cannot be released: %v", err)
			}
			if err := k.heal(t.Context(), f.root, true); err != nil {
				t.Errorf("a row with it: %v", err)
			}
			// A reader that was given the root before may go on with what is there.
			if err := here.read(t.Context(), f); err != nil {
				t.Error(err)
			}
		})
	}
}
